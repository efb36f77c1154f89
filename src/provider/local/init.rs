//! The first process of a node: starts its units in order, restarts them with back-off, reaps, keeps logs.
//!
//! One thread and one loop over file descriptors; no timer is set while nothing is due. When it ends, the
//! kernel ends everything else in the node.
//!
//! It is asked over the socket [`SOCKET`], a JSON line each way ([`Request`], [`Status`]).

#![expect(unsafe_code, reason = "a child's signal mask is set between fork and exec")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::plan::Unit;
use crate::provider::{Status, UnitState, UnitStatus};

/// Where the units are described, a JSON file each.
pub(crate) const UNITS: &str = "/etc/cluster/units";
/// Where it listens.
pub(crate) const SOCKET: &str = "/run/init.sock";
const NOTIFY: &str = "/run/notify";
const LOGS: &str = "/var/log";

/// A log is put aside when it has this many bytes; with the one before it, a unit has twice that.
const LOG_BYTES: u64 = 8 << 20;
/// How long units may take to end when the node is shut down.
const GRACE: Duration = Duration::from_secs(5);
/// Waits between restarts: doubled each time, and forgotten after a run of the last length.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Tell the status now and whenever it changes.
    Watch,
    /// Read the units again: start new ones, end those that are gone, and restart these.
    Reload(Vec<String>),
}

struct Running {
    unit: Unit,
    status: UnitStatus,
    notify: UnixDatagram,
    log: Log,
    started: Instant,
    wait: Duration,
    /// When it is started again.
    due: Option<Instant>,
}

/// The first process.
pub(crate) struct Init {
    signals: SignalFd,
    listener: UnixListener,
    units: BTreeMap<String, Running>,
    /// Output of units, also of ones that have ended: their children may still write.
    pipes: Vec<(OwnedFd, String)>,
    clients: Vec<Client>,
    ending: Option<Instant>,
    told: Status,
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    watching: bool,
    closed: bool,
}

/// What a ready file descriptor belongs to.
enum Source {
    Signals,
    Listener,
    Notify(String),
    Pipe(usize),
    Client(usize),
}

