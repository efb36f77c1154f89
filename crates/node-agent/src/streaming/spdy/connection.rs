//! One SPDY connection: a task reads its frames and hands each stream the data that is for it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use machinery::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::{Frame, decode, encode};
use super::headers::{Packer, Unpacker};
use runtime::Duplex;

/// How much of a stream waits to be read by the one who serves it, and the most a frame carries.
const BUFFER: usize = 32 * 1024;

/// A stream that the client opened.
pub(crate) struct Stream {
    /// Its headers, names in lower case.
    headers: Vec<(String, String)>,
    /// Its data, both ways. Ending the writing half tells the client that there is no more.
    pub(crate) data: DuplexStream,
}

impl Stream {
    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection whose streams arrive one by one.
pub(crate) struct Connection {
    streams: mpsc::Receiver<Stream>,
    sender: Sender,
    /// What is still to be sent.
    sending: TaskTracker,
    stop: CancellationToken,
}

impl Connection {
    /// Begins to speak SPDY on `transport`.
    pub(crate) fn start(transport: Box<dyn Duplex>, tasks: &Tasks) -> Self {
        let (reading, writing) = tokio::io::split(transport);
        let sender = Sender(Arc::new(Mutex::new(Writing { transport: writing, packer: Packer::new() })));
        let (arrived, streams) = mpsc::channel(32);
        let (stop, sending) = (tasks.token().child_token(), TaskTracker::new());
        tasks.spawn("SPDY connection", {
            let (sender, stop, tasks, sending) =
                (sender.clone(), stop.clone(), tasks.clone(), sending.clone());
            async move {
                let mut reader = Reader {
                    transport: reading,
                    sender,
                    arrived,
                    open: HashMap::new(),
                    unpacker: Unpacker::new(),
                    tasks,
                    sending,
                    stop: stop.clone(),
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    outcome = reader.run() => {
                        if let Err(error) = outcome {
                            tracing::debug!(%error, "SPDY connection ended");
                        }
                    }
                }
                stop.cancel();
            }
        });
        Self { streams, sender, sending, stop }
    }

    /// Returns the next stream that the client opens, or `None` when the connection has ended.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Completes when the connection has ended.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends the connection after what was written is sent. The streams must have been dropped.
    pub(crate) async fn close(self) {
        self.sending.close();
        tokio::select! {
            () = self.sending.wait() => {}
            () = self.stop.cancelled() => {}
        }
        let mut writing = self.sender.0.lock().await;
        if let Err(error) = writing.transport.shutdown().await {
            tracing::debug!(%error, "closing a SPDY connection");
        }
        drop(writing);
        self.stop.cancel();
    }
}

struct Writing {
    transport: WriteHalf<Box<dyn Duplex>>,
    packer: Packer,
}

/// Where frames go out; a frame is written whole.
#[derive(Clone)]
struct Sender(Arc<Mutex<Writing>>);

impl Sender {
    async fn send(&self, frame: &Frame) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        encode(frame, &mut buffer);
        let mut writing = self.0.lock().await;
        writing.transport.write_all(&buffer).await?;
        writing.transport.flush().await
    }

    async fn reply(&self, id: u32) -> io::Result<()> {
        let mut writing = self.0.lock().await;
        let block = Bytes::from(writing.packer.pack(&[])?);
        let mut buffer = BytesMut::new();
        encode(&Frame::SynReply { id, block }, &mut buffer);
        writing.transport.write_all(&buffer).await?;
        writing.transport.flush().await
    }
}

struct Reader {
    transport: ReadHalf<Box<dyn Duplex>>,
    sender: Sender,
    arrived: mpsc::Sender<Stream>,
    /// Where the data of each open stream goes; taken out when the client has ended its half.
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    unpacker: Unpacker,
    tasks: Tasks,
    sending: TaskTracker,
    stop: CancellationToken,
}

