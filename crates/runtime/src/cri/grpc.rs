//! A gRPC client over a unix socket: calls with one answer, and calls whose answers are a stream.
//!
//! It is what the CRI and containerd need of gRPC and no more: HTTP/2 by hyper, no compression, no balancing.
//! A connection is made when there is none, so a runtime that was restarted is found by the next call.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use machinery::clock::SharedClock;
use machinery::tasks::Tasks;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;

/// The containerd namespace that everything of the CRI is in.
const NAMESPACE: &str = "k8s.io";
/// The largest message that is taken: the CRI limits what it answers to this, too.
const LARGEST: usize = 16 << 20;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How much later than the other side this one gives up.
const GRACE: Duration = Duration::from_secs(2);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Codes of gRPC that are told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    Unimplemented,
    Unavailable,
    Other(u32),
}

impl From<u32> for Code {
    fn from(number: u32) -> Self {
        match number {
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            12 => Self::Unimplemented,
            14 => Self::Unavailable,
            other => Self::Other(other),
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Status {
    fn unavailable(what: &str, error: impl std::fmt::Display) -> Self {
        Self { code: Code::Unavailable, message: format!("{what}: {error}") }
    }
}

type Result<T> = std::result::Result<T, Status>;

/// The way to a runtime. Connects when it is first used, and again after the connection has ended.
pub(super) struct Channel {
    socket: PathBuf,
    connection: Mutex<Option<SendRequest<Body>>>,
    tasks: Tasks,
    clock: SharedClock,
}

impl Channel {
    pub(super) fn new(socket: PathBuf, tasks: Tasks, clock: SharedClock) -> Self {
        Self { socket, connection: Mutex::new(None), tasks, clock }
    }

    /// Calls `method`, such as `/runtime.v1.RuntimeService/Version`, and returns its one answer.
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A> {
        let late = || Status {
            code: Code::DeadlineExceeded,
            message: format!("{method} was not answered within {deadline:?}"),
        };
        let work = async {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(&format!("{}m", deadline.as_millis())) {
                headers.insert("grpc-timeout", value);
            }
            let frame = encode(request)?;
            let body = futures::stream::once(async move { frame });
            let mut answers = self.open::<A>(method, headers, body).await?;
            let answer = answers.next().await?;
            // The end of the stream has the outcome, which may be a failure even after an answer.
            while answers.next().await?.is_some() {}
            answer.ok_or_else(|| Status::unavailable(method, "it ended without an answer"))
        };
        tokio::select! {
            outcome = work => outcome,
            () = self.clock.after(deadline + GRACE) => Err(late()),
        }
    }

    /// Calls `method` and returns the stream of its answers.
    pub(super) async fn stream<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<Answers<A>> {
        let frame = encode(request)?;
        self.open(method, HeaderMap::new(), futures::stream::once(async move { frame })).await
    }

    /// Calls `method` with a stream of requests, which are sent while answers are read.
    pub(super) async fn exchange<Q, A>(
        &self,
        method: &str,
        headers: HeaderMap,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Answers<A>>
    where
        Q: Message,
        A: Message + Default,
    {
        // A request that is too large ends the stream, and the other side says that something is missing.
        let frames = requests.map(|request| encode(&request)).take_while(|frame| {
            let fine = frame.is_ok();
            async move { fine }
        });
        self.open(method, headers, frames.filter_map(|frame| async move { frame.ok() })).await
    }

    async fn open<A: Message + Default>(
        &self,
        method: &str,
        headers: HeaderMap,
        frames: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Answers<A>> {
        let body = StreamBody::new(frames.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
        let mut request = Request::post(format!("http://localhost{method}"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .header(http::header::USER_AGENT, concat!("cluster/", env!("CARGO_PKG_VERSION")))
            .header("containerd-namespace", NAMESPACE)
            .body(body.boxed_unsync())
            .map_err(|error| Status::unavailable(method, error))?;
        request.headers_mut().extend(headers);
        let mut connection = self.connection().await?;
        // It is sent now. Headers may come only with the first answer, which is waited for by whoever reads it.
        let response = connection.send_request(request);
        let (socket, name) = (self.socket.clone(), method.to_owned());
        let opening = async move {
            let response = response.await.map_err(|error| broken(&socket, &name, &error))?;
            if response.status() != http::StatusCode::OK {
                return Err(Status::unavailable(&name, format!("HTTP status {}", response.status())));
            }
            // An answer of nothing but a failure has it in the headers.
            if let Some(outcome) = outcome(response.headers()) {
                outcome?;
            }
            Ok(response.into_body())
        };
        Ok(Answers {
            method: method.to_owned(),
            opening: Some(opening.boxed()),
            body: None,
            buffer: BytesMut::new(),
            ended: false,
            kind: std::marker::PhantomData,
        })
    }

    async fn connection(&self) -> Result<SendRequest<Body>> {
        let held = self.connection.lock().clone();
        if let Some(connection) = held
            && !connection.is_closed()
        {
            return Ok(connection);
        }
        let failed = |error: String| {
            Status::unavailable(
                &format!("connecting to the container runtime at {}", self.socket.display()),
                error,
            )
        };
        let connecting = async {
            let stream =
                UnixStream::connect(&self.socket).await.map_err(|error| failed(error.to_string()))?;
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .max_frame_size(64 * 1024)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(2 << 20)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| failed(error.to_string()))
        };
        let (sender, connection) = tokio::select! {
            outcome = connecting => outcome?,
            () = self.clock.after(CONNECT) => return Err(failed(format!("no answer within {CONNECT:?}"))),
        };
        let stop = self.tasks.token();
        self.tasks.spawn("gRPC connection", async move {
            tokio::select! {
                // Whoever was calling is told; the next call connects again.
                outcome = connection => if let Err(error) = outcome {
                    tracing::debug!(%error, "a gRPC connection ended");
                },
                () = stop.cancelled() => {}
            }
        });
        // Of two that connect at once the later one's connection is kept; the other ends when it is not used.
        *self.connection.lock() = Some(sender.clone());
        Ok(sender)
    }
}

fn broken(socket: &Path, method: &str, error: &hyper::Error) -> Status {
    use std::error::Error;
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Status::unavailable(&format!("calling {method} at {}", socket.display()), format!("{error}{cause}"))
}

/// The answers to a call, one by one.
pub(super) struct Answers<A> {
    method: String,
    /// Until the headers have come.
    opening: Option<BoxFuture<'static, Result<Incoming>>>,
    body: Option<Incoming>,
    buffer: BytesMut,
    ended: bool,
    kind: std::marker::PhantomData<fn() -> A>,
}

impl<A: Message + Default> Answers<A> {
    /// Returns the next answer, or `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<A>> {
        loop {
            if let Some(message) = decode(&mut self.buffer)? {
                return A::decode(message)
                    .map(Some)
                    .map_err(|error| Status::unavailable(&self.method, format!("a bad answer: {error}")));
            }
            if self.ended {
                return Ok(None);
            }
            if let Some(opening) = &mut self.opening {
                let body = opening.await?;
                self.opening = None;
                self.body = Some(body);
            }
            let frame = match self.body.as_mut() {
                Some(body) => body.frame().await,
                None => None,
            };
            let frame = match frame {
                Some(frame) => frame.map_err(|error| Status::unavailable(&self.method, error))?,
                None => return Err(Status::unavailable(&self.method, "it ended without an outcome")),
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        outcome(&trailers).unwrap_or(Ok(()))?;
                        self.ended = true;
                    }
                }
            }
        }
    }
}

/// Returns a message with its prefix: not compressed, length.
fn encode(message: &impl Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= LARGEST).ok_or_else(|| Status {
        code: Code::Other(8),
        message: format!("a request of {length} bytes is larger than the {LARGEST} that the runtime takes"),
    })?;
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message.encode_raw(&mut bytes);
    Ok(bytes.freeze())
}

/// Takes the first whole message out of `buffer`.
fn decode(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some(prefix) = buffer.get(..5) else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(Status::unavailable("reading an answer", "it is compressed"));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > LARGEST {
        return Err(Status::unavailable(
            "reading an answer",
            format!("it has {length} bytes, more than {LARGEST}"),
        ));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Reads the outcome of a call, if these headers have it.
fn outcome(headers: &HeaderMap) -> Option<Result<()>> {
    let code: u32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    let message = percent_encoding::percent_decode(message).decode_utf8_lossy().into_owned();
    Some(Err(Status { code: code.into(), message }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_cut_out_of_what_has_arrived() {
        let whole = encode(&"hello".to_owned()).unwrap();
        let mut buffer = BytesMut::new();
        for byte in &whole[..whole.len() - 1] {
            buffer.put_u8(*byte);
            assert_eq!(decode(&mut buffer).unwrap(), None);
        }
        buffer.put_u8(whole[whole.len() - 1]);
        buffer.put_slice(&whole);
        for _ in 0..2 {
            let message = decode(&mut buffer).unwrap().unwrap();
            assert_eq!(String::decode(message).unwrap(), "hello");
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_too_large_or_compressed_is_an_error() {
        assert!(decode(&mut BytesMut::from(&[0u8, 0xff, 0, 0, 0][..])).is_err());
        assert!(decode(&mut BytesMut::from(&[1u8, 0, 0, 0, 0][..])).is_err());
        assert!(encode(&vec![0u8; LARGEST + 1]).is_err());
    }

    #[test]
    fn outcomes_are_read_from_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(outcome(&headers), None);
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(outcome(&headers), Some(Ok(())));
        headers.insert("grpc-status", HeaderValue::from_static("5"));
        headers.insert("grpc-message", HeaderValue::from_static("no%20such \"x\""));
        let status = Status { code: Code::NotFound, message: "no such \"x\"".into() };
        assert_eq!(outcome(&headers), Some(Err(status)));
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}
