//! Starts the QEMU process: in a session of its own, with the descriptors that it is to have and no others.

#![expect(unsafe_code, reason = "what happens between fork and exec has no safe interface")]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::arguments::{FIRST_TAP_FD, LOCK_FD, MONITOR_FD};
use crate::error::{Error, Result};

/// What QEMU inherits.
pub(super) struct Inherited {
    /// The monitor's listening socket.
    pub(super) monitor: OwnedFd,
    /// The lock of the machine's directory.
    pub(super) lock: File,
    /// The taps, in the order of the cards.
    pub(super) taps: Vec<OwnedFd>,
}

/// Copies of descriptors are put above all that QEMU gets, so that none is overwritten before it is placed.
const ABOVE: RawFd = 64;

/// Starts `program`; its output goes to `log`.
pub(super) fn launch(
    program: &Path,
    arguments: &[OsString],
    inherited: Inherited,
    log: &File,
) -> Result<Child> {
    let doing = || format!("starting {}", program.display());
    let Inherited { monitor, lock, taps } = inherited;
    let lock_source = lock.as_raw_fd();
    let mut places = vec![(monitor.as_raw_fd(), MONITOR_FD), (lock_source, LOCK_FD)];
    places.extend(taps.iter().map(AsRawFd::as_raw_fd).zip(FIRST_TAP_FD..));
    let mut copies = vec![-1; places.len()];
    let output = || log.try_clone().map_err(Error::io(doing()));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(output()?).stderr(output()?).current_dir("/");
    let prepare = move || -> io::Result<()> {
        nix::unistd::setsid()?;
        write_pid(lock_source)?;
        for (copy, (source, _)) in copies.iter_mut().zip(&places) {
            // SAFETY: fcntl with these arguments reads no memory; the source is open, for the parent holds it.
            *copy = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, ABOVE) };
            if *copy < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for (copy, (_, place)) in copies.iter().zip(&places) {
            // SAFETY: dup2 reads no memory. What was open at the place is one of the parent's descriptors, all
            // of which are closed by exec anyway.
            if unsafe { libc::dup2(*copy, *place) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `prepare` only makes system calls and writes to memory that was allocated before the fork.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().map_err(Error::io(doing()))?;
    drop((monitor, lock, taps));
    Ok(child)
}

/// Writes the process's id into the lock's file, without allocating.
fn write_pid(lock: RawFd) -> io::Result<()> {
    let mut text = [b'\n'; 12];
    let mut begin = text.len() - 1;
    let mut rest = nix::unistd::getpid().as_raw();
    loop {
        begin -= 1;
        text[begin] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    // SAFETY: the descriptor stays open: the parent owns it, and `IntoRawFd` below gives it back unclosed.
    let file = unsafe { File::from_raw_fd(lock) };
    let written = std::os::unix::fs::FileExt::write_at(&file, &text[begin..], 0);
    let _ = file.into_raw_fd();
    written.map(|_| ())
}

/// Finds the emulator for the host's own architecture.
pub(crate) fn program() -> Result<PathBuf> {
    let architecture = std::env::consts::ARCH;
    if architecture != "x86_64" {
        return Err(Error::Architecture { architecture });
    }
    let name = format!("qemu-system-{architecture}");
    // Enterprise Linux has it under a name and in a place of its own.
    let other = std::iter::once(PathBuf::from("/usr/libexec/qemu-kvm"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(&name)).chain(other);
    let executable = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    found.into_iter().find(executable).ok_or(Error::NoProgram { program: name })
}
