//! One channel as the connection's thread sees it: what it waits for, and what it does next.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::channel::{Event, Input, Kind, Order};
use super::driver::{Fault, Wire};
use crate::command::Status;
use crate::streams::Size;

/// How much is read at once: an SSH packet.
const PIECE: usize = 32 * 1024;
/// How many packets one lane moves before the others have their turn.
const TURN: usize = 32;

/// What a lane's turn came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    /// Something went on: there may be more to do at once.
    pub(super) moved: bool,
    /// It waits for the far side.
    pub(super) reading: bool,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stage {
    /// The terminal is asked for.
    Terminal,
    /// The command is asked for.
    Starting,
    /// Bytes go to and fro.
    Running,
    /// Both sides say goodbye; the far side has told how it ended.
    Ending,
    /// Nobody is interested any more.
    Leaving,
    /// Nothing is left to do.
    Done,
}

/// A channel with the thread's ends of its queues.
pub(super) struct Lane {
    pub(super) kind: Kind,
    /// A call for it was made that must be made again until it is through.
    pub(super) begun: bool,
    channel: Option<ssh2::Channel>,
    stage: Stage,
    /// None once the far side is told that there is no more.
    input: Option<mpsc::Receiver<Input>>,
    chunk: Bytes,
    /// Standard input has ended, which the far side does not know yet.
    ended: bool,
    size: Option<Size>,
    events: mpsc::Sender<Event>,
    /// The end of output was told.
    told: bool,
    buffer: Vec<u8>,
}

impl Lane {
    pub(super) fn new(order: Order) -> Self {
        Self {
            kind: order.kind,
            begun: false,
            channel: None,
            stage: Stage::Terminal,
            input: Some(order.input),
            chunk: Bytes::new(),
            ended: false,
            size: None,
            events: order.events,
            told: false,
            buffer: vec![0; PIECE],
        }
    }

    /// Whether its future is gone.
    pub(super) fn abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The far side has opened it.
    pub(super) fn opened(&mut self, channel: Option<ssh2::Channel>) {
        self.channel = channel;
        self.begun = false;
    }

    /// The far side does not want to open it.
    pub(super) fn refuse(self, why: String) {
        // There is room: it is the first event.
        let _ = self.events.try_send(Event::Refused(why));
    }

    /// Goes on as far as possible without waiting.
    pub(super) fn advance(&mut self, wire: &mut Wire) -> Result<Move, Fault> {
        let Some(mut channel) = self.channel.take() else {
            self.stage = Stage::Done;
            return Ok(Move::NONE);
        };
        let outcome = match self.stage {
            Stage::Terminal | Stage::Starting => self.start(&mut channel, wire),
            Stage::Running => self.run(&mut channel, wire),
            Stage::Ending => self.end(&mut channel, wire),
            Stage::Leaving => self.leave(&mut channel, wire),
            Stage::Done => Ok(Move::NONE),
        };
        self.channel = Some(channel);
        outcome
    }

    fn start(&mut self, channel: &mut ssh2::Channel, wire: &mut Wire) -> Result<Move, Fault> {
        if self.abandoned() && !self.begun {
            self.stage = Stage::Leaving;
            return Ok(Move { moved: true, reading: true });
        }
        self.begun = true;
        let outcome = match (&self.kind, self.stage) {
            (Kind::Command { terminal: Some(terminal), .. }, Stage::Terminal) => {
                let Size { columns, rows } = terminal.size;
                let size = Some((columns.into(), rows.into(), 0, 0));
                wire.settle(|| channel.request_pty(&terminal.kind, None, size))
            }
            (Kind::Command { line, .. }, Stage::Starting) => {
                wire.settle(|| if line.is_empty() { channel.shell() } else { channel.exec(line) })
            }
            _ => Ok(Some(())),
        };
        match outcome {
            Ok(None) => return Ok(Move { moved: false, reading: true }),
            Ok(Some(())) => {}
            Err(Fault::Refused(why)) => {
                let _ = self.events.try_send(Event::Refused(why));
                self.begun = false;
                self.stage = Stage::Leaving;
                return Ok(Move { moved: true, reading: true });
            }
            Err(broken) => return Err(broken),
        }
        self.begun = false;
        if self.stage == Stage::Terminal {
            self.stage = Stage::Starting;
        } else {
            let _ = self.events.try_send(Event::Started);
            self.stage = Stage::Running;
        }
        Ok(Move { moved: true, reading: true })
    }

