//! A queue of keys to work on, with the semantics of client-go's rate-limited work queue.
//!
//! A key that is added again while it waits is there once; one that is added while it is worked on is handed
//! out again after [`WorkQueue::done`]. So no two workers hold one key, and no addition is lost.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::Backoff;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The waits of a key that fails again and again.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(5), most: Duration::from_secs(300), factor: 2.0, jitter: 0.0 };

/// A queue of keys. Cloning shares it.
pub struct WorkQueue<T>(Arc<Shared<T>>);

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    clock: SharedClock,
    random: Random,
}

struct State<T> {
    ready: VecDeque<T>,
    /// What waits in `ready`, or will when it is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    later: BinaryHeap<Reverse<Later<T>>>,
    /// The earliest moment that each key in `later` is due; other entries of it are stale.
    due: HashMap<T, Timestamp>,
    failures: HashMap<T, u32>,
    closed: bool,
    count: u64,
}

struct Later<T> {
    due: Timestamp,
    order: u64,
    item: T,
}

impl<T> PartialEq for Later<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}
impl<T> Eq for Later<T> {}
impl<T> PartialOrd for Later<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Later<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, item: T) -> bool {
        if self.closed || !self.dirty.insert(item.clone()) {
            return false;
        }
        if self.processing.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    /// Moves what is due at `now` to `ready`; returns when the next one is due.
    fn ripen(&mut self, now: Timestamp) -> Option<Timestamp> {
        while let Some(Reverse(first)) = self.later.peek() {
            let stale = self.due.get(&first.item) != Some(&first.due);
            if !stale && first.due > now {
                return Some(first.due);
            }
            let Some(Reverse(first)) = self.later.pop() else { break };
            if !stale {
                self.due.remove(&first.item);
                self.add(first.item);
            }
        }
        None
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// Returns an empty queue.
    #[must_use]
    pub fn new(clock: SharedClock, random: Random) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            later: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
            count: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), clock, random }))
    }

    /// Adds `item` to be worked on now.
    pub fn add(&self, item: T) {
        if self.0.state.lock().add(item) {
            self.0.changed.notify_one();
        }
    }

    /// Adds `item` once `delay` has passed; an earlier moment that it already waits for stays.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            self.add(item);
            return;
        }
        let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
        let due = self.0.clock.now().saturating_add(delay).unwrap_or(Timestamp::MAX);
        let mut state = self.0.state.lock();
        if state.closed || state.due.get(&item).is_some_and(|known| *known <= due) {
            return;
        }
        state.due.insert(item.clone(), due);
        state.count += 1;
        let order = state.count;
        state.later.push(Reverse(Later { due, order, item }));
        drop(state);
        self.0.changed.notify_one();
    }

    /// Adds `item` after the back-off that its failures so far ask for.
    pub fn add_rate_limited(&self, item: T) {
        let failures = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let before = *failures;
            *failures = failures.saturating_add(1);
            before
        };
        self.add_after(item, BACKOFF.delay(failures, &self.0.random));
    }

    /// Forgets the failures of `item`.
    pub fn forget(&self, item: &T) {
        self.0.state.lock().failures.remove(item);
    }

    /// Returns how often `item` has failed since it was forgotten.
    #[must_use]
    pub fn failures(&self, item: &T) -> u32 {
        self.0.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Returns how many keys are ready to be worked on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Tells whether no key is ready to be worked on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the next key and marks it as worked on; waits for one. `None` once the queue is shut down
    /// and empty.
    pub async fn get(&self) -> Option<T> {
        loop {
            let changed = self.0.changed.notified();
            let next_due = {
                let mut state = self.0.state.lock();
                let next_due = state.ripen(self.0.clock.now());
                if let Some(item) = state.ready.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    let more = !state.ready.is_empty() || next_due.is_some();
                    drop(state);
                    if more {
                        // Wakes another worker for the rest, or to mind the timer.
                        self.0.changed.notify_one();
                    }
                    return Some(item);
                }
                if state.closed {
                    drop(state);
                    self.0.changed.notify_one();
                    return None;
                }
                next_due
            };
            match next_due {
                None => changed.await,
                Some(due) => {
                    let wait = due.duration_since(self.0.clock.now());
                    let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
                    tokio::select! {
                        () = changed => {}
                        () = self.0.clock.after(wait) => {}
                    }
                }
            }
        }
    }

    /// Ends the work on `item`; hands it out again if it was added meanwhile.
    pub fn done(&self, item: &T) {
        let mut state = self.0.state.lock();
        state.processing.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.0.changed.notify_one();
        }
    }

    /// Takes no more additions; [`WorkQueue::get`] drains what is ready and then returns `None`.
    pub fn shut_down(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use machinery::clock::ManualClock;

    use super::*;

    fn queue() -> (WorkQueue<&'static str>, ManualClock) {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        (WorkQueue::new(Arc::new(clock.clone()), Random::seeded(1)), clock)
    }

    #[tokio::test]
    async fn a_key_that_is_added_twice_is_handed_out_once() {
        let (queue, _) = queue();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        queue.shut_down();
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test]
    async fn a_key_that_is_added_while_worked_on_comes_again_after_done_and_not_before() {
        let (queue, _) = queue();
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
    }

    #[tokio::test]
    async fn a_delayed_key_comes_when_it_is_due_and_the_earlier_moment_wins() {
        let (queue, clock) = queue();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(20));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clock.advance(Duration::from_secs(1));
        assert_eq!(waiting.await.unwrap(), Some("a"));
        queue.done(&"a");
        clock.advance(Duration::from_secs(60));
        queue.shut_down();
        assert_eq!(queue.get().await, None, "stale moments are forgotten");
    }

    #[tokio::test]
    async fn a_failing_key_waits_twice_as_long_each_time_until_it_is_forgotten() {
        let (queue, clock) = queue();
        for wait in [5, 10, 20] {
            queue.add_rate_limited("a");
            clock.advance(Duration::from_millis(wait - 1));
            queue.0.state.lock().ripen(clock_now(&clock));
            assert!(queue.is_empty());
            clock.advance(Duration::from_millis(1));
            assert_eq!(queue.get().await, Some("a"));
            queue.done(&"a");
        }
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    fn clock_now(clock: &ManualClock) -> Timestamp {
        use machinery::clock::Clock;
        clock.now()
    }

    #[tokio::test]
    async fn many_workers_share_the_keys_and_all_end_at_shut_down() {
        let (queue, _) = queue();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut count = 0;
                    while let Some(item) = queue.get().await {
                        tokio::task::yield_now().await;
                        queue.done(&item);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for item in ["a", "b", "c", "d", "e", "f", "g"] {
            queue.add(item);
        }
        tokio::task::yield_now().await;
        queue.shut_down();
        let mut total = 0;
        for worker in workers {
            total += worker.await.unwrap();
        }
        assert_eq!(total, 7);
    }
}
