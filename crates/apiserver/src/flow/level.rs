//! The seats of a priority level, and the queues before them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use machinery::clock::SharedClock;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::access::text;

/// How long a request waits for a seat: a quarter of the time that it has altogether, as with upstream.
const PATIENCE: Duration = Duration::from_secs(15);

/// A level.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) uid: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` for a level whose requests never wait.
    seats: Option<u64>,
    taken: u64,
    /// Nobody waits where there are no queues.
    queues: Vec<VecDeque<Waiting>>,
    hand: usize,
    longest: usize,
    /// How many wait in all queues.
    waiting: usize,
    /// The queue that is served next.
    next: usize,
}

/// Is told when it has a seat. One that does not listen any more gave up.
type Waiting = oneshot::Sender<Permit>;

impl Level {
    pub(super) fn new(uid: &str, spec: &Value, seats: u64) -> Self {
        let state =
            State { seats: None, taken: 0, queues: Vec::new(), hand: 1, longest: 0, waiting: 0, next: 0 };
        let level = Self { uid: uid.into(), state: Mutex::new(state) };
        level.set(spec, seats);
        level
    }

    /// Changes the numbers. Who waits already goes on to wait.
    pub(super) fn set(&self, spec: &Value, seats: u64) {
        let mut state = self.state.lock();
        state.seats = (text(spec, "/type") == "Limited").then_some(seats.max(1));
        let response = &spec["limited"]["limitResponse"];
        let number =
            |key: &str| response["queuing"][key].as_u64().and_then(|number| usize::try_from(number).ok());
        let queues = match text(response, "/type") {
            "Queue" => number("queues").unwrap_or(64).clamp(1, 4096),
            _ => 0,
        };
        if state.queues.len() != queues {
            let moved: Vec<Waiting> = state.queues.iter_mut().flat_map(|queue| queue.drain(..)).collect();
            state.queues = std::iter::repeat_with(VecDeque::new).take(queues.max(1)).collect();
            state.queues[0].extend(moved);
            state.next = 0;
            if queues == 0 && state.waiting == 0 {
                state.queues.clear();
            }
        }
        state.hand = number("handSize").unwrap_or(8).clamp(1, queues.max(1));
        state.longest = number("queueLengthLimit").unwrap_or(50).max(1);
    }
}

/// A seat. Whoever waits gets it when this goes.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Level>>);

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(level) = self.0.take() else { return };
        // Permits that nobody wants any more are let go of outside the lock, since that takes it again.
        let mut unwanted = Vec::new();
        let mut state = level.state.lock();
        state.taken = state.taken.saturating_sub(1);
        while state.waiting > 0 && state.seats.is_none_or(|seats| state.taken < seats) {
            let Some(waiting) = state.pop() else { break };
            state.taken += 1;
            if let Err(permit) = waiting.send(Self(Some(level.clone()))) {
                state.taken -= 1;
                unwanted.push(permit);
            }
        }
        drop(state);
        for mut permit in unwanted {
            drop(permit.0.take());
        }
    }
}

impl State {
    /// Takes the next one out of the queues, each queue in turn.
    fn pop(&mut self) -> Option<Waiting> {
        let count = self.queues.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            if let Some(waiting) = self.queues[index].pop_front() {
                self.next = (index + 1) % count;
                self.waiting -= 1;
                return Some(waiting);
            }
        }
        self.waiting = 0;
        None
    }

    /// Picks the shortest of a flow's queues. A flow has a hand of them, so that two flows that share one are
    /// unlikely to share all.
    fn pick(&self, flow: u64) -> usize {
        let (mut rest, count) = (flow, self.queues.len());
        let mut hand: Vec<usize> = Vec::with_capacity(self.hand);
        for dealt in 0..self.hand.min(count) {
            let left = (count - dealt) as u64;
            let mut card = usize::try_from(rest % left).unwrap_or(0);
            rest /= left;
            // The card counts those that are not dealt yet.
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            for taken in sorted {
                if taken <= card {
                    card += 1;
                }
            }
            hand.push(card);
        }
        hand.into_iter().min_by_key(|&queue| self.queues[queue].len()).unwrap_or(0)
    }
}

/// See [`super::Flow::admit`].
pub(super) async fn admit(level: &Arc<Level>, flow: u64, clock: &SharedClock) -> Result<Permit, Status> {
    let turn = {
        let mut state = level.state.lock();
        match state.seats {
            None => return Ok(Permit(None)),
            Some(seats) if state.taken < seats && state.waiting == 0 => {
                state.taken += 1;
                return Ok(Permit(Some(level.clone())));
            }
            Some(_) if state.queues.is_empty() => return Err(refused()),
            Some(_) => {}
        }
        let queue = state.pick(flow);
        if state.queues[queue].len() >= state.longest {
            // Those who gave up are still in the queue.
            let before = state.queues[queue].len();
            state.queues[queue].retain(|waiting| !waiting.is_closed());
            state.waiting -= before - state.queues[queue].len();
            if state.queues[queue].len() >= state.longest {
                return Err(refused());
            }
        }
        let (sender, turn) = oneshot::channel();
        state.queues[queue].push_back(sender);
        state.waiting += 1;
        turn
    };
    tokio::select! {
        biased;
        permit = turn => permit.map_err(|_| refused()),
        () = clock.after(PATIENCE) => Err(refused()),
    }
}

fn refused() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}