    fn run(&mut self, channel: &mut ssh2::Channel, wire: &mut Wire) -> Result<Move, Fault> {
        if self.abandoned() {
            self.stage = Stage::Leaving;
            self.input = None;
            return Ok(Move { moved: true, reading: true });
        }
        let Move { mut moved, mut reading } = self.send(channel, wire)?;
        let mut looked = false;
        for stream in [0, 1] {
            let mut source = channel.stream(stream);
            for _ in 0..TURN {
                // Without room it stays where it is, and the far side stops when its window is full.
                let Ok(room) = self.events.try_reserve() else { break };
                looked = true;
                let buffer = &mut self.buffer;
                match wire.settle(|| source.read(buffer))? {
                    None | Some(0) => break,
                    Some(count) => {
                        let bytes = Bytes::copy_from_slice(&self.buffer[..count]);
                        room.send(if stream == 0 { Event::Out(bytes) } else { Event::Err(bytes) });
                        moved = true;
                    }
                }
            }
        }
        reading |= looked;
        // True only when nothing is left unread.
        if looked && channel.eof() {
            if matches!(self.kind, Kind::Tcp { .. }) && !self.told {
                self.told = self.events.try_send(Event::Eof).is_ok();
            }
            // The exit code comes between the end of output and the closing.
            if wire.settle(|| channel.wait_close())?.is_some() {
                self.stage = Stage::Ending;
                self.input = None;
                moved = true;
            }
        }
        Ok(Move { moved, reading })
    }

    /// Sends what waits to be sent.
    fn send(&mut self, channel: &mut ssh2::Channel, wire: &mut Wire) -> Result<Move, Fault> {
        let mut moved = false;
        let mut reading = false;
        for _ in 0..TURN {
            if self.chunk.is_empty() && !self.ended {
                let Some(input) = &mut self.input else { break };
                match input.try_recv() {
                    Ok(Input::Data(bytes)) => self.chunk = bytes,
                    Ok(Input::Size(size)) => self.size = Some(size),
                    Ok(Input::End) | Err(TryRecvError::Disconnected) => self.ended = true,
                    Err(TryRecvError::Empty) => break,
                }
            }
            let went = if !self.chunk.is_empty() {
                let chunk = &self.chunk;
                // Zero is a full window, which libssh2 does not always tell as "not now".
                let count = wire.settle(|| channel.write(chunk))?.unwrap_or(0);
                self.chunk.advance(count);
                count > 0
            } else if let Some(Size { columns, rows }) = self.size {
                let went = wire
                    .settle(|| channel.request_pty_size(columns.into(), rows.into(), None, None))?
                    .is_some();
                if went {
                    self.size = None;
                }
                went
            } else if self.ended {
                let went = wire.settle(|| channel.send_eof())?.is_some();
                if went {
                    self.input = None;
                    self.ended = false;
                }
                went
            } else {
                // An empty piece of data.
                true
            };
            if !went {
                // The far side must say that it has room again.
                reading = true;
                break;
            }
            moved = true;
        }
        Ok(Move { moved, reading })
    }

    fn end(&mut self, channel: &mut ssh2::Channel, wire: &mut Wire) -> Result<Move, Fault> {
        let Ok(room) = self.events.try_reserve() else {
            if self.events.is_closed() {
                self.stage = Stage::Leaving;
                return Ok(Move { moved: true, reading: true });
            }
            return Ok(Move::NONE);
        };
        if wire.settle(|| channel.close())?.is_none() {
            return Ok(Move { moved: false, reading: true });
        }
        let signal = channel.exit_signal().ok().and_then(|signal| signal.exit_signal);
        let status = match signal {
            Some(name) => Status::Signaled(name),
            None => Status::Exited(channel.exit_status().map_err(|error| Fault::of(&error))?),
        };
        room.send(Event::End(status));
        self.stage = Stage::Done;
        Ok(Move { moved: true, reading: true })
    }

    fn leave(&mut self, channel: &mut ssh2::Channel, wire: &mut Wire) -> Result<Move, Fault> {
        self.input = None;
        let closed = wire.settle(|| channel.close())?.is_some();
        if closed {
            self.stage = Stage::Done;
        }
        Ok(Move { moved: closed, reading: true })
    }
}
