//! The first process of a process table that a pod's containers share. It only reaps.
#![expect(unsafe_code, reason = "fork in a process with one thread")]

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Makes the process table, tells the process id of its first process on standard output, and ends. The first
/// process stays until it is killed, and everything in the table ends with it.
pub(super) fn main(_: &[OsString]) -> ExitCode {
    match start() {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            drop(std::io::stderr().write_all(format!("making a process table: {error}").as_bytes()));
            ExitCode::FAILURE
        }
    }
}

/// Is the first process of a sandbox that another runtime made: reaps until it is told to end.
pub(super) fn init() -> ExitCode {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    match signals.thread_block() {
        Ok(()) => ExitCode::from(u8::try_from(reap(&signals)).unwrap_or(1)),
        Err(_) => ExitCode::FAILURE,
    }
}

fn start() -> nix::Result<String> {
    nix::unistd::setsid()?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    // Blocked before the fork, so that the first process misses none.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block()?;
    // SAFETY: this process has one thread, so the child's memory is consistent.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.to_string()),
        ForkResult::Child => {
            let code = reap(&signals);
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(code) }
        }
    }
}

fn reap(signals: &SigSet) -> i32 {
    // The engine waits for the end of these streams.
    let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") else { return 1 };
    for result in
        [nix::unistd::dup2_stdin(&null), nix::unistd::dup2_stdout(&null), nix::unistd::dup2_stderr(&null)]
    {
        if result.is_err() {
            return 1;
        }
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) | Err(_) => break,
                    Ok(_) => {}
                }
            },
            _ => return 0,
        }
    }
}
