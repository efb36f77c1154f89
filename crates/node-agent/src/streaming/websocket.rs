//! Several streams in one WebSocket: the first byte of each message is the number of its channel. Base64
//! variants carry text instead of bytes; version 5 can close one channel and leave the others open.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use machinery::tasks::Tasks;
use runtime::Duplex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How much of a channel waits, and the most a message carries.
const BUFFER: usize = 32 * 1024;
/// The channel on which version 5 says that another channel is closed.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Bytes as they are.
    Binary,
    /// A digit for the channel, then base64.
    Base64,
}

/// A WebSocket with its channels.
pub(crate) struct Channels {
    /// The server's end of each channel, until it is taken.
    pub(crate) ends: BTreeMap<u8, DuplexStream>,
    out: mpsc::Sender<Message>,
    sending: TaskTracker,
    stop: CancellationToken,
}

/// Begins to serve `channels` on `transport`.
pub(crate) async fn serve(
    transport: Box<dyn Duplex>,
    encoding: Encoding,
    channels: &[u8],
    tasks: &Tasks,
) -> Channels {
    let socket = WebSocketStream::from_raw_socket(transport, Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(16);
    let (stop, sending) = (tasks.token().child_token(), TaskTracker::new());
    let mut ends = BTreeMap::new();
    let mut inbound: BTreeMap<u8, mpsc::Sender<Bytes>> = BTreeMap::new();
    for channel in channels {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        ends.insert(*channel, theirs);
        let (from_server, to_server) = tokio::io::split(ours);
        let (data, incoming) = mpsc::channel(16);
        inbound.insert(*channel, data);
        tasks.spawn("websocket channel in", until(stop.clone(), feed(incoming, to_server)));
        let token = sending.token();
        let (out, stop, channel) = (out.clone(), stop.clone(), *channel);
        tasks.spawn("websocket channel out", async move {
            until(stop, drain(channel, encoding, from_server, out)).await;
            drop(token);
        });
    }
    tasks.spawn("websocket writer", {
        let stop = stop.clone();
        async move {
            while let Some(message) = messages.recv().await {
                let last = message.is_close();
                if sink.send(message).await.is_err() || last {
                    break;
                }
            }
            sink.close().await.ok();
            stop.cancel();
        }
    });
    tasks.spawn("websocket reader", {
        let stop = stop.clone();
        async move {
            let reading = async {
                while let Some(Ok(message)) = source.next().await {
                    let Some((channel, bytes)) = decode(&message, encoding) else {
                        if message.is_close() {
                            break;
                        }
                        continue;
                    };
                    if channel == CLOSE {
                        // The sender of a channel's data goes, and its reader sees the end.
                        bytes.first().map(|closed| inbound.remove(closed));
                    } else if !bytes.is_empty()
                        && let Some(data) = inbound.get(&channel)
                        && data.send(bytes).await.is_err()
                    {
                        inbound.remove(&channel);
                    }
                }
            };
            until(stop.clone(), reading).await;
            stop.cancel();
        }
    });
    Channels { ends, out, sending, stop }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn feed(mut incoming: mpsc::Receiver<Bytes>, mut to: WriteHalf<DuplexStream>) {
    while let Some(bytes) = incoming.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

async fn drain(
    channel: u8,
    encoding: Encoding,
    mut from: ReadHalf<DuplexStream>,
    out: mpsc::Sender<Message>,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if out.send(encode(channel, &buffer, encoding)).await.is_err() {
            return;
        }
    }
}

fn encode(channel: u8, bytes: &[u8], encoding: Encoding) -> Message {
    match encoding {
        Encoding::Binary => {
            let mut message = BytesMut::with_capacity(bytes.len() + 1);
            message.put_u8(channel);
            message.put_slice(bytes);
            Message::Binary(message.freeze())
        }
        Encoding::Base64 => {
            let mut text = String::with_capacity(bytes.len() * 4 / 3 + 5);
            text.push(char::from(b'0'.wrapping_add(channel)));
            BASE64.encode_string(bytes, &mut text);
            Message::Text(Utf8Bytes::from(text))
        }
    }
}

fn decode(message: &Message, encoding: Encoding) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes.clone(),
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    let (channel, rest) = bytes.split_first()?;
    Some(match encoding {
        Encoding::Binary => (*channel, bytes.slice(1..)),
        Encoding::Base64 => (channel.wrapping_sub(b'0'), Bytes::from(BASE64.decode(rest).ok()?)),
    })
}

impl Channels {
    /// Sends a message at once, ahead of what the channel's end is given later.
    pub(crate) async fn send(&self, channel: u8, bytes: &[u8], encoding: Encoding) {
        if self.out.send(encode(channel, bytes, encoding)).await.is_err() {
            tracing::debug!(channel, "a websocket ended before its first message");
        }
    }

    /// Completes when the connection has ended.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends the connection after what was written is sent. The ends must have been dropped.
    pub(crate) async fn close(mut self) {
        self.ends.clear();
        self.sending.close();
        tokio::select! {
            () = self.sending.wait() => {}
            () = self.stop.cancelled() => {}
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
        if self.out.send(Message::Close(Some(goodbye))).await.is_ok() {
            self.stop.cancelled().await;
        }
    }
}

/// Returns a byte stream that is carried in a WebSocket's binary messages.
pub(crate) async fn tunnel(transport: Box<dyn Duplex>, tasks: &Tasks) -> Box<dyn Duplex> {
    let socket = WebSocketStream::from_raw_socket(transport, Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (mut from_server, mut to_server) = tokio::io::split(ours);
    let stop = tasks.token().child_token();
    tasks.spawn("tunnel in", {
        let stop = stop.clone();
        async move {
            let copy = async {
                while let Some(Ok(message)) = source.next().await {
                    match message {
                        Message::Binary(bytes) if to_server.write_all(&bytes).await.is_err() => break,
                        Message::Close(_) => break,
                        _ => {}
                    }
                }
            };
            until(stop.clone(), copy).await;
            to_server.shutdown().await.ok();
            stop.cancel();
        }
    });
    tasks.spawn("tunnel out", async move {
        let copy = async {
            loop {
                let mut buffer = BytesMut::with_capacity(BUFFER);
                match from_server.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
                if sink.send(Message::Binary(buffer.freeze())).await.is_err() {
                    break;
                }
            }
        };
        until(stop.clone(), copy).await;
        sink.close().await.ok();
        stop.cancel();
    });
    Box::new(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_both_encodings() {
        for encoding in [Encoding::Binary, Encoding::Base64] {
            for bytes in [&b""[..], b"hello", &[0, 255, 1]] {
                let message = encode(3, bytes, encoding);
                assert_eq!(decode(&message, encoding), Some((3, Bytes::copy_from_slice(bytes))));
            }
        }
        assert_eq!(encode(1, b"hi", Encoding::Base64), Message::Text("1aGk=".into()));
    }

    #[tokio::test]
    async fn channels_carry_data_both_ways_and_can_be_closed_alone() {
        let tasks = Tasks::new(CancellationToken::new());
        let (server, client) = tokio::io::duplex(64 * 1024);
        let mut channels = serve(Box::new(server), Encoding::Binary, &[0, 1], &tasks).await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Message::Binary(Bytes::from_static(b"\0in"))).await.unwrap();
        client.send(Message::Binary(Bytes::from_static(&[CLOSE, 0]))).await.unwrap();
        let mut stdin = String::new();
        channels.ends.get_mut(&0).unwrap().read_to_string(&mut stdin).await.unwrap();
        assert_eq!(stdin, "in");
        channels.ends.get_mut(&1).unwrap().write_all(b"out").await.unwrap();
        let reading = async {
            assert_eq!(
                client.next().await.unwrap().unwrap(),
                Message::Binary(Bytes::from_static(b"\x01out"))
            );
            assert!(client.next().await.unwrap().unwrap().is_close());
            client.close(None).await.ok();
        };
        tokio::join!(reading, channels.close());
        tasks.stop().await;
    }
}
