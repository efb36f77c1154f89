//! Runs a command within a node: the hidden subcommand `node-exec`, a process of its own with one thread.
//!
//! With a terminal the command gets one of the node's own, and this process carries bytes between the two.
//! The exit code is the command's: 128 + n for signal n, 126 or 127 when it could not be run.

#![expect(unsafe_code, reason = "fork and terminal requests have no safe interface")]
#![expect(clippy::exit, reason = "a forked child must not return into its parent's code")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execvpe, fork, read, setsid, write,
};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// What to run where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExecConfig {
    /// The node's first process, as the host counts.
    pub(crate) pid: i32,
    /// The node's control groups, so that the command ends with the node.
    pub(crate) groups: Vec<PathBuf>,
    /// The command and its arguments; none is a login shell.
    pub(crate) command: Vec<String>,
    /// The environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Give it a terminal.
    pub(crate) terminal: bool,
}

/// The namespaces of a node; the mount namespace last, since the others are found in the host's /proc.
const NAMESPACES: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Runs what `argument` (an [`ExecConfig`] as JSON) says.
#[expect(clippy::print_stderr, reason = "this process stands for the command, whose standard error it has")]
pub(crate) fn main(argument: &str) -> ExitCode {
    match run(argument) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", crate::ui::error_text(&error));
            ExitCode::from(error.code())
        }
    }
}

fn run(argument: &str) -> Result<u8> {
    let config: ExecConfig = serde_json::from_str(argument).context("reading what to run")?;
    enter(&config)?;
    if config.terminal { with_terminal(&config) } else { plain(&config) }
}

fn enter(config: &ExecConfig) -> Result<()> {
    let gone = |error: Errno| {
        Error::from(error)
            .within(format!("entering the node of process {}", config.pid))
            .hint("run `cluster up`")
    };
    let mut namespaces: Vec<(OwnedFd, CloneFlags)> = Vec::new();
    for (name, flag) in NAMESPACES {
        let path = format!("/proc/{}/ns/{name}", config.pid);
        namespaces.push((
            open(Path::new(&path), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(gone)?,
            flag,
        ));
    }
    for group in &config.groups {
        fs_err::write(group.join("init/cgroup.procs"), "0").context("entering the node's control group")?;
    }
    for (namespace, flag) in &namespaces {
        setns(namespace, *flag).map_err(gone)?;
    }
    let home = config.environment.get("HOME").map_or("/", String::as_str);
    chdir(home).or_else(|_| chdir("/")).context("entering the home directory")
}

/// Replaces this process by the command. Returns only when that failed, with the exit code for it.
#[expect(clippy::print_stderr, reason = "this process stands for the command, whose standard error it has")]
fn replace(config: &ExecConfig) -> u8 {
    let shell = || vec!["/bin/sh".to_owned(), "-l".to_owned()];
    let command = if config.command.is_empty() { shell() } else { config.command.clone() };
    let text = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
    let arguments: Vec<CString> = command.iter().map(|argument| text(argument)).collect();
    let environment: Vec<CString> =
        config.environment.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect();
    let program = find(&command[0], config.environment.get("PATH").map_or("", String::as_str));
    let Err(error) = execvpe(&text(&program), &arguments, &environment);
    eprintln!("cluster: {}: {}", command[0], error.desc());
    if error == Errno::ENOENT { 127 } else { 126 }
}

/// Looks a program up in the node's PATH: execvpe itself uses that of the caller.
fn find(program: &str, path: &str) -> String {
    if program.contains('/') {
        return program.to_owned();
    }
    path.split(':')
        .map(|directory| format!("{directory}/{program}"))
        .find(|candidate| nix::unistd::access(candidate.as_str(), nix::unistd::AccessFlags::X_OK).is_ok())
        .unwrap_or_else(|| program.to_owned())
}

/// Ends with this process: when `cluster` is killed, its command is.
fn die_with_parent() {
    // It fails for no signal that exists.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap_or_default();
}

fn code_of(status: WaitStatus) -> Option<u8> {
    match status {
        WaitStatus::Exited(_, code) => Some(u8::try_from(code).unwrap_or(u8::MAX)),
        WaitStatus::Signaled(_, signal, _) => Some(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)),
        _ => None,
    }
}

fn plain(config: &ExecConfig) -> Result<u8> {
    // SAFETY: this process has one thread, so the child's copy of it is whole.
    match unsafe { fork() }.context("starting the command")? {
        ForkResult::Child => {
            die_with_parent();
            std::process::exit(replace(config).into())
        }
        ForkResult::Parent { child } => {
            // Ctrl-C reaches the command itself, which is in the same process group; this one waits for it.
            for ignored in [Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: ignoring a signal runs no code of ours.
                unsafe { signal(ignored, SigHandler::SigIgn) }.context("ignoring Ctrl-C")?;
            }
            loop {
                match waitpid(child, None) {
                    Ok(status) => {
                        if let Some(code) = code_of(status) {
                            return Ok(code);
                        }
                    }
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(Error::from(error).within("waiting for the command")),
                }
            }
        }
    }
}

