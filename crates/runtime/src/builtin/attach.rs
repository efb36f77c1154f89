//! Attaching to the streams of a container's first process, through its shim.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::Inner;
use super::shim::Connection;
use super::state::Phase;
use crate::helper::protocol::{self, Exit, Kind, Parsed};
use crate::{Error, Result, Session, TerminalSize};

/// How much output may wait for a reader.
const BUFFER: usize = 64 * 1024;

impl Inner {
    pub(super) async fn attach(&self, id: &str) -> Result<Session> {
        let container = self.container(id)?;
        if !matches!(container.phase(), Phase::Running(_)) {
            return Err(Error::Invalid(format!("container {id:?} is not running")));
        }
        let config = container.record().config;
        let mut connection = Connection::open(&container.run).await?;
        connection.send(Kind::Attach, b"").await?;
        match connection.receive().await? {
            Some((Kind::Done, _)) => {}
            _ => return Err(Error::system(format!("attaching to container {id:?}"), "its shim refused")),
        }
        let (socket, received) = connection.into_parts();
        let (read, write) = socket.into_split();
        let (stdout, to_stdout) = tokio::io::duplex(BUFFER);
        let (stderr, to_stderr) = tokio::io::duplex(BUFFER);
        let (ended, exit) = oneshot::channel();
        let output = Output { read, received, stdout: Some(to_stdout), stderr: Some(to_stderr), ended };
        self.tasks.spawn("attach output", output.run());

        let (resize, sizes) = mpsc::channel(1);
        let (stdin, from_stdin) = tokio::io::duplex(BUFFER);
        let wants_input = config.stdin;
        let from_stdin = wants_input.then_some(from_stdin);
        self.tasks.spawn("attach input", input(write, from_stdin, sizes));
        let name = id.to_owned();
        Ok(Session {
            stdin: wants_input.then(|| Box::pin(stdin) as std::pin::Pin<Box<dyn AsyncWrite + Send>>),
            stdout: Some(Box::pin(stdout) as std::pin::Pin<Box<dyn AsyncRead + Send>>),
            stderr: if config.tty { None } else { Some(Box::pin(stderr)) },
            resize: config.tty.then_some(resize),
            exit: Box::pin(async move {
                exit.await.map_err(|_| {
                    Error::system(format!("attached to container {name:?}"), "its shim has gone")
                })
            }),
        })
    }
}

/// What comes from the shim.
struct Output {
    read: OwnedReadHalf,
    received: Vec<u8>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    ended: oneshot::Sender<i32>,
}

impl Output {
    async fn run(mut self) {
        loop {
            let taken = match protocol::parse(&self.received) {
                Parsed::Frame(kind, payload, length) => {
                    let stream = match kind {
                        Kind::Stdout => &mut self.stdout,
                        Kind::Stderr => &mut self.stderr,
                        Kind::Exited => {
                            let exit = serde_json::from_slice::<Exit>(payload);
                            // The streams end before the exit is told.
                            (self.stdout, self.stderr) = (None, None);
                            if let Ok(exit) = exit {
                                // Nobody needs to be waiting for it.
                                self.ended.send(exit.code).unwrap_or_default();
                            }
                            return;
                        }
                        _ => &mut None,
                    };
                    // A reader that has gone wants no more of this stream; the other one may go on.
                    if let Some(open) = stream
                        && open.write_all(payload).await.is_err()
                    {
                        *stream = None;
                    }
                    length
                }
                Parsed::Garbage => return,
                Parsed::Partial => match self.read.read_buf(&mut self.received).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => 0,
                },
            };
            self.received.drain(..taken);
            if self.stdout.is_none() && self.stderr.is_none() {
                return;
            }
        }
    }
}

/// Sends input and sizes to the shim until both have ended.
async fn input(
    mut write: OwnedWriteHalf,
    mut stdin: Option<DuplexStream>,
    mut sizes: mpsc::Receiver<TerminalSize>,
) {
    let mut buffer = vec![0u8; 16 * 1024];
    let mut sizes_open = true;
    while stdin.is_some() || sizes_open {
        let mut frame = Vec::new();
        tokio::select! {
            count = read_some(&mut stdin, &mut buffer), if stdin.is_some() => match count {
                0 => {
                    stdin = None;
                    protocol::put(&mut frame, Kind::StdinEnd, b"");
                }
                count => protocol::put(&mut frame, Kind::Stdin, &buffer[..count]),
            },
            size = sizes.recv(), if sizes_open => match size {
                None => sizes_open = false,
                Some(TerminalSize { width, height }) => {
                    let payload = [width.to_le_bytes(), height.to_le_bytes()].concat();
                    protocol::put(&mut frame, Kind::Resize, &payload);
                }
            },
        }
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
    // The shim takes a closed connection for the end of the session, so only the reading side may close it.
    write.forget();
}

/// Reads from an open stream; a broken one has ended.
async fn read_some(stdin: &mut Option<DuplexStream>, buffer: &mut [u8]) -> usize {
    match stdin {
        Some(stdin) => stdin.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}
