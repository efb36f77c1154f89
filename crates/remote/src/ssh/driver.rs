//! The thread of a connection: the only one that touches its libssh2 session.
//!
//! Only one connection of the process is inside libssh2 at a time ([`TURN`]). The session is non-blocking. One loop moves every channel as far as it goes and then sleeps until the socket or
//! a future has something for it. libssh2 has one rule that shapes this: when a packet is half sent, only the same
//! call may go on, so [`Wire::settle`] stays with it until the packet is out.

use std::io::{ErrorKind, Read as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode, Session};

use super::channel::{Kind, Shared};
use super::lane::{Lane, Move};

/// Held by whichever connection is inside libssh2. OpenSSL's own build leaves out its locks when it is told `-static`,
/// as it is for an executable that needs no libc ("-static" disables "threads" in its Configure): two threads in it at
/// once corrupt what it keeps for the whole process. A connection holds the turn for all but its sleeps.
static TURN: Mutex<()> = Mutex::new(());

/// libssh2's code for "not now".
const EAGAIN: i32 = -37;
/// libssh2's codes for a refusal: AUTHENTICATION_FAILED, PUBLICKEY_UNVERIFIED, CHANNEL_FAILURE, CHANNEL_REQUEST_DENIED.
const REFUSALS: [i32; 4] = [-18, -19, -21, -22];

/// Why a call did not succeed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The far side does not want to.
    Refused(String),
    /// The connection is of no more use.
    Broken(String),
}

impl Fault {
    pub(super) fn of(error: &ssh2::Error) -> Self {
        match error.code() {
            ErrorCode::Session(code) if REFUSALS.contains(&code) => Self::Refused(error.message().into()),
            _ => Self::Broken(error.message().into()),
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Refused(why) | Self::Broken(why) => why,
        }
    }
}

/// An error of libssh2, whichever way it was handed over.
pub(super) trait WouldBlock {
    fn would_block(&self) -> bool;
    fn fault(&self) -> Fault;
}

impl WouldBlock for ssh2::Error {
    fn would_block(&self) -> bool {
        self.code() == ErrorCode::Session(EAGAIN)
    }

    fn fault(&self) -> Fault {
        Fault::of(self)
    }
}

impl WouldBlock for std::io::Error {
    fn would_block(&self) -> bool {
        self.kind() == ErrorKind::WouldBlock
    }

    fn fault(&self) -> Fault {
        Fault::Broken(self.to_string())
    }
}

/// How long to be patient with a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// After so much silence from this side, the far side is asked whether it is there; zero is never.
    pub(super) keepalive: Duration,
    /// After so much silence from the far side, the connection is given up.
    pub(super) silence: Duration,
}

/// The session with what is needed to wait for it.
pub(super) struct Wire {
    pub(super) session: Session,
    socket: TcpStream,
    bell: UnixStream,
    pub(super) shared: Arc<Shared>,
    pub(super) patience: Patience,
    /// When the far side last gave a sign of life.
    heard: Instant,
    /// The last field: it is given up after the session is freed.
    turn: MutexGuard<'static, ()>,
}

impl Wire {
    /// Makes a session on a connected socket.
    pub(super) fn new(
        stream: TcpStream,
        bell: UnixStream,
        shared: Arc<Shared>,
        patience: Patience,
    ) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        stream.set_nonblocking(true).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        bell.set_nonblocking(true).map_err(text)?;
        let socket = stream.try_clone().map_err(text)?;
        let turn = TURN.lock();
        let mut session = Session::new().map_err(|error| error.to_string())?;
        session.set_tcp_stream(stream);
        session.set_blocking(false);
        Ok(Self { session, socket, bell, shared, patience, heard: Instant::now(), turn })
    }

    /// Calls `call`, and again as long as it has a packet half sent. `None`: it waits for the far side.
    pub(super) fn settle<T, E: WouldBlock>(
        &mut self,
        mut call: impl FnMut() -> Result<T, E>,
    ) -> Result<Option<T>, Fault> {
        let since = Instant::now();
        loop {
            match call() {
                Ok(done) => {
                    return Ok(Some(done));
                }
                Err(error) if error.would_block() => match self.session.block_directions() {
                    BlockDirections::Outbound | BlockDirections::Both => {
                        if !self.wait(PollFlags::OUT, self.patience.silence)?
                            && since.elapsed() >= self.patience.silence
                        {
                            return Err(Fault::Broken(format!(
                                "it took nothing for {:?}",
                                self.patience.silence
                            )));
                        }
                    }
                    BlockDirections::Inbound | BlockDirections::None => return Ok(None),
                },
                Err(error) => return Err(error.fault()),
            }
        }
    }

    /// Calls `call` until it is done, waiting for the far side: for what comes before there are channels.
    pub(super) fn finish<T>(
        &mut self,
        deadline: Instant,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, Fault> {
        loop {
            if let Some(done) = self.settle(&mut call)? {
                return Ok(done);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::Broken("it did not answer in time".into()));
            }
            self.wait(PollFlags::IN, left)?;
        }
    }

    /// Sleeps until the socket is ready, a future rings, or `most` has passed; true when the socket is ready.
    fn wait(&mut self, interest: PollFlags, most: Duration) -> Result<bool, Fault> {
        if self.shared.stopped() {
            return Err(Fault::Broken("it was closed from this side".into()));
        }
        let limit = Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        };
        let mut ready = [
            PollFd::from_borrowed_fd(self.socket.as_fd(), interest),
            PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
        ];
        match MutexGuard::unlocked(&mut self.turn, || poll(&mut ready, Some(&limit))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Fault::Broken(format!("waiting for its socket: {error}"))),
        }
        let socket = ready[0].revents();
        if !ready[1].revents().is_empty() {
            let mut rings = [0; 64];
            while matches!((&self.bell).read(&mut rings), Ok(count) if count > 0) {}
            self.shared.heard();
        }
        if self.shared.stopped() {
            return Err(Fault::Broken("it was closed from this side".into()));
        }
        if socket.contains(PollFlags::IN) {
            self.heard = Instant::now();
        }
        // An error or a hang-up shows itself in the next call to libssh2.
        Ok(!socket.is_empty())
    }

    /// Asks the far side for a sign of life when it is time, and says how long to sleep at most.
    fn keep_alive(&mut self) -> Result<Duration, Fault> {
        let Patience { keepalive, silence } = self.patience;
        let silent = self.heard.elapsed();
        if silent >= silence {
            return Err(Fault::Broken(format!("it was silent for {silent:.0?}")));
        }
        let left = silence.saturating_sub(silent);
        if keepalive.is_zero() {
            return Ok(left);
        }
        // libssh2 forgets a keepalive that the socket did not take whole, which would jam it: only when there is room.
        let mut ready = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::OUT)];
        if !matches!(poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1)) {
            return Ok(left.min(keepalive));
        }
        let next = self.session.keepalive_send().map_err(|error| Fault::of(&error))?;
        Ok(left.min(Duration::from_secs(next.max(1).into())))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // First, so that freeing the session has nothing to wait for.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// What is being opened: libssh2 opens one channel at a time.
