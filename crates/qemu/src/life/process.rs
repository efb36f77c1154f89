//! The process behind a machine: who holds the lock of its directory.
//!
//! The lock (an open file description lock on the file `lock`) is inherited by QEMU and ends with it, however
//! it ends: a process id that was given to another program after a crash or a restart of the host is never
//! taken for the machine. The file's content is the id of the process that holds the lock, written between
//! fork and exec.

#![expect(unsafe_code, reason = "registering a descriptor with the runtime's reactor")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machinery::clock::SystemClock;
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, WaitError, until};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KILL_DEADLINE;
use crate::error::{Error, Result};

const LOCK: &str = "lock";

pub(super) fn lock_path(directory: &Path) -> PathBuf {
    directory.join(LOCK)
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Takes the lock of a directory for a process that is about to start; `None` when another one has it.
/// The file is empty when this returns.
pub(super) fn acquire(directory: &Path) -> Result<Option<File>> {
    let path = lock_path(directory);
    let doing = || format!("locking {}", path.display());
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io(doing()))?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(error) => return Err(Error::io(doing())(error.into())),
        }
        // A machine that was taken away took its lock's file along: what is locked then is not what others see.
        let locked = file.metadata().map_err(Error::io(doing()))?;
        match std::fs::metadata(&path) {
            Ok(seen) if (seen.dev(), seen.ino()) == (locked.dev(), locked.ino()) => {
                file.set_len(0).map_err(Error::io(doing()))?;
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(doing())(error)),
        }
    }
}

/// Asks who holds the lock of a directory, and waits a moment while somebody is between taking it and starting
/// QEMU: it takes as long as making a disk and a few taps.
pub(super) async fn settled(directory: &Path) -> Result<Holder> {
    let random = Random::from_os();
    let what = format!("the process that starts the machine in {}", directory.display());
    let outcome =
        until(&what, STARTING, Backoff::QUICK, &SystemClock, &random, async || match holder(directory) {
            Ok(Holder::Starting) => Attempt::Again("it holds the lock, and has not started QEMU yet".into()),
            Ok(holder) => Attempt::Done(holder),
            Err(error) => Attempt::Fatal(error),
        });
    outcome.await.map_err(|error| match error {
        WaitError::Fatal { error, .. } => error,
        deadline @ WaitError::Deadline { .. } => {
            Error::io("looking for a machine's process")(io::Error::other(deadline.to_string()))
        }
    })
}

/// How long somebody may be between the lock and QEMU.
const STARTING: Duration = Duration::from_secs(30);

/// What the lock says of a machine's process.
pub(super) enum Holder {
    /// There is no such directory, or nothing that was started in it ever ran.
    Never,
    /// Nobody holds it: the process has ended.
    Nobody,
    /// Somebody is between taking it and starting QEMU.
    Starting,
    /// This process holds it.
    Process(Process),
}

/// Asks who holds the lock of a directory.
pub(super) fn holder(directory: &Path) -> Result<Holder> {
    let path = lock_path(directory);
    let doing = || format!("looking who holds {}", path.display());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Holder::Never);
        }
        Err(error) => return Err(Error::io(doing())(error)),
    };
    let held = |file: &File| -> Result<bool> {
        let mut probe = whole_file(libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(|error| Error::io(doing())(error.into()))?;
        Ok(probe.l_type != libc::F_UNLCK as i16)
    };
    if !held(&file)? {
        let length = file.metadata().map_err(Error::io(doing()))?.len();
        return Ok(if length == 0 { Holder::Never } else { Holder::Nobody });
    }
    let mut text = String::new();
    // A process id has ten digits at most.
    file.by_ref().take(16).read_to_string(&mut text).map_err(Error::io(doing()))?;
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(Holder::Starting) };
    let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(Holder::Nobody),
        Err(error) => return Err(Error::io(doing())(error.into())),
    };
    // Still held after the process was opened: so it was this one that held it, and not a successor of its id.
    if held(&file)? { Ok(Holder::Process(Process { pid, descriptor })) } else { Ok(Holder::Nobody) }
}

/// A process that cannot be mistaken for another one.
pub(super) struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until it has ended; `false` when it still runs after `deadline`.
    pub(super) async fn ended(&self, deadline: Duration) -> Result<bool> {
        let doing = format!("waiting for process {} to end", self.pid());
        // A copy, so that two can wait at once: the reactor takes a descriptor only once.
        let copy = self.descriptor.try_clone().map_err(Error::io(doing.clone()))?;
        // SAFETY: the copy is owned by the registration, and closed after it.
        let watched = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
        let watched = watched.map_err(|error| Error::io(doing.clone())(error.into()))?;
        match tokio::time::timeout(deadline, watched.readable()).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(Error::io(doing)(error)),
            Err(_) => Ok(false),
        }
    }

    /// Kills it and waits until it has ended.
    pub(super) async fn kill(&self) -> Result<()> {
        let doing = || format!("killing process {}", self.pid());
        match pidfd_send_signal(&self.descriptor, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(Error::io(doing())(error.into())),
        }
        if self.ended(KILL_DEADLINE).await? {
            return Ok(());
        }
        let still = io::Error::other(format!("it still runs after {KILL_DEADLINE:?}; the kernel holds it"));
        Err(Error::io(doing())(still))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_free_once_nobody_has_it_whatever_the_file_says() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(holder(directory.path()).unwrap(), Holder::Never));
        assert!(matches!(holder(&directory.path().join("absent")).unwrap(), Holder::Never));
        let lock = acquire(directory.path()).unwrap().unwrap();
        assert!(acquire(directory.path()).unwrap().is_none());
        assert!(matches!(holder(directory.path()).unwrap(), Holder::Starting));
        // The id of a process that lives and has nothing to do with it.
        std::fs::write(lock_path(directory.path()), std::process::id().to_string()).unwrap();
        assert!(matches!(holder(directory.path()).unwrap(), Holder::Process(_)));
        drop(lock);
        assert!(matches!(holder(directory.path()).unwrap(), Holder::Nobody));
        std::fs::write(lock_path(directory.path()), "not a number").unwrap();
        assert!(matches!(holder(directory.path()).unwrap(), Holder::Nobody));
        assert!(acquire(directory.path()).unwrap().is_some());
        assert!(matches!(holder(directory.path()).unwrap(), Holder::Never));
    }

    #[tokio::test]
    async fn an_ended_process_is_seen_by_its_event() {
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = Process { pid, descriptor: pidfd_open(pid, PidfdFlags::NONBLOCK).unwrap() };
        assert!(!process.ended(Duration::from_millis(1)).await.unwrap());
        process.kill().await.unwrap();
        assert!(process.ended(Duration::ZERO).await.unwrap());
        process.kill().await.unwrap();
        child.wait().unwrap();
    }
}