fn with_terminal(config: &ExecConfig) -> Result<u8> {
    let master =
        posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).context("opening a terminal")?;
    grantpt(&master).context("opening a terminal")?;
    unlockpt(&master).context("opening a terminal")?;
    let name = ptsname_r(&master).context("opening a terminal")?;
    let slave = open(name.as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())
        .context("opening a terminal")?;
    copy_size(master.as_fd());
    let mut mask = SigSet::empty();
    for wanted in [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP] {
        mask.add(wanted);
    }
    mask.thread_block().context("blocking signals")?;
    // SAFETY: this process has one thread, so the child's copy of it is whole.
    match unsafe { fork() }.context("starting the command")? {
        ForkResult::Child => {
            die_with_parent();
            match terminal_child(&slave) {
                Ok(()) => std::process::exit(replace(config).into()),
                Err(error) => std::process::exit(error.code().into()),
            }
        }
        ForkResult::Parent { child } => {
            drop(slave);
            let signals =
                SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).context("listening for signals")?;
            let _raw = RawMode::enter();
            relay(master.as_fd(), &signals, child)
        }
    }
}

fn terminal_child(slave: &OwnedFd) -> Result<()> {
    SigSet::empty().thread_set_mask()?;
    setsid()?;
    // SAFETY: the request takes a number and touches no memory of ours.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(Error::from(Errno::last()).within("taking the terminal"));
    }
    dup2_stdin(slave)?;
    dup2_stdout(slave)?;
    dup2_stderr(slave)?;
    Ok(())
}

/// Gives the terminal the size of the user's own.
fn copy_size(master: BorrowedFd<'_>) {
    let mut size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both requests read or write one Winsize, which lives through them. Where standard output is no
    // terminal the first one fails, and the size stays as it is.
    unsafe {
        libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size);
        libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size);
    }
}

/// The user's terminal in raw mode; as it was again when dropped.
struct RawMode(Option<Termios>);

impl RawMode {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        Self(tcsetattr(&stdin, SetArg::TCSANOW, &raw).is_ok().then_some(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no restoring.
            tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before).unwrap_or_default();
        }
    }
}

/// Carries bytes until the command has ended and its terminal is empty.
fn relay(master: BorrowedFd<'_>, signals: &SignalFd, child: Pid) -> Result<u8> {
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let mut ended = None;
    let mut input_open = true;
    let mut buffer = [0u8; 16 * 1024];
    loop {
        let mut fds =
            vec![PollFd::new(master, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if input_open {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        // Once the command has ended, what it wrote is in the terminal already.
        let timeout = if ended.is_some() { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Error::from(error).within("waiting for the terminal")),
        }
        let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        if ready(0) {
            match read(master, &mut buffer) {
                Ok(0) => {}
                Ok(length) => {
                    write_all(stdout.as_fd(), &buffer[..length])?;
                    continue;
                }
                // EIO says that every process has closed the terminal; the command's end is told by a signal.
                Err(Errno::EIO) => {
                    if ended.is_none() {
                        ended = wait_for(child)?;
                    }
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(Error::from(error).within("reading the terminal")),
            }
        }
        if let Some(code) = ended {
            return Ok(code);
        }
        if ready(1)
            && let Ok(Some(info)) = signals.read_signal()
        {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGWINCH) => copy_size(master),
                Ok(Signal::SIGCHLD) => {
                    if let Some(code) = code_of(waitpid(child, Some(WaitPidFlag::WNOHANG))?) {
                        ended = Some(code);
                    }
                }
                Ok(other) => match kill(child, other) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(Error::from(error).within("passing a signal on")),
                },
                Err(_) => {}
            }
        }
        if ready(2) {
            match read(stdin.as_fd(), &mut buffer) {
                Ok(0) => {
                    input_open = false;
                    // What the end of input is on a terminal.
                    write_all(master, b"\x04")?;
                }
                Ok(length) => write_all(master, &buffer[..length])?,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => input_open = false,
            }
        }
    }
}

fn wait_for(child: Pid) -> Result<Option<u8>> {
    loop {
        match waitpid(child, None) {
            Ok(status) => {
                if let Some(code) = code_of(status) {
                    return Ok(Some(code));
                }
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Error::from(error).within("waiting for the command")),
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::EINTR) => {}
            // The command or the user's terminal is gone; its end is told elsewhere.
            Err(Errno::EIO | Errno::EPIPE) => return Ok(()),
            Err(error) => return Err(Error::from(error).within("writing to the terminal")),
        }
    }
    Ok(())
}