impl Init {
    /// Takes over signals and listens. Nothing is started yet.
    pub(crate) fn begin() -> Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block().context("blocking signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("listening for signals")?;
        fs_err::create_dir_all(NOTIFY)?;
        fs_err::create_dir_all(LOGS)?;
        let listener = UnixListener::bind(SOCKET).context(format!("listening on {SOCKET}"))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            signals,
            listener,
            units: BTreeMap::new(),
            pipes: Vec::new(),
            clients: Vec::new(),
            ending: None,
            told: Status::default(),
        })
    }

    /// Runs until it is told to end.
    pub(crate) fn run(mut self) -> Result<()> {
        self.load()?;
        loop {
            self.start_due()?;
            self.tell();
            if let Some(since) = self.ending {
                let alive = self.units.values().any(|unit| unit.status.pid.is_some());
                if !alive || since.elapsed() >= GRACE {
                    return Ok(());
                }
            }
            for source in self.wait()? {
                self.handle(source)?;
            }
            self.pipes.retain(|(_, unit)| !unit.is_empty());
            self.clients.retain(|client| !client.closed);
        }
    }

    fn wait(&self) -> Result<Vec<Source>> {
        let startable = self.units.values().filter(|unit| !self.blocked(unit));
        let next = startable.filter_map(|unit| unit.due).chain(self.ending.map(|since| since + GRACE)).min();
        let timeout = next.map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(Instant::now()).as_millis().min(60_000);
            // Rounded up, so that the loop does not spin in the last millisecond.
            u16::try_from(left + 1).map_or(PollTimeout::MAX, PollTimeout::from)
        });
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd(), self.listener.as_fd()];
        for (name, unit) in &self.units {
            sources.push(Source::Notify(name.clone()));
            fds.push(unit.notify.as_fd());
        }
        for (index, (pipe, _)) in self.pipes.iter().enumerate() {
            sources.push(Source::Pipe(index));
            fds.push(pipe.as_fd());
        }
        for (index, client) in self.clients.iter().enumerate() {
            sources.push(Source::Client(index));
            fds.push(client.stream.as_fd());
        }
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Error::from(error).within("waiting for events")),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        Ok(sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }

    fn handle(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Signals => self.signals(),
            Source::Listener => {
                while let Ok((stream, _)) = self.listener.accept() {
                    stream.set_nonblocking(true)?;
                    self.clients.push(Client { stream, input: Vec::new(), watching: false, closed: false });
                }
                Ok(())
            }
            Source::Notify(name) => {
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.hear();
                }
                Ok(())
            }
            Source::Pipe(index) => {
                self.copy_output(index);
                Ok(())
            }
            Source::Client(index) => self.listen_to(index),
        }
    }

    fn signals(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.read_signal().context("reading signals")? {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                self.reap()?;
            } else if self.ending.is_none() {
                self.ending = Some(Instant::now());
                for unit in self.units.values_mut() {
                    unit.due = None;
                    unit.end();
                }
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::from_raw(code << 8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::from_raw(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
                Ok(_) => continue,
                Err(error) => return Err(Error::from(error).within("reaping")),
            };
            // A process that is no unit's was orphaned: a shim's child, say. Reaping it is all that is due.
            let unit = self.units.values().find(|unit| unit.status.pid == Some(pid.as_raw()));
            let Some(name) = unit.map(|unit| unit.unit.name.clone()) else { continue };
            // Its last words come before the word of its end.
            for index in 0..self.pipes.len() {
                if self.pipes[index].1 == name {
                    self.copy_output(index);
                }
            }
            if let Some(unit) = self.units.values_mut().find(|unit| unit.status.pid == Some(pid.as_raw())) {
                unit.ended(status, self.ending.is_some());
            }
        }
    }

    /// Reads the units' descriptions.
    fn load(&mut self) -> Result<()> {
        let mut wanted = BTreeMap::new();
        match fs_err::read_dir(UNITS) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry?.path();
                    if path.extension().is_some_and(|extension| extension == "json") {
                        let unit: Unit = serde_json::from_slice(&fs_err::read(&path)?)
                            .context(format!("reading {}", path.display()))?;
                        wanted.insert(unit.name.clone(), unit);
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.units.retain(|name, running| {
            let kept = wanted.contains_key(name);
            if !kept {
                running.end();
            }
            kept
        });
        for (name, unit) in wanted {
            match self.units.get_mut(&name) {
                Some(running) => running.unit = unit,
                None => {
                    self.units.insert(name, Running::new(unit)?);
                }
            }
        }
        Ok(())
    }

    /// Returns whether a unit may not be started yet. The order holds for the first start: later a unit
    /// finds its own way back, as its peers do.
    fn blocked(&self, running: &Running) -> bool {
        running.status.restarts == 0
            && running
                .unit
                .after
                .iter()
                .any(|name| self.units.get(name).is_some_and(|unit| unit.status.state != UnitState::Ready))
    }

    /// Starts every unit that is due and whose predecessors are ready.
    fn start_due(&mut self) -> Result<()> {
        if self.ending.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let due: Vec<String> = self
            .units
            .iter()
            .filter(|(_, unit)| {
                unit.status.pid.is_none() && unit.due.is_some_and(|due| due <= now) && !self.blocked(unit)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            if let Some(running) = self.units.get_mut(&name)
                && let Some(pipe) = running.start()?
            {
                self.pipes.push((pipe, name));
            }
        }
        Ok(())
    }

    fn copy_output(&mut self, index: usize) {
        let Some((pipe, name)) = self.pipes.get_mut(index) else { return };
        let mut buffer = [0u8; 16 * 1024];
        match nix::unistd::read(pipe.as_fd(), &mut buffer) {
            Ok(0) => name.clear(),
            Ok(length) => {
                // When the unit is gone from the node, what its children still say is dropped.
                if let Some(unit) = self.units.get_mut(name.as_str()) {
                    unit.log.append(&buffer[..length]);
                }
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(_) => name.clear(),
        }
    }

    fn listen_to(&mut self, index: usize) -> Result<()> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        let mut buffer = [0u8; 4096];
        match client.stream.read(&mut buffer) {
            Ok(0) => {
                client.close();
                return Ok(());
            }
            Ok(length) => client.input.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => {
                client.close();
                return Ok(());
            }
        }
        let mut requests = Vec::new();
        while let Some(end) = client.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = client.input.drain(..=end).collect();
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => requests.push(request),
                Err(_) => client.close(),
            }
        }
        for request in requests {
            match request {
                Request::Watch => {
                    let status = self.status();
                    if let Some(client) = self.clients.get_mut(index) {
                        client.watching = true;
                        client.send(&status);
                    }
                }
                Request::Reload(restart) => {
                    self.load()?;
                    for name in restart {
                        if let Some(unit) = self.units.get_mut(&name) {
                            unit.restart();
                        }
                    }
                    self.start_due()?;
                    let status = self.status();
                    if let Some(client) = self.clients.get_mut(index) {
                        client.send(&status);
                    }
                }
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status { units: self.units.iter().map(|(name, unit)| (name.clone(), unit.status.clone())).collect() }
    }

    /// Tells everyone who watches what has changed.
    fn tell(&mut self) {
        let status = self.status();
        if status == self.told {
            return;
        }
        for client in self.clients.iter_mut().filter(|client| client.watching) {
            client.send(&status);
        }
        self.told = status;
    }
}

impl Client {
    fn send(&mut self, status: &Status) {
        let Ok(mut line) = serde_json::to_vec(status) else { return };
        line.push(b'\n');
        // A watcher that does not read is not waited for: the node's life must not hang on it.
        if self.stream.write_all(&line).is_err() {
            self.close();
        }
    }

    /// Forgets the client; its socket is closed at the end of the round.
    fn close(&mut self) {
        self.closed = true;
    }
}

impl Running {
    fn new(unit: Unit) -> Result<Self> {
        let path = notify_path(&unit.name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let notify = UnixDatagram::bind(&path).context(format!("listening on {}", path.display()))?;
        notify.set_nonblocking(true)?;
        Ok(Self {
            log: Log::open(&Path::new(LOGS).join(format!("{}.log", unit.name)))?,
            unit,
            notify,
            status: UnitStatus { state: UnitState::Waiting, restarts: 0, text: String::new(), pid: None },
            started: Instant::now(),
            wait: FIRST_WAIT,
            due: Some(Instant::now()),
        })
    }

    /// Starts the program; returns the pipe of its output. A program that cannot be started has failed.
    fn start(&mut self) -> Result<Option<OwnedFd>> {
        self.due = None;
        self.started = Instant::now();
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("making a pipe")?;
        // Only this end: the program's writes wait when the pipe is full, as to any file.
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .context("making a pipe")?;
        let Some((program, arguments)) = self.unit.command.split_first() else {
            self.failed("the unit has no command".into());
            return Ok(None);
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", super::NODE_PATH)
            .env("HOME", "/root")
            .env("NOTIFY_SOCKET", notify_path(&self.unit.name))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(write.try_clone()?)
            .stderr(write);
        // SAFETY: only system calls that are safe between fork and exec are made.
        unsafe {
            command.pre_exec(|| {
                SigSet::empty().thread_set_mask()?;
                nix::unistd::setsid()?;
                Ok(())
            });
        }
        match command.spawn() {
            Ok(child) => {
                self.status.pid = i32::try_from(child.id()).ok();
                self.status.state = if self.unit.notifies { UnitState::Starting } else { UnitState::Ready };
                Ok(Some(read))
            }
            Err(error) => {
                self.log.append(format!("init: starting {program}: {error}\n").as_bytes());
                self.failed(format!("starting {program}: {error}"));
                Ok(None)
            }
        }
    }

    fn failed(&mut self, text: String) {
        self.status.state = UnitState::Failed;
        self.status.text = text;
        self.status.restarts += 1;
        if self.started.elapsed() >= GOOD_RUN {
            self.wait = FIRST_WAIT;
        }
        self.due = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    }

    fn ended(&mut self, status: ExitStatus, for_good: bool) {
        self.status.pid = None;
        self.log.append(format!("init: {} ended: {status}\n", self.unit.name).as_bytes());
        if for_good {
            self.status.state = UnitState::Failed;
            self.status.text = status.to_string();
            return;
        }
        self.failed(status.to_string());
    }

    /// Asks the program to end.
    fn end(&mut self) {
        if let Some(pid) = self.status.pid {
            match kill(Pid::from_raw(pid), Signal::SIGTERM) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => {
                    self.log.append(format!("init: ending {}: {error}\n", self.unit.name).as_bytes());
                }
            }
        }
    }

    /// Ends the program, to be started again at once.
    fn restart(&mut self) {
        self.wait = Duration::ZERO;
        if self.status.pid.is_some() {
            self.status.state = UnitState::Starting;
            self.end();
        } else {
            self.due = Some(Instant::now());
        }
    }

    /// Reads what the program says of itself.
    fn hear(&mut self) {
        let mut buffer = [0u8; 4096];
        while let Ok(length) = self.notify.recv(&mut buffer) {
            for line in String::from_utf8_lossy(&buffer[..length]).lines() {
                if line == "READY=1" && self.status.pid.is_some() {
                    self.status.state = UnitState::Ready;
                } else if let Some(text) = line.strip_prefix("STATUS=") {
                    self.status.text = text.to_owned();
                }
            }
        }
    }
}

fn notify_path(unit: &str) -> PathBuf {
    Path::new(NOTIFY).join(format!("{unit}.sock"))
}

/// A log of bounded size: the file and the one before it.
struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file: Some(file.into_parts().0), bytes })
    }

    /// Appends. A disk that is full loses log lines, not the node.
    fn append(&mut self, text: &[u8]) {
        if self.bytes + text.len() as u64 > LOG_BYTES {
            self.file = None;
            let old = self.path.with_extension("log.1");
            if std::fs::rename(&self.path, old).is_ok() {
                self.bytes = 0;
            }
        }
        if self.file.is_none() {
            self.file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file
            && file.write_all(text).is_ok()
        {
            self.bytes += text.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_put_aside_when_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("unit.log");
        let mut log = Log::open(&path).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            log.append(&line);
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= LOG_BYTES);
        assert!(std::fs::metadata(directory.path().join("unit.log.1")).unwrap().len() <= LOG_BYTES);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
