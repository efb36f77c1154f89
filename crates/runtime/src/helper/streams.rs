//! Descriptors that never block, and the few calls that the libraries have no safe form of.
#![expect(unsafe_code, reason = "raw descriptors that this process was started with, and terminal sizes")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

/// What came of moving bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// So many bytes were moved.
    Moved(usize),
    /// None can be moved now.
    Blocked,
    /// None can be moved any more.
    Ended,
}

pub(super) fn read(fd: impl AsFd, buffer: &mut [u8]) -> Outcome {
    loop {
        return match nix::unistd::read(fd.as_fd(), buffer) {
            Ok(0) => Outcome::Ended,
            Ok(count) => Outcome::Moved(count),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Outcome::Blocked,
            // A terminal whose other end is closed says EIO.
            Err(_) => Outcome::Ended,
        };
    }
}

/// Writes what can be written of `waiting` and takes it out.
pub(super) fn write(fd: impl AsFd, waiting: &mut Vec<u8>) -> Outcome {
    let mut written = 0;
    let outcome = loop {
        if written == waiting.len() {
            break Outcome::Moved(written);
        }
        match nix::unistd::write(fd.as_fd(), &waiting[written..]) {
            Ok(count) => written += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => break Outcome::Blocked,
            Err(_) => break Outcome::Ended,
        }
    };
    waiting.drain(..written);
    if waiting.is_empty() {
        // What was needed once is given back: there is a shim for every container.
        waiting.shrink_to(4096);
    }
    outcome
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), String> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("making a pipe: {error}"))
}

pub(super) fn nonblocking(fd: &OwnedFd) -> Result<(), String> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|error| format!("making a descriptor non-blocking: {error}"))
}

/// Moves what the engine gave as standard input and output to descriptors that no container inherits, and puts
/// `/dev/null` in their places.
pub(super) fn take_over() -> io::Result<(UnixStream, OwnedFd)> {
    let mut taken = Vec::new();
    for number in [0, 1] {
        // SAFETY: the engine starts helpers with all three standard descriptors open, and nothing else in this
        // process uses them.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        taken.push(fd.try_clone_to_owned()?);
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let lock = taken.pop().ok_or(io::ErrorKind::NotFound)?;
    let engine = UnixStream::from(taken.pop().ok_or(io::ErrorKind::NotFound)?);
    engine.set_nonblocking(true)?;
    Ok((engine, lock))
}

/// Takes the terminal that the container's first process has sent to `console` by now.
pub(super) fn receive_terminal(console: &UnixListener) -> Result<OwnedFd, String> {
    let (socket, _) = console.accept().map_err(|error| format!("receiving the terminal: {error}"))?;
    let mut data = [0u8; 64];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(|error| format!("receiving the terminal: {error}"))?;
    let control = message.cmsgs().map_err(|error| format!("receiving the terminal: {error}"))?;
    for message in control {
        if let ControlMessageOwned::ScmRights(fds) = message
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made this descriptor for this process, and only this message names it.
            let terminal = unsafe { OwnedFd::from_raw_fd(*fd) };
            nonblocking(&terminal)?;
            return Ok(terminal);
        }
    }
    Err("receiving the terminal: the message came without one".to_owned())
}

/// Sets a terminal's size.
pub(super) fn resize(terminal: RawFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads a winsize, and is given one that lives until it returns.
    let result = unsafe { libc::ioctl(terminal, libc::TIOCSWINSZ, &raw const size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal by its number, which may be a real-time signal. Succeeds when the process is gone.
pub(super) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes two numbers and touches no memory.
    let result = unsafe { libc::kill(pid.as_raw(), signal) };
    match io::Error::last_os_error() {
        error if result != 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}
