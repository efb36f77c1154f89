//! One SPDY connection: a task reads its frames and hands each stream the data that is for it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex as Lock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::{Frame, decode, encode};
use super::headers::{Packer, Unpacker};
use crate::tasks::Tasks;

/// How much of a stream waits to be read by the one who serves it, and the most a frame carries.
const BUFFER: usize = 32 * 1024;

/// What the other side reads and writes.
type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A stream that the client opened.
pub struct Stream {
    /// Its headers, names in lower case.
    headers: Vec<(String, String)>,
    /// Its data, both ways. Ending the writing half tells the client that there is no more.
    pub data: DuplexStream,
}

impl Stream {
    /// Returns the value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection, of a server whose client opens streams, or of a client.
pub struct Connection {
    arrived: mpsc::Receiver<Stream>,
    streams: Streams,
    /// The number of the next stream that is opened from here: odd, as a client's.
    next: AtomicU32,
    /// What is still to be sent.
    sending: TaskTracker,
    stop: CancellationToken,
}

impl Connection {
    /// Begins to speak SPDY on `transport`.
    pub fn start<T>(transport: T, tasks: &Tasks) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reading, writing) = tokio::io::split(transport);
        let writing = Writing { transport: Box::new(writing), packer: Packer::new() };
        let (sender, arrived) = mpsc::channel(32);
        let (stop, sending) = (tasks.token().child_token(), TaskTracker::new());
        let streams = Streams {
            sender: Sender(Arc::new(Mutex::new(writing))),
            open: Arc::default(),
            tasks: tasks.clone(),
            sending: sending.clone(),
            stop: stop.clone(),
        };
        let mut reader = Reader {
            transport: Box::new(reading),
            arrived: sender,
            unpacker: Unpacker::new(),
            streams: streams.clone(),
        };
        tasks.spawn("SPDY connection", {
            let (stop, open) = (stop.clone(), Arc::clone(&streams.open));
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    outcome = reader.run() => {
                        if let Err(error) = outcome {
                            tracing::debug!(%error, "SPDY connection ended");
                        }
                    }
                }
                // What has arrived is still read; nothing is sent any more.
                open.lock().clear();
                stop.cancel();
            }
        });
        Self { arrived, streams, next: AtomicU32::new(1), sending, stop }
    }

    /// Opens a stream to the server. What it sends comes out of the stream, whose reading ends when the server
    /// says that there is no more, or the connection ends.
    ///
    /// # Errors
    /// The connection has ended, or the headers are too large.
    pub async fn open(&self, headers: &[(&str, &str)]) -> io::Result<DuplexStream> {
        // Numbers and header blocks must arrive in the order in which they were made.
        let mut writing = self.streams.sender.0.lock().await;
        let id = self.next.fetch_add(2, Ordering::Relaxed);
        let block = Bytes::from(writing.packer.pack(headers)?);
        let mut buffer = BytesMut::new();
        encode(&Frame::SynStream { id, fin: false, block }, &mut buffer);
        // Known before the first answer can arrive.
        let data = self.streams.add(id, false);
        writing.transport.write_all(&buffer).await?;
        writing.transport.flush().await?;
        Ok(data)
    }

    /// Returns the next stream that the client opens, or `None` when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.arrived.recv().await
    }

    /// Completes when the connection has ended.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends the connection after what was written is sent. The streams must have been dropped.
    pub async fn close(self) {
        self.sending.close();
        tokio::select! {
            () = self.sending.wait() => {}
            () = self.stop.cancelled() => {}
        }
        let mut writing = self.streams.sender.0.lock().await;
        if let Err(error) = writing.transport.shutdown().await {
            tracing::debug!(%error, "closing a SPDY connection");
        }
        drop(writing);
        self.stop.cancel();
    }
}

struct Writing {
    transport: WriteHalf,
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

/// The streams that are open.
#[derive(Clone)]
struct Streams {
    sender: Sender,
    /// Where the data of each goes; taken out when the other side has ended its half.
    open: Arc<Lock<HashMap<u32, mpsc::Sender<Bytes>>>>,
    tasks: Tasks,
    /// What is still to be sent.
    sending: TaskTracker,
    stop: CancellationToken,
}

struct Reader {
    transport: ReadHalf,
    arrived: mpsc::Sender<Stream>,
    unpacker: Unpacker,
    streams: Streams,
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
                self.streams.sender.reply(id).await?;
                let data = self.streams.add(id, fin);
                if self.arrived.send(Stream { headers, data }).await.is_err() {
                    tracing::debug!(id, "a stream came when none was expected");
                }
            }
            Frame::Headers { id, fin, block } => {
                // The block must be unpacked: the next ones build on it.
                self.unpacker.unpack(&block)?;
                if fin {
                    self.streams.forget(id);
                }
            }
            Frame::SynReply { block, .. } => drop(self.unpacker.unpack(&block)?),
            Frame::Data { id, fin, bytes } => {
                let stream = self.streams.open.lock().get(&id).cloned();
                let taken = match stream {
                    Some(stream) if !bytes.is_empty() => stream.send(bytes).await.is_ok(),
                    _ => true,
                };
                // Or whoever has the stream takes no more of it.
                if fin || !taken {
                    self.streams.forget(id);
                }
            }
            Frame::Reset { id, .. } => self.streams.forget(id),
            Frame::Ping { id } => self.streams.sender.send(&Frame::Ping { id }).await?,
            Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }
}

impl Streams {
    fn forget(&self, id: u32) {
        self.open.lock().remove(&id);
    }

    /// Begins to copy the data of a stream both ways; `fin`: the other side sends nothing.
    fn add(&self, id: u32, fin: bool) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (mut from_server, mut to_server) = tokio::io::split(ours);
        let (data, mut incoming) = mpsc::channel::<Bytes>(16);
        if !fin && !self.stop.is_cancelled() {
            self.open.lock().insert(id, data);
        }
        let stop = self.tasks.token();
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
        theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_opens_a_stream_and_talks_on_it() {
        let tasks = Tasks::new(CancellationToken::new());
        let (server, mut client) = tokio::io::duplex(64 * 1024);
        let mut connection = Connection::start(server, &tasks);
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

    #[tokio::test]
    async fn a_client_and_a_server_understand_each_other() {
        let tasks = Tasks::new(CancellationToken::new());
        let (left, right) = tokio::io::duplex(64 * 1024);
        let client = Connection::start(left, &tasks);
        let mut server = Connection::start(right, &tasks);
        let mut input = client.open(&[("streamtype", "stdin")]).await.unwrap();
        let mut output = client.open(&[("streamtype", "stdout")]).await.unwrap();
        let (mut first, mut second) = (server.accept().await.unwrap(), server.accept().await.unwrap());
        assert_eq!(
            (first.header("streamtype"), second.header("streamtype")),
            (Some("stdin"), Some("stdout"))
        );
        input.write_all(b"hello").await.unwrap();
        input.shutdown().await.unwrap();
        let mut text = String::new();
        first.data.read_to_string(&mut text).await.unwrap();
        second.data.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        second.data.shutdown().await.unwrap();
        text.clear();
        output.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "HELLO");
        // What arrived is read after the end of the connection; what is open then ends.
        drop((first, second));
        server.close().await;
        input.read_to_string(&mut text).await.unwrap();
        client.ended().cancelled().await;
        tasks.stop().await;
    }
}