enum Opening {
    /// A channel for the next command; reading it meanwhile keeps the connection alive while nothing runs.
    Spare,
    /// This one.
    Lane(Lane),
}

/// Serves the channels of a logged-in session until it breaks or is closed; returns why.
pub(super) fn serve(mut wire: Wire) -> String {
    let mut channels = Channels::default();
    loop {
        // A large upload does not sleep: others get their turn in between.
        MutexGuard::bump(&mut wire.turn);
        match channels.turn(&mut wire) {
            Ok(()) => {}
            Err(fault) => {
                let why = fault.text();
                // Before the lanes go: whoever sees its lane gone asks why.
                wire.shared.end(&why);
                let _ = wire.socket.shutdown(Shutdown::Both);
                return why;
            }
        }
    }
}

#[derive(Default)]
struct Channels {
    lanes: Vec<Lane>,
    opening: Option<Opening>,
    spare: Option<ssh2::Channel>,
    /// The far side allows no channel in advance.
    no_spare: bool,
}

impl Channels {
    /// Moves everything as far as it goes, then sleeps.
    fn turn(&mut self, wire: &mut Wire) -> Result<(), Fault> {
        let mut moved = self.open(wire)?;
        // Whether anything reads the socket: when nobody does, its being readable must not wake us.
        let mut reading = self.opening.is_some();
        for lane in &mut self.lanes {
            let outcome = lane.advance(wire)?;
            moved |= outcome.moved;
            reading |= outcome.reading;
        }
        self.lanes.retain(|lane| !lane.done());
        if let Some(spare) = &mut self.spare
            && !reading
        {
            let mut one = [0; 1];
            reading = true;
            match wire.settle(|| spare.read(&mut one))? {
                None => {}
                // Nothing was started in it: it was closed from the far side.
                Some(_) => {
                    self.spare = None;
                    self.no_spare = true;
                }
            }
        }
        if moved {
            wire.heard = Instant::now();
            return if wire.shared.stopped() {
                Err(Fault::Broken("it was closed from this side".into()))
            } else {
                Ok(())
            };
        }
        if !reading {
            wire.heard = Instant::now();
        }
        let most = wire.keep_alive()?;
        wire.wait(if reading { PollFlags::IN } else { PollFlags::empty() }, most)?;
        Ok(())
    }

    /// Goes on with opening channels; says whether something moved.
    fn open(&mut self, wire: &mut Wire) -> Result<bool, Fault> {
        let mut moved = false;
        loop {
            let mut opening = match self.opening.take() {
                Some(opening) => opening,
                None => match wire.shared.order() {
                    Some(order) => Opening::Lane(Lane::new(order)),
                    None if self.lanes.is_empty() && self.spare.is_none() && !self.no_spare => Opening::Spare,
                    None => return Ok(moved),
                },
            };
            let session = wire.session.clone();
            let opened = match &mut opening {
                Opening::Lane(lane) if lane.abandoned() && !lane.begun => {
                    moved = true;
                    continue;
                }
                Opening::Lane(lane) => match &lane.kind {
                    Kind::Command { .. } if self.spare.is_some() => Ok(self.spare.take()),
                    Kind::Command { .. } => {
                        lane.begun = true;
                        wire.settle(|| session.channel_session())
                    }
                    Kind::Tcp { host, port } => {
                        lane.begun = true;
                        wire.settle(|| session.channel_direct_tcpip(host, *port, None))
                    }
                },
                Opening::Spare => wire.settle(|| session.channel_session()),
            };
            match (opened, opening) {
                (Ok(None), opening) => {
                    self.opening = Some(opening);
                    return Ok(moved);
                }
                (Ok(Some(channel)), Opening::Spare) => self.spare = Some(channel),
                (Ok(channel), Opening::Lane(mut lane)) => {
                    lane.opened(channel);
                    self.lanes.push(lane);
                }
                (Err(Fault::Refused(_)), Opening::Spare) => self.no_spare = true,
                (Err(Fault::Refused(why)), Opening::Lane(lane)) => lane.refuse(why),
                (Err(broken), _) => return Err(broken),
            }
            moved = true;
        }
    }
}

impl Move {
    pub(super) const NONE: Self = Self { moved: false, reading: false };
}
