//! The side of a connection that futures hold: orders for its thread, and the two ends of a channel.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::command::Status;
use crate::streams::Size;

/// How many pieces wait in each direction of a channel: with the far side's window, what is under way at most.
const QUEUE: usize = 8;

/// What a channel is for.
#[derive(Debug)]
pub(super) enum Kind {
    /// A command line for the user's shell; an empty one is a login shell.
    Command { line: String, terminal: Option<Terminal> },
    /// A connection from the machine to somewhere.
    Tcp { host: String, port: u16 },
}

/// The terminal that the far side is to imitate.
#[derive(Debug, Clone)]
pub(super) struct Terminal {
    /// Its type, as in TERM.
    pub(super) kind: String,
    /// Its size.
    pub(super) size: Size,
}

/// What goes to the far side.
#[derive(Debug)]
pub(super) enum Input {
    /// Standard input.
    Data(Bytes),
    /// The terminal has another size.
    Size(Size),
    /// Standard input ends.
    End,
}

/// What comes from the far side.
#[derive(Debug)]
pub(super) enum Event {
    /// It was started, or is connected.
    Started,
    /// Standard output.
    Out(Bytes),
    /// Standard error.
    Err(Bytes),
    /// There is no more output, though it may still take input: told of connections only.
    Eof,
    /// It ended.
    End(Status),
    /// The far side does not want to.
    Refused(String),
}

/// A channel to be opened, with the thread's ends of its queues.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) kind: Kind,
    pub(super) input: mpsc::Receiver<Input>,
    pub(super) events: mpsc::Sender<Event>,
}

/// What a connection's thread and its futures share.
#[derive(Debug)]
pub(super) struct Shared {
    orders: Mutex<Orders>,
    bell: UnixStream,
    rung: AtomicBool,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Orders {
    waiting: VecDeque<Order>,
    /// Why there is no thread any more that would take them.
    ended: Option<String>,
}

impl Shared {
    /// Returns the shared part, whose `bell` wakes the thread.
    pub(super) fn new(bell: UnixStream) -> Self {
        Self { orders: Mutex::default(), bell, rung: AtomicBool::new(false), stop: AtomicBool::new(false) }
    }

    /// Wakes the thread.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // The socket is never full: one byte is in it at most. Nor does it matter when the thread has ended.
            let _ = (&self.bell).write(&[1]);
        }
    }

    /// Told by the thread after it emptied the bell and before it looks at the queues.
    pub(super) fn heard(&self) {
        self.rung.store(false, Ordering::Release);
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes the next order.
    pub(super) fn order(&self) -> Option<Order> {
        self.orders.lock().waiting.pop_front()
    }

    /// Says that no order will be taken any more.
    pub(super) fn end(&self, why: &str) {
        let mut orders = self.orders.lock();
        orders.ended.get_or_insert_with(|| why.into());
        orders.waiting.clear();
    }

    /// Why the connection ended, when it did.
    pub(super) fn ended(&self) -> Option<String> {
        self.orders.lock().ended.clone()
    }
}

/// A connection; its thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
}

impl Connection {
    /// Orders a channel. Its first event is [`Event::Started`] or [`Event::Refused`].
    pub(super) fn open(self: &Arc<Self>, kind: Kind) -> Channel {
        let (to_thread, input) = mpsc::channel(QUEUE);
        let (events, from_thread) = mpsc::channel(QUEUE);
        {
            let mut orders = self.shared.orders.lock();
            // Otherwise the dropped ends say that there is no connection.
            if orders.ended.is_none() {
                orders.waiting.push_back(Order { kind, input, events });
            }
        }
        self.shared.ring();
        Channel {
            writer: Writer { queue: to_thread, bell: Bell(self.clone()) },
            reader: Reader { queue: from_thread, bell: Bell(self.clone()) },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Both ends of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) writer: Writer,
    pub(super) reader: Reader,
}

/// Wakes the thread when it is dropped. It comes after a queue in a struct, since fields are dropped in their order:
/// the thread must see the queue closed.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<Connection>);

impl Bell {
    pub(super) fn ring(&self) {
        self.0.shared.ring();
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// Where standard input goes. Dropping it ends that input.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) queue: mpsc::Sender<Input>,
    pub(super) bell: Bell,
}

impl Writer {
    /// Hands `input` over once there is room; false when the far side takes no more.
    pub(super) async fn send(&self, input: Input) -> bool {
        let taken = self.queue.send(input).await.is_ok();
        self.bell.ring();
        taken
    }
}

/// Where the far side's output comes from. Dropping it closes the channel.
#[derive(Debug)]
pub(super) struct Reader {
    queue: mpsc::Receiver<Event>,
    bell: Bell,
}

impl Reader {
    /// Returns the next event.
    ///
    /// # Errors
    /// How the connection broke.
    pub(super) async fn next(&mut self) -> Result<Event, String> {
        let event = self.queue.recv().await;
        self.bell.ring();
        event.ok_or_else(|| self.broken())
    }

    /// Like [`next`](Self::next), to be polled.
    pub(super) fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<Event, String>> {
        let event = std::task::ready!(self.queue.poll_recv(context));
        self.bell.ring();
        std::task::Poll::Ready(event.ok_or_else(|| self.broken()))
    }

    fn broken(&self) -> String {
        self.bell.0.shared.ended().unwrap_or_else(|| "the channel was closed".into())
    }
}
