//! The engine's end of a terminal, for reading and writing without blocking.
#![expect(unsafe_code, reason = "registering a descriptor with the runtime's reactor")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The engine's end of a terminal.
pub(super) struct Terminal(AsyncFd<File>);

impl Terminal {
    /// Takes over a descriptor that does not block.
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        // SAFETY: the file owns its descriptor, and closes it only after the registration has ended.
        let registered = unsafe { AsyncFd::register(File::from(fd)) };
        registered.map(Self).map_err(std::io::Error::from)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        loop {
            let mut ready = std::task::ready!(self.0.poll_read_ready(context))?;
            let read = ready.try_io(|file| {
                rustix::io::read(file.get_ref().as_fd(), buffer.initialize_unfilled()).map_err(Into::into)
            });
            match read {
                Ok(Ok(count)) => buffer.advance(count),
                // How a terminal says that nobody has its other end any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {}
                Ok(Err(error)) => return std::task::Poll::Ready(Err(error)),
                Err(_) => continue,
            }
            return std::task::Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        loop {
            let mut ready = std::task::ready!(self.0.poll_write_ready(context))?;
            let written =
                ready.try_io(|file| rustix::io::write(file.get_ref().as_fd(), data).map_err(Into::into));
            match written {
                Ok(result) => return std::task::Poll::Ready(result),
                Err(_) => continue,
            }
        }
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