impl Reader {
    async fn run(&mut self) -> io::Result<()> {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        loop {
            while let Some(frame) = decode(&mut buffer)? {
                self.take(frame).await?;
            }
            if self.transport.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::SynStream { id, fin, block } => {
                let headers = self.unpacker.unpack(&block)?;
                self.sender.reply(id).await?;
                self.open_stream(id, headers, fin).await;
            }
            Frame::Headers { id, fin, block } => {
                // The block must be unpacked: the next ones build on it.
                self.unpacker.unpack(&block)?;
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::SynReply { block, .. } => drop(self.unpacker.unpack(&block)?),
            Frame::Data { id, fin, bytes } => {
                if !bytes.is_empty()
                    && let Some(stream) = self.open.get(&id)
                    && stream.send(bytes).await.is_err()
                {
                    // Whoever served the stream takes no more of it.
                    self.open.remove(&id);
                }
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::Reset { id, .. } => drop(self.open.remove(&id)),
            Frame::Ping { id } => self.sender.send(&Frame::Ping { id }).await?,
            Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }

    async fn open_stream(&mut self, id: u32, headers: Vec<(String, String)>, fin: bool) {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (mut from_server, mut to_server) = tokio::io::split(ours);
        let (data, mut incoming) = mpsc::channel::<Bytes>(16);
        if !fin {
            self.open.insert(id, data);
        }
        let stop = self.stop.clone();
        self.tasks.spawn("SPDY stream in", async move {
            let copy = async {
                while let Some(bytes) = incoming.recv().await {
                    if to_server.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                to_server.shutdown().await.ok();
            };
            tokio::select! {
                () = copy => {}
                () = stop.cancelled() => {}
            }
        });
        let (sender, stop, sending) = (self.sender.clone(), self.stop.clone(), self.sending.token());
        self.tasks.spawn("SPDY stream out", async move {
            let copy = async {
                loop {
                    let mut buffer = BytesMut::with_capacity(BUFFER);
                    let fin = from_server.read_buf(&mut buffer).await? == 0;
                    sender.send(&Frame::Data { id, fin, bytes: buffer.freeze() }).await?;
                    if fin {
                        return Ok::<_, io::Error>(());
                    }
                }
            };
            tokio::select! {
                outcome = copy => if let Err(error) = outcome {
                    tracing::debug!(id, %error, "SPDY stream ended");
                },
                () = stop.cancelled() => {}
            }
            drop(sending);
        });
        if self.arrived.send(Stream { headers, data: theirs }).await.is_err() {
            tracing::debug!(id, "a stream came when none was expected");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_opens_a_stream_and_talks_on_it() {
        let tasks = Tasks::new(CancellationToken::new());
        let (server, mut client) = tokio::io::duplex(64 * 1024);
        let mut connection = Connection::start(Box::new(server), &tasks);
        let mut packer = Packer::new();
        let block = Bytes::from(packer.pack(&[("streamType", "stdin")]).unwrap());
        let mut out = BytesMut::new();
        encode(&Frame::SynStream { id: 1, fin: false, block }, &mut out);
        encode(&Frame::Data { id: 1, fin: true, bytes: Bytes::from_static(b"hello") }, &mut out);
        encode(&Frame::Ping { id: 5 }, &mut out);
        client.write_all(&out).await.unwrap();
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(stream.header("streamtype"), Some("stdin"));
        let mut text = String::new();
        stream.data.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        stream.data.write_all(b"world").await.unwrap();
        drop(stream);
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            client.read_buf(&mut buffer).await.unwrap();
            while let Some(frame) = decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        assert!(matches!(seen[0], Frame::SynReply { id: 1, .. }));
        assert!(seen.contains(&Frame::Ping { id: 5 }));
        assert!(seen.contains(&Frame::Data { id: 1, fin: false, bytes: Bytes::from_static(b"world") }));
        assert!(seen.contains(&Frame::Data { id: 1, fin: true, bytes: Bytes::new() }));
        connection.close().await;
        tasks.stop().await;
    }
}
