//! The pods that have no node yet: those to try now, those that wait out a back-off, those that wait for news.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use client::Key;
use jiff::{SignedDuration, Timestamp};

/// The first back-off; it doubles with each attempt.
const FIRST: Duration = Duration::from_millis(100);
/// The longest back-off.
const MOST: Duration = Duration::from_secs(10);

/// The queue. The highest priority comes first, and of those the longest waiting.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    active: BTreeMap<(Reverse<i32>, u64), Key>,
    place: HashMap<Key, Place>,
    backing_off: BTreeSet<(Timestamp, Key)>,
    count: u64,
}

#[derive(Debug)]
struct Place {
    priority: i32,
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In `active`, under this number.
    Active(u64),
    /// In `backing_off`.
    BackingOff(Timestamp),
    /// Waits for a change of the cluster, and not before this moment.
    Waiting { not_before: Timestamp, minds_pods: bool },
    /// Handed out.
    Taken,
}

impl Pending {
    /// Puts a pod in to be tried now; forgets its attempts.
    pub(crate) fn add(&mut self, key: Key, priority: i32) {
        self.remove(&key);
        self.activate(key, priority, 0);
    }

    /// Hands out the next pod to try.
    pub(crate) fn pop(&mut self) -> Option<Key> {
        let (_, key) = self.active.pop_first()?;
        if let Some(place) = self.place.get_mut(&key) {
            place.state = State::Taken;
        }
        Some(key)
    }

    /// Takes back a pod that fits nowhere: it is tried again when the cluster changes.
    pub(crate) fn wait(&mut self, key: &Key, minds_pods: bool, now: Timestamp) {
        if let Some(place) = self.place.get_mut(key) {
            place.attempts += 1;
            place.state = State::Waiting { not_before: after(now, backoff(place.attempts)), minds_pods };
        }
    }

    /// Takes back a pod whose attempt failed: it is tried again by itself.
    pub(crate) fn back_off(&mut self, key: Key, priority: i32, now: Timestamp) {
        let attempts = self.remove(&key).map_or(1, |place| place.attempts + 1);
        let due = after(now, backoff(attempts));
        self.backing_off.insert((due, key.clone()));
        self.place.insert(key, Place { priority, attempts, state: State::BackingOff(due) });
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        self.remove(key);
    }

    /// The cluster has changed: whoever waits is tried again, once its back-off is over. When only pods were
    /// added, `only_minding_pods` leaves out those that pods cannot help.
    pub(crate) fn wake(&mut self, only_minding_pods: bool, now: Timestamp) {
        let woken: Vec<(Key, i32, u32, Timestamp)> = self
            .place
            .iter()
            .filter_map(|(key, place)| match place.state {
                State::Waiting { not_before, minds_pods } if minds_pods || !only_minding_pods => {
                    Some((key.clone(), place.priority, place.attempts, not_before))
                }
                _ => None,
            })
            .collect();
        for (key, priority, attempts, not_before) in woken {
            if not_before <= now {
                self.activate(key, priority, attempts);
            } else {
                self.backing_off.insert((not_before, key.clone()));
                self.place.insert(key, Place { priority, attempts, state: State::BackingOff(not_before) });
            }
        }
    }

    /// Activates whoever has waited long enough; returns when the next one will have.
    pub(crate) fn ripen(&mut self, now: Timestamp) -> Option<Timestamp> {
        while let Some((due, _)) = self.backing_off.first() {
            if *due > now {
                return Some(*due);
            }
            let Some((_, key)) = self.backing_off.pop_first() else { break };
            if let Some(place) = self.place.get(&key) {
                let (priority, attempts) = (place.priority, place.attempts);
                self.activate(key, priority, attempts);
            }
        }
        None
    }

    fn activate(&mut self, key: Key, priority: i32, attempts: u32) {
        self.count += 1;
        self.active.insert((Reverse(priority), self.count), key.clone());
        self.place.insert(key, Place { priority, attempts, state: State::Active(self.count) });
    }

    fn remove(&mut self, key: &Key) -> Option<Place> {
        let place = self.place.remove(key)?;
        match place.state {
            State::Active(number) => {
                self.active.remove(&(Reverse(place.priority), number));
            }
            State::BackingOff(due) => {
                self.backing_off.remove(&(due, key.clone()));
            }
            State::Waiting { .. } | State::Taken => {}
        }
        Some(place)
    }
}

fn backoff(attempts: u32) -> Duration {
    FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(MOST)
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn the_most_important_pod_is_tried_first() {
        let mut pending = Pending::default();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            pending.add(Key::new("default", name), priority);
        }
        let order: Vec<_> = std::iter::from_fn(|| pending.pop()).map(|key| key.name.to_string()).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_news_and_for_its_back_off() {
        let mut pending = Pending::default();
        let key = Key::new("default", "a");
        pending.add(key.clone(), 0);
        pending.pop();
        pending.wait(&key, false, at(0));
        assert_eq!(pending.ripen(at(1_000_000)), None);
        assert!(pending.pop().is_none(), "nothing happened that could help");
        pending.wake(true, at(10));
        assert!(pending.pop().is_none(), "another pod cannot help it");
        pending.wake(false, at(10));
        assert_eq!(pending.ripen(at(10)), Some(at(100)));
        assert_eq!(pending.ripen(at(100)), None);
        assert_eq!(pending.pop(), Some(key.clone()));
        pending.wait(&key, false, at(100));
        pending.wake(false, at(5000));
        assert_eq!(pending.pop(), Some(key));
    }

    #[test]
    fn a_pod_that_is_gone_is_tried_no_more() {
        let mut pending = Pending::default();
        let key = Key::new("default", "a");
        pending.add(key.clone(), 0);
        pending.back_off(key.clone(), 0, at(0));
        pending.forget(&key);
        assert_eq!(pending.ripen(at(1_000_000)), None);
        assert!(pending.pop().is_none());
    }
}
