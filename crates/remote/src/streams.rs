//! The local ends of an interactive command: a terminal in raw mode, or plain streams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// How much is read at once.
const PIECE: usize = 16 * 1024;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// Where a command's standard streams end on this side.
#[derive(Debug)]
pub struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: Arc<OwnedFd>,
    pub(crate) stderr: Arc<OwnedFd>,
    /// The far side gets a terminal of this type: when both input and output are one here.
    pub(crate) terminal: Option<String>,
}

impl Streams {
    /// Returns this process's own streams.
    ///
    /// # Errors
    /// When one of them is closed.
    pub fn inherit() -> io::Result<Self> {
        Ok(Self::new(
            io::stdin().as_fd().try_clone_to_owned()?,
            io::stdout().as_fd().try_clone_to_owned()?,
            io::stderr().as_fd().try_clone_to_owned()?,
        ))
    }

    /// Returns these streams; input and output that are a terminal are used as one.
    #[must_use]
    pub fn new(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let terminal = (isatty(&stdin) && isatty(&stdout)).then(|| {
            let kind = std::env::var("TERM").unwrap_or_default();
            if kind.is_empty() { "xterm".into() } else { kind }
        });
        Self { stdin, stdout: Arc::new(stdout), stderr: Arc::new(stderr), terminal }
    }

    /// Does without a terminal, though there is one here.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.terminal = None;
        self
    }

    pub(crate) fn size(&self) -> Size {
        match tcgetwinsize(&*self.stdout) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: size.ws_col, rows: size.ws_row }
            }
            _ => Size { columns: 80, rows: 24 },
        }
    }
}

/// A terminal in raw mode; dropping this gives it back as it was.
#[derive(Debug)]
pub(crate) struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    pub(crate) fn enter(terminal: &OwnedFd) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Flush, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing else can be done when the terminal is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Reads standard input by a thread of its own, which ends when this is dropped even if nothing is ever typed.
///
/// Making the descriptor non-blocking instead would do so for everybody who shares it, as a shell does.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) pieces: mpsc::Receiver<Bytes>,
    /// Closed to end the thread.
    _stop: io::PipeWriter,
}

impl Input {
    pub(crate) fn start(stdin: OwnedFd) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let (sender, pieces) = mpsc::channel(4);
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let mut buffer = vec![0; PIECE];
            loop {
                let mut ready = [
                    PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
                ];
                match poll(&mut ready, None) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => return,
                }
                if !ready[1].revents().is_empty() {
                    return;
                }
                match rustix::io::read(&stdin, &mut buffer) {
                    Ok(0) => return,
                    Ok(count) => {
                        if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                            return;
                        }
                    }
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    // A closed terminal reads as an error.
                    Err(_) => return,
                }
            }
        })?;
        Ok(Self { pieces, _stop: stop })
    }
}

/// Writes all of `bytes`, waiting where the descriptor would block.
pub(crate) fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
