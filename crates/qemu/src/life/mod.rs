//! The life of a machine: how it starts, and how everything of it is taken away.

mod instance;
mod launch;
mod process;

use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use machinery::clock::SystemClock;
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, WaitError, until};
use serde_json::json;
use tokio::net::UnixStream;

use crate::acceleration::Acceleration;
use crate::arguments::{DISK_NODE, PID_FILE, arguments};
use crate::error::{Error, Result, StartFailure};
use crate::machine::{Disk, Link, Machine};
use crate::qmp::Monitor;
use crate::{overlay, tap};
pub use instance::{Instance, PowerOff, State};
pub(crate) use launch::program;
use launch::{Inherited, launch};
use process::{Holder, acquire, holder, settled};

const SOCKET: &str = "monitor.sock";
const LOG: &str = "qemu.log";

/// How long QEMU may take until its machine is made and its monitor answers. It takes a second; a host that
/// starts twenty at once, or loads a saved state from a slow disk, takes longer.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// How long the monitor may take to answer what takes it no time: it serves one client after the other, and
/// on a busy host its thread waits for the processor.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a killed process may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// From which size on a console's log begins anew at the next start: some hundreds of boots.
const LONG_CONSOLE: u64 = 16 << 20;
/// How much of QEMU's log is read for an error.
const MOST_LOG: u64 = 64 * 1024;

/// How a machine is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// The name of a saved state in its disk to go on from, instead of booting.
    pub load: Option<String>,
}

/// Starts a machine; it runs when this returns, and outlives this process.
///
/// Its disk is made when it is absent; its taps are made and put into their bridges. When this fails, no
/// process and no tap is left; the disk stays. When this process is killed in the middle, [`destroy`] or
/// another start find what is there.
///
/// # Errors
/// [`Error::AlreadyRunning`], [`Error::Start`] with QEMU's words, or what stood in the way before.
pub async fn start(
    machine: &Machine,
    acceleration: &Acceleration,
    options: &StartOptions,
) -> Result<Instance> {
    machine.validate()?;
    let program = program()?;
    check_files(machine)?;
    let directory = &machine.directory;
    let doing = |what: &str| format!("starting machine {}: {what}", machine.name);
    // Whatever is in it gives command over the machine.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(Error::io(doing("making its directory")))?;
    let Some(lock) = acquire(directory)? else {
        return Err(Error::AlreadyRunning { machine: machine.name.clone(), directory: directory.clone() });
    };
    // Shared with QEMU, and kept here until this returns: whatever is cleaned up, nobody else starts meanwhile.
    let held = lock.try_clone().map_err(Error::io(doing("keeping its lock")))?;
    let started = start_locked(machine, &program, acceleration, options, lock).await;
    if started.is_err() {
        // An empty lock says that nothing ever ran.
        remove_file(&directory.join(PID_FILE))?;
        held.set_len(0).map_err(Error::io(doing("emptying its lock")))?;
    }
    started
}

async fn start_locked(
    machine: &Machine,
    program: &Path,
    acceleration: &Acceleration,
    options: &StartOptions,
    lock: std::fs::File,
) -> Result<Instance> {
    let directory = &machine.directory;
    let doing = |what: &str| format!("starting machine {}: {what}", machine.name);
    // Its presence would say that this QEMU was killed.
    remove_file(&directory.join(PID_FILE))?;
    // A disk that was made when the machine was to have less grows.
    let grow = match &machine.disk {
        Some(disk) => {
            let there = overlay::ensure(disk)?;
            Some(disk.size).filter(|&size| size > there)
        }
        None => None,
    };
    set_aside(&machine.console)?;
    private_log(&machine.console, false)?;
    let log = private_log(&directory.join(LOG), true)?;
    let mut taps = Vec::new();
    for card in &machine.cards {
        if let Link::Tap { name, bridge } = &card.link {
            taps.push(tap::open(name, bridge).await?);
        }
    }
    let monitor = listen(directory).map_err(Error::io(doing("making its monitor's socket")))?;
    let arguments = arguments(machine, acceleration, options.load.as_deref());
    tracing::debug!(machine = machine.name, ?program, ?arguments, "starting QEMU");
    let mut child = launch(program, &arguments, Inherited { monitor, lock, taps }, &log)?;

    let path = directory.join(SOCKET);
    let greeted = async {
        let mut monitor = Monitor::begin(connect(directory).await?, &path).await?;
        if let Some(size) = grow {
            monitor.execute("block_resize", json!({ "node-name": DISK_NODE, "size": size })).await?;
        }
        Ok::<_, Error>(())
    };
    let end = tokio::select! {
        biased;
        status = child.wait() => match status {
            Ok(status) => describe(status),
            Err(error) => return Err(Error::io(doing("waiting for QEMU"))(error)),
        },
        greeted = tokio::time::timeout(START_DEADLINE, greeted) => match greeted {
            Ok(Ok(_)) => return Ok(Instance::at(directory)),
            // It closes its monitor before it has ended.
            Ok(Err(error)) => match tokio::time::timeout(Duration::from_secs(5), child.wait()).await {
                Ok(Ok(status)) => describe(status),
                _ => format!("{error}; it was killed"),
            },
            Err(_) => format!("it said nothing for {START_DEADLINE:?} and was killed"),
        },
    };
    // Already ended, or killed here: in both cases nothing is left when the error is reported.
    let killed = tokio::time::timeout(KILL_DEADLINE, child.kill()).await;
    killed.unwrap_or_else(|late| Err(late.into())).map_err(Error::io(doing("killing QEMU")))?;
    let output = read_tail(&log).map_err(Error::io(doing("reading QEMU's log")))?;
    let failure = StartFailure::judge(&output, end);
    Err(Error::Start { machine: machine.name.clone(), failure })
}

