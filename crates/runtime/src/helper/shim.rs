//! The shim: one small process for each container. It has the container started, keeps its streams and its log,
//! and writes down how it ended. It lives on when the node agent dies.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use machinery::clock::Clock;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::log::{Lines, Log};
use super::protocol::{self, Exit, Kind, Parsed};
use super::runner::{self, Stdio};
use super::streams::{self, Outcome};

/// How much may wait for an attached client before the container's output is no longer read. Whoever attaches and
/// does not read slows the container down, but misses nothing.
const MOST_WAITING: usize = 256 * 1024;
/// How much input may wait for the container before no more is taken from clients.
const MOST_INPUT: usize = 64 * 1024;
/// How much is read at once.
const BUFFER: usize = 32 * 1024;
/// How long clients have to take the last output after the container has ended, in milliseconds.
const FAREWELL: u16 = 10_000;
/// The name of the socket that a terminal arrives on.
const CONSOLE: &str = "console.sock";

/// What the engine says on the command line.
struct Arguments {
    run_directory: PathBuf,
    exit_file: PathBuf,
    log_file: PathBuf,
    memory_events: PathBuf,
    tty: bool,
    stdin: bool,
    stdin_once: bool,
}

impl Arguments {
    fn parse(arguments: &[OsString]) -> Option<Self> {
        let [run_directory, exit_file, log_file, memory_events, flags] = arguments else { return None };
        let flags = flags.to_str()?;
        Some(Self {
            run_directory: run_directory.into(),
            exit_file: exit_file.into(),
            log_file: log_file.into(),
            memory_events: memory_events.into(),
            tty: flags.contains('t'),
            stdin: flags.contains('i'),
            stdin_once: flags.contains('o'),
        })
    }
}

