//! Watches over WebSocket: each event is a message of its own, text for JSON and binary for protobuf.

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use api::status::Status;

use crate::body::{Body, BodyError};
use crate::negotiate::Format;
use crate::server::Call;

/// Returns what answers the client's key when it wants a WebSocket.
///
/// # Errors
/// `BadRequest` for a handshake that is none.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Option<HeaderValue>, Status> {
    let websocket =
        headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket || !crate::proxy::wants_upgrade(headers) {
        return Ok(None);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Status::bad_request("the WebSocket version is not supported: it must be 13"));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(Status::bad_request("the WebSocket handshake has no Sec-WebSocket-Key"));
    };
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map(Some).map_err(Status::internal)
}

/// Answers with a WebSocket that carries `frames`.
///
/// # Errors
/// `BadRequest` when the connection is of a kind that cannot become one, such as HTTP/2.
pub(crate) fn answer(
    call: &Call,
    accept: HeaderValue,
    frames: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    format: Format,
) -> Result<Response<Body>, Status> {
    let Some(upgrade) = call.parts.extensions.get::<OnUpgrade>().cloned() else {
        return Err(Status::bad_request("this connection cannot become a WebSocket: use HTTP/1.1"));
    };
    call.server.tasks.spawn("watch over WebSocket", async move {
        match upgrade.await {
            Ok(upgraded) => {
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                if let Err(error) = carry(socket, frames, format).await {
                    tracing::debug!(%error, "a watch over WebSocket ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrading a watch to WebSocket"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Sends each frame until there are no more or the client goes. What the client sends means nothing, but
/// reading it answers its pings and notices its end.
async fn carry(
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    frames: impl Stream<Item = Result<Bytes, BodyError>> + Send,
    format: Format,
) -> Result<(), BodyError> {
    let (mut sink, mut source) = socket.split();
    let mut frames = std::pin::pin!(frames);
    loop {
        tokio::select! {
            frame = frames.next() => match frame {
                Some(frame) => sink.send(message(frame?, format)?).await?,
                None => return Ok(sink.close().await?),
            },
            received = source.next() => match received {
                Some(received) => {
                    if received?.is_close() {
                        return Ok(sink.close().await?);
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

fn message(frame: Bytes, format: Format) -> Result<Message, BodyError> {
    Ok(match format {
        // A message has its own length: the one before the event is left out.
        Format::Protobuf => Message::Binary(frame.slice(4.min(frame.len())..)),
        _ => Message::Text(Utf8Bytes::try_from(frame)?),
    })
}