/// Takes a machine away: its process without mercy, the directory, its disk's layer and the taps. What is not
/// there is no error, so that it can be called again after any failure. The base image and the console's log
/// stay.
///
/// # Errors
/// What could not be taken away; the rest may still be there.
pub async fn destroy(machine: &Machine) -> Result<()> {
    let directory = &machine.directory;
    Instance::at(directory).kill().await?;
    // Held until its file is gone, so that nothing is started in between.
    let lock = if directory.is_dir() {
        let lock = acquire(directory)?;
        if lock.is_none() {
            return Err(Error::AlreadyRunning {
                machine: machine.name.clone(),
                directory: directory.clone(),
            });
        }
        lock
    } else {
        None
    };
    for card in &machine.cards {
        if let Link::Tap { name, .. } = &card.link {
            tap::remove(name).await?;
        }
    }
    if let Some(Disk { path, .. }) = &machine.disk {
        remove_file(path)?;
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("removing {}", directory.display()))(error));
        }
        _ => {}
    }
    drop(lock);
    Ok(())
}

/// Connects to the monitor of the machine in `directory`.
async fn connect(directory: &Path) -> Result<UnixStream> {
    let path = directory.join(SOCKET);
    let fail = |error: io::Error| Error::Monitor { path: path.clone(), reason: error.to_string() };
    // By way of the open directory, since a socket's address has room for 107 bytes.
    let opened = std::fs::File::open(directory).map_err(fail)?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
    let (what, random) = (path.display().to_string(), Random::from_os());
    // QEMU lets one client wait in its socket while it serves another; the kernel sends the others away, and has
    // no event for them.
    let connected = until(&what, ANSWER, Backoff::QUICK, &SystemClock, &random, async || {
        match UnixStream::connect(&short).await {
            Ok(stream) => Attempt::Done(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Attempt::Again("it serves other clients".into())
            }
            Err(error) => Attempt::Fatal(fail(error)),
        }
    });
    connected.await.map_err(|error| match error {
        WaitError::Fatal { error, .. } => error,
        deadline @ WaitError::Deadline { .. } => {
            Error::Monitor { path: path.clone(), reason: deadline.to_string() }
        }
    })
}

/// Makes the monitor's socket. It exists before QEMU does: a connection waits in it, nobody has to poll.
fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let path = directory.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let opened = std::fs::File::open(directory)?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
    Ok(std::os::unix::net::UnixListener::bind(short)?.into())
}

/// Makes room for a new console log when the old one has grown long, and keeps the old one beside it.
fn set_aside(console: &Path) -> Result<()> {
    if std::fs::metadata(console).is_ok_and(|log| log.len() > LONG_CONSOLE) {
        let old = console.with_added_extension("old");
        std::fs::rename(console, old).map_err(Error::io(format!("setting {} aside", console.display())))?;
    }
    Ok(())
}

fn private_log(path: &Path, anew: bool) -> Result<std::fs::File> {
    let doing = || format!("opening {}", path.display());
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent).map_err(Error::io(doing()))?;
    }
    let file = std::fs::File::options().create(true).append(true).read(true).mode(0o600).open(path);
    let file = file.map_err(Error::io(doing()))?;
    if anew {
        file.set_len(0).map_err(Error::io(doing()))?;
    }
    Ok(file)
}

fn read_tail(mut log: &std::fs::File) -> io::Result<String> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(MOST_LOG)))?;
    let mut bytes = Vec::new();
    log.take(MOST_LOG).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn describe(status: ExitStatus) -> String {
    format!("QEMU ended with {status}")
}

/// QEMU's own words for an absent file do not say whose it is.
fn check_files(machine: &Machine) -> Result<()> {
    let boot = machine.boot.iter().flat_map(|boot| {
        std::iter::once(("its kernel", &boot.kernel))
            .chain(boot.initrd.iter().map(|path| ("its initrd", path)))
    });
    let firmware = machine.firmware_files.iter().map(|entry| ("its firmware file", &entry.file));
    for (what, path) in boot.chain(firmware) {
        if let Err(error) = std::fs::File::open(path) {
            let reason = format!("{what} {} cannot be read: {error}", path.display());
            return Err(Error::Description { machine: machine.name.clone(), reason });
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_console_log_is_set_aside_and_a_short_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let console = directory.path().join("console.log");
        set_aside(&console).unwrap();
        let log = private_log(&console, false).unwrap();
        log.set_len(LONG_CONSOLE).unwrap();
        set_aside(&console).unwrap();
        assert!(console.exists());
        log.set_len(LONG_CONSOLE + 1).unwrap();
        set_aside(&console).unwrap();
        assert!(!console.exists() && directory.path().join("console.log.old").exists());
    }

    #[test]
    fn an_error_reads_the_end_of_a_long_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = private_log(&directory.path().join("qemu.log"), true).unwrap();
        std::io::Write::write_all(&mut &log, &vec![b'x'; MOST_LOG as usize]).unwrap();
        std::io::Write::write_all(&mut &log, b"\nthe end\n").unwrap();
        let tail = read_tail(&log).unwrap();
        assert_eq!(tail.len() as u64, MOST_LOG);
        assert!(tail.ends_with("the end\n"));
    }
}