/// Runs the shim. Standard input is the engine's connection, standard output the lock on the image.
pub(super) fn main(arguments: &[OsString]) -> ExitCode {
    let Some(arguments) = Arguments::parse(arguments) else { return ExitCode::from(2) };
    let Ok((engine, _image_lock)) = streams::take_over() else { return ExitCode::from(2) };
    match Shim::start(arguments, engine) {
        Ok(mut shim) => shim.run(),
        Err((mut engine, why)) => {
            let mut frame = Vec::new();
            protocol::put(&mut frame, Kind::Failed, why.as_bytes());
            match engine.write_all(&frame) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// A connection to the shim's socket.
struct Client {
    socket: UnixStream,
    received: Vec<u8>,
    waiting: Vec<u8>,
    watches: bool,
    attached: bool,
    gone: bool,
}

impl Client {
    fn new(socket: UnixStream) -> Self {
        let (received, waiting) = (Vec::new(), Vec::new());
        Self { socket, received, waiting, watches: false, attached: false, gone: false }
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) {
        protocol::put(&mut self.waiting, kind, payload);
    }

    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match streams::write(&self.socket, &mut self.waiting) {
            Outcome::Ended => self.gone = true,
            Outcome::Moved(_) | Outcome::Blocked => {}
        }
    }
}

struct Shim {
    arguments: Arguments,
    signals: SignalFd,
    listener: UnixListener,
    console: Option<UnixListener>,
    clients: Vec<Client>,
    log: Log,
    out_lines: Lines,
    err_lines: Lines,
    /// Standard output, or the terminal.
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    input: Option<OwnedFd>,
    input_waiting: Vec<u8>,
    input_ends: bool,
    /// What the process that starts the container reports, until it has.
    report: Option<OwnedFd>,
    reported: Vec<u8>,
    pid: Option<Pid>,
    /// Children that ended before it was known which one is the container.
    ended: Vec<(Pid, i32)>,
    exit: Option<(i32, Timestamp)>,
    failed: bool,
    buffer: Vec<u8>,
}

impl Shim {
    fn start(arguments: Arguments, engine: UnixStream) -> Result<Self, (UnixStream, String)> {
        match Self::prepare(arguments) {
            Ok(mut shim) => {
                let mut client = Client::new(engine);
                client.watches = true;
                shim.clients.push(client);
                Ok(shim)
            }
            Err(why) => Err((engine, why)),
        }
    }

    fn prepare(arguments: Arguments) -> Result<Self, String> {
        // Sockets are bound by their bare names, since their whole paths may be too long for an address.
        std::env::set_current_dir(&arguments.run_directory)
            .map_err(|error| format!("entering {}: {error}", arguments.run_directory.display()))?;
        nix::unistd::setsid().map_err(|error| format!("starting a session: {error}"))?;
        prctl::set_child_subreaper(true).map_err(|error| format!("becoming a subreaper: {error}"))?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            mask.add(signal);
        }
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)
            .map_err(|error| format!("blocking signals: {error}"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| format!("receiving signals: {error}"))?;
        let listener = listen(protocol::SOCKET)?;
        let console = if arguments.tty { Some(listen(CONSOLE)?) } else { None };
        let log = Log::open(&arguments.log_file)
            .map_err(|error| format!("opening the log {}: {error}", arguments.log_file.display()))?;
        let (report, report_to) = streams::pipe()?;
        let mut stdio = Stdio { input: None, out: None, err: None, console: None };
        let (mut out, mut err, mut input) = (None, None, None);
        if arguments.tty {
            stdio.console = Some(arguments.run_directory.join(CONSOLE));
        } else {
            let (read, write) = streams::pipe()?;
            (out, stdio.out) = (Some(read), Some(write));
            let (read, write) = streams::pipe()?;
            (err, stdio.err) = (Some(read), Some(write));
            if arguments.stdin {
                let (read, write) = streams::pipe()?;
                (stdio.input, input) = (Some(read), Some(write));
            }
        }
        // Libcontainer works in a child, so that the memory it takes goes with that child.
        runner::spawn(stdio, report_to)?;
        for fd in [Some(&report), out.as_ref(), err.as_ref(), input.as_ref()].into_iter().flatten() {
            streams::nonblocking(fd)?;
        }
        Ok(Self {
            arguments,
            signals,
            listener,
            console,
            clients: Vec::new(),
            log,
            out_lines: Lines::new("stdout"),
            err_lines: Lines::new("stderr"),
            out,
            err,
            input,
            input_waiting: Vec::new(),
            input_ends: false,
            report: Some(report),
            reported: Vec::new(),
            pid: None,
            ended: Vec::new(),
            exit: None,
            failed: false,
            buffer: vec![0; BUFFER],
        })
    }

    fn run(&mut self) -> ExitCode {
        while self.exit.is_none() && !self.failed {
            if self.turn(PollTimeout::NONE).is_err() {
                return ExitCode::FAILURE;
            }
        }
        let file = self.farewell();
        let until = machinery::clock::SystemClock.now();
        while self.clients.iter().any(|client| !client.waiting.is_empty()) {
            let passed = machinery::clock::SystemClock.now().duration_since(until).as_millis();
            if passed >= i128::from(FAREWELL) || self.turn(PollTimeout::from(FAREWELL)).is_err() {
                break;
            }
        }
        // The file is in place for every reader already; what takes time is to make it outlive a power cut.
        match file.map(|file| file.sync_all()) {
            Some(Err(_)) => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        }
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, timeout: PollTimeout) -> Result<(), Errno> {
        let congested = self.clients.iter().any(|client| client.waiting.len() > MOST_WAITING);
        let input_full = self.input_waiting.len() > MOST_INPUT;
        let reading = PollFlags::POLLIN;
        let none = PollFlags::empty();
        let output = if congested { none } else { reading };
        let input = self.input.as_ref().or(if self.arguments.tty { self.out.as_ref() } else { None });
        let wants = if input.is_some() && !self.input_waiting.is_empty() { PollFlags::POLLOUT } else { none };
        let mut fds =
            vec![PollFd::new(self.signals.as_fd(), reading), PollFd::new(self.listener.as_fd(), reading)];
        for (fd, flags) in [
            (self.report.as_ref(), reading),
            (self.out.as_ref(), output),
            (self.err.as_ref(), output),
            (input, wants),
        ] {
            // What is closed, or not wanted now, keeps its place, so that the results can be told apart. A
            // descriptor that hung up would wake for nothing, so it is not even named.
            fds.push(match fd {
                Some(fd) if flags != none => PollFd::new(fd.as_fd(), flags),
                _ => PollFd::new(self.signals.as_fd(), none),
            });
        }
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, !input_full || !client.attached);
            flags.set(PollFlags::POLLOUT, !client.waiting.is_empty());
            fds.push(PollFd::new(client.socket.as_fd(), flags));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let ready: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        if self.report.is_some() && ready[2].intersects(readable) {
            self.read_report();
        }
        if self.out.is_some() && !congested && ready[3].intersects(readable) {
            self.read_output(Kind::Stdout);
        }
        if self.err.is_some() && !congested && ready[4].intersects(readable) {
            self.read_output(Kind::Stderr);
        }
        if ready[5].intersects(PollFlags::POLLOUT | PollFlags::POLLERR) {
            self.write_input();
        }
        for (index, flags) in ready[6..].iter().enumerate() {
            if flags.intersects(readable) {
                self.read_client(index);
            }
            self.clients[index].flush();
        }
        self.drop_clients();
        if ready[0].intersects(readable) {
            self.reap();
        }
        if ready[1].intersects(readable)
            && let Ok((socket, _)) = self.listener.accept()
            && socket.set_nonblocking(true).is_ok()
        {
            self.clients.push(Client::new(socket));
        }
        Ok(())
    }

    fn read_report(&mut self) {
        let Some(report) = &self.report else { return };
        match streams::read(report, &mut self.buffer) {
            Outcome::Moved(count) => self.reported.extend_from_slice(&self.buffer[..count]),
            Outcome::Blocked => {}
            Outcome::Ended => {
                self.report = None;
                self.started();
            }
        }
    }

    /// The container runs, or it does not.
    fn started(&mut self) {
        let text = String::from_utf8_lossy(&self.reported).into_owned();
        let pid = text.strip_prefix('P').and_then(|pid| pid.parse().ok());
        let Some(pid) = pid else {
            let why =
                text.strip_prefix('E').unwrap_or("the process that was to start it ended without a word");
            self.failed = true;
            self.tell(Kind::Failed, why.as_bytes());
            return;
        };
        let pid = Pid::from_raw(pid);
        self.pid = Some(pid);
        if let Some(console) = &self.console {
            match streams::receive_terminal(console) {
                Ok(terminal) => self.out = Some(terminal),
                Err(why) => {
                    // Without its terminal it cannot do what it is for.
                    self.tell(Kind::Failed, why.as_bytes());
                    if nix::sys::signal::kill(pid, Signal::SIGKILL).is_err() {
                        self.failed = true;
                    }
                    return;
                }
            }
        }
        self.tell(Kind::Started, &pid.as_raw().to_le_bytes());
        if let Some((_, code)) = self.ended.iter().find(|(ended, _)| *ended == pid) {
            self.exit = Some((*code, machinery::clock::SystemClock.now()));
        }
        self.ended.clear();
    }

    fn tell(&mut self, kind: Kind, payload: &[u8]) {
        for client in self.clients.iter_mut().filter(|client| client.watches || client.attached) {
            client.send(kind, payload);
            client.flush();
        }
    }

    fn read_output(&mut self, kind: Kind) -> Outcome {
        let (fd, lines) = match kind {
            Kind::Stderr => (&mut self.err, &mut self.err_lines),
            _ => (&mut self.out, &mut self.out_lines),
        };
        let Some(open) = fd else { return Outcome::Ended };
        let outcome = streams::read(open, &mut self.buffer);
        let now = machinery::clock::SystemClock.now();
        match outcome {
            Outcome::Moved(count) => {
                let data = &self.buffer[..count];
                self.log.write(lines, data, now);
                for client in self.clients.iter_mut().filter(|client| client.attached) {
                    client.send(kind, data);
                }
            }
            Outcome::Blocked => {}
            Outcome::Ended => *fd = None,
        }
        outcome
    }

    fn write_input(&mut self) {
        let input = self.input.as_ref().or(if self.arguments.tty { self.out.as_ref() } else { None });
        let Some(fd) = input else {
            self.input_waiting.clear();
            return;
        };
        if matches!(streams::write(fd, &mut self.input_waiting), Outcome::Ended) {
            self.input_waiting.clear();
            self.input = None;
        }
        self.end_input();
    }

    fn end_input(&mut self) {
        if self.input_ends && self.input_waiting.is_empty() {
            self.input = None;
        }
    }

    fn read_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        match streams::read(&client.socket, &mut self.buffer) {
            Outcome::Moved(count) => client.received.extend_from_slice(&self.buffer[..count]),
            Outcome::Blocked => return,
            Outcome::Ended => {
                client.gone = true;
                return;
            }
        }
        let received = std::mem::take(&mut client.received);
        let mut at = 0;
        loop {
            match protocol::parse(&received[at..]) {
                Parsed::Partial => break,
                Parsed::Garbage => {
                    self.clients[index].gone = true;
                    return;
                }
                Parsed::Frame(kind, payload, length) => {
                    self.request(index, kind, payload);
                    at += length;
                }
            }
        }
        self.clients[index].received = received[at..].to_vec();
    }

    fn request(&mut self, index: usize, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Watch => {
                let client = &mut self.clients[index];
                client.watches = true;
                if let Some(pid) = self.pid {
                    client.send(Kind::Started, &pid.as_raw().to_le_bytes());
                }
            }
            Kind::Attach => {
                self.clients[index].attached = true;
                self.clients[index].send(Kind::Done, b"");
            }
            Kind::Signal => {
                let answer = self.signal(payload);
                self.answer(index, answer);
            }
            Kind::ReopenLog => {
                let answer = self.log.reopen().map_err(|error| error.to_string());
                self.answer(index, answer);
            }
            Kind::Stdin if self.clients[index].attached => {
                if self.input.is_some() || self.arguments.tty {
                    self.input_waiting.extend_from_slice(payload);
                    self.write_input();
                }
            }
            Kind::StdinEnd if self.clients[index].attached => self.input_left(),
            Kind::Resize => {
                if let (true, Some(terminal), &[a, b, c, d]) = (self.arguments.tty, &self.out, payload) {
                    let (columns, rows) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
                    if let Err(why) = streams::resize(terminal.as_raw_fd(), columns, rows) {
                        self.answer(index, Err(why.to_string()));
                    }
                }
            }
            _ => self.clients[index].gone = true,
        }
    }

    fn answer(&mut self, index: usize, answer: Result<(), String>) {
        match answer {
            Ok(()) => self.clients[index].send(Kind::Done, b""),
            Err(why) => self.clients[index].send(Kind::Refused, why.as_bytes()),
        }
    }

    fn signal(&self, payload: &[u8]) -> Result<(), String> {
        let number = <[u8; 4]>::try_from(payload).map_err(|_| "no signal was named".to_owned())?;
        let (Some(pid), None) = (self.pid, &self.exit) else { return Ok(()) };
        // The shim is the parent and has not reaped it, so the number cannot belong to another process.
        streams::kill(pid, i32::from_le_bytes(number)).map_err(|error| error.to_string())
    }

    /// A client that gave input gives no more.
    fn input_left(&mut self) {
        if self.arguments.stdin_once && !self.arguments.tty {
            self.input_ends = true;
            self.end_input();
        }
    }

    fn drop_clients(&mut self) {
        let attached_left = self.clients.iter().any(|client| client.gone && client.attached);
        self.clients.retain(|client| !client.gone);
        if attached_left {
            self.input_left();
        }
    }

    fn reap(&mut self) {
        // The descriptor only wakes; waiting tells who ended. A request to end is for nobody: shims end with
        // their containers.
        while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if self.pid == Some(pid) {
                self.exit = Some((code, machinery::clock::SystemClock.now()));
            } else if self.pid.is_none() {
                self.ended.push((pid, code));
            }
        }
    }

    /// Takes the last output, writes down the exit and tells everybody.
    fn farewell(&mut self) -> Option<File> {
        let (code, finished_at) = self.exit?;
        // What the container wrote is in the pipes by now. Somebody else may hold them open, so their end is not
        // waited for.
        for kind in [Kind::Stdout, Kind::Stderr] {
            while matches!(self.read_output(kind), Outcome::Moved(_)) {}
        }
        self.log.finish(&mut self.out_lines, finished_at);
        self.log.finish(&mut self.err_lines, finished_at);
        let out_of_memory = code != 0 && killed_for_memory(&self.arguments.memory_events);
        let exit = Exit { code, out_of_memory, finished_at };
        let json = serde_json::to_vec(&exit).expect("numbers and a time can be written as JSON");
        let file = write_exit(&self.arguments.exit_file, &json);
        self.tell(Kind::Exited, &json);
        file.ok()
    }
}

fn listen(name: &str) -> Result<UnixListener, String> {
    let listener = UnixListener::bind(name).map_err(|error| format!("listening on {name}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("listening on {name}: {error}"))?;
    Ok(listener)
}

fn write_exit(path: &Path, json: &[u8]) -> std::io::Result<File> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(json)?;
    std::fs::rename(&new, path)?;
    Ok(file)
}

fn killed_for_memory(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    })
}
