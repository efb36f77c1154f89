//! A connection from the machine to somewhere, as a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::PollSender;

use super::Ssh;
use super::channel::{Bell, Channel, Connection, Event, Input, Kind, Reader, Writer};
use super::run::{Failure, PIECE, Persistence};
use crate::error::{Error, Result};

pub(super) async fn forward(ssh: &Ssh, host: &str, port: u16) -> Result<Tunnel> {
    if host.is_empty() || host.contains('\0') {
        return Err(Error::Invalid(format!("{host:?} is no host to connect to")));
    }
    let doing = format!("connecting to {host}:{port} from there");
    // Nothing is sent before it is open, so that trying again does no harm.
    let mut persistence = Persistence::new(ssh, &doing, true, ssh.target.timing.reconnect);
    loop {
        if let Some(tunnel) = persistence.attempt(|connection| open(ssh, connection, host, port)).await? {
            return Ok(tunnel);
        }
    }
}

async fn open(ssh: &Ssh, connection: Arc<Connection>, host: &str, port: u16) -> Result<Tunnel, Failure> {
    let mut channel = connection.open(Kind::Tcp { host: host.into(), port });
    match channel.reader.next().await {
        Ok(Event::Refused(why)) => Err(Failure::Final(Error::Refused {
            machine: ssh.target.name.clone(),
            what: format!("a connection to {host}:{port}"),
            why,
        })),
        Ok(_) => Ok(Tunnel::over(channel)),
        Err(why) => Err(Failure::Broken { started: false, why }),
    }
}

/// A connection through the machine. Dropping it closes it.
#[derive(Debug)]
pub struct Tunnel(Inner);

#[derive(Debug)]
enum Inner {
    Channel {
        reader: Reader,
        rest: Bytes,
        ended: bool,
        // The sender before its bell: see there.
        sender: PollSender<Input>,
        bell: Bell,
    },
    Local(tokio::io::DuplexStream),
}

impl Tunnel {
    fn over(channel: Channel) -> Self {
        let Writer { queue, bell } = channel.writer;
        Self(Inner::Channel {
            reader: channel.reader,
            rest: Bytes::new(),
            ended: false,
            sender: PollSender::new(queue),
            bell,
        })
    }

    /// Returns a stream that ends in this process, for tests.
    #[must_use]
    pub fn local(stream: tokio::io::DuplexStream) -> Self {
        Self(Inner::Local(stream))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Local(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Channel { reader, rest, ended, .. } => {
                while rest.is_empty() && !*ended {
                    match ready!(reader.poll_next(context)) {
                        Ok(Event::Out(bytes)) => *rest = bytes,
                        Ok(Event::Eof | Event::End(_)) => *ended = true,
                        Ok(_) => {}
                        Err(why) => {
                            *ended = true;
                            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
                        }
                    }
                }
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..count]);
                rest.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        match &mut self.get_mut().0 {
            Inner::Local(stream) => Pin::new(stream).poll_write(context, bytes),
            Inner::Channel { sender, bell, .. } => {
                if ready!(sender.poll_reserve(context)).is_err() {
                    return Poll::Ready(Err(gone()));
                }
                let count = bytes.len().min(PIECE);
                sender.send_item(Input::Data(Bytes::copy_from_slice(&bytes[..count]))).map_err(|_| gone())?;
                bell.ring();
                Poll::Ready(Ok(count))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Local(stream) => Pin::new(stream).poll_flush(context),
            // The thread sends what it has.
            Inner::Channel { .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Local(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Channel { sender, bell, .. } => {
                sender.close();
                bell.ring();
                Poll::Ready(Ok(()))
            }
        }
    }
}
