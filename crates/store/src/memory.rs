//! The store in memory: for tests and simulations. It forgets everything when it is dropped.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use machinery::clock::{self, SharedClock};
use machinery::tasks::Tasks;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::hub::{Backlog, Hub};
use crate::undo::{self, check_revision};
use crate::{
    Change, Entry, Error, Event, Events, Expect, Health, Page, Range, Result, Revision, Store, check_write,
};

/// A store without a disk.
pub struct MemoryStore {
    shared: Arc<Shared>,
    clock: SharedClock,
    expiries: Tasks,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    hub: Hub,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    compacted: Revision,
    current: BTreeMap<Arc<str>, Entry>,
    history: Vec<Event>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// Returns an empty store at revision 0.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(clock::system())
    }

    /// As [`MemoryStore::new`]; `clock` says when the life of a key is over.
    #[must_use]
    pub fn with_clock(clock: SharedClock) -> Self {
        let shared = Shared { state: Mutex::new(State::default()), hub: Hub::new(0) };
        Self { shared: Arc::new(shared), clock, expiries: Tasks::new(CancellationToken::new()) }
    }
}

impl State {
    fn record(&mut self, change: Change) -> Event {
        let event = Event { revision: self.revision, change };
        self.history.push(event.clone());
        event
    }

    fn since(&self, after: Revision) -> &[Event] {
        &self.history[self.history.partition_point(|event| event.revision <= after)..]
    }
}

impl Shared {
    fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        let mut state = self.state.lock();
        let previous = state.current.get(key).cloned();
        let as_expected = match expect {
            Expect::Absent => previous.is_none(),
            Expect::Revision(revision) => previous.as_ref().is_some_and(|old| old.mod_revision == revision),
        };
        if !as_expected {
            return Err(Error::Conflict { key: key.to_owned(), current: previous });
        }
        state.revision += 1;
        let entry = Entry {
            key: previous.as_ref().map_or_else(|| Arc::from(key), |old| old.key.clone()),
            value,
            create_revision: previous.as_ref().map_or(state.revision, |old| old.create_revision),
            mod_revision: state.revision,
        };
        state.current.insert(entry.key.clone(), entry.clone());
        let event = state.record(Change::Put { entry: entry.clone(), previous });
        // Published under the lock, so that watchers see revisions in order.
        self.hub.publish(vec![event]);
        Ok(entry)
    }

    fn delete(&self, key: &str, expect: Revision) -> Result<Revision> {
        let mut state = self.state.lock();
        let current = state.current.get(key).cloned();
        let Some(previous) = current.as_ref().filter(|old| old.mod_revision == expect).cloned() else {
            return Err(Error::Conflict { key: key.to_owned(), current });
        };
        state.revision += 1;
        state.current.remove(key);
        let event = state.record(Change::Delete { previous });
        self.hub.publish(vec![event]);
        Ok(state.revision)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision)> {
        let state = self.shared.state.lock();
        Ok((state.current.get(key).cloned(), state.revision))
    }

    async fn range(&self, range: Range) -> Result<Page> {
        let state = self.shared.state.lock();
        let revision = check_revision(range.revision, state.compacted, state.revision)?;
        let from: Arc<str> = Arc::from(range.prefix.as_str());
        let current = state
            .current
            .range::<Arc<str>, _>((Bound::Included(from), Bound::Unbounded))
            .map(|(_, entry)| entry.clone())
            .take_while(|entry| entry.key.starts_with(&range.prefix));
        let entries = undo::rewind(current, state.since(revision), &range.prefix);
        Ok(undo::page(entries, &range, revision))
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        check_write(key, &value)?;
        self.shared.put(key, value, expect)
    }

    async fn put_for(&self, key: &str, value: Bytes, expect: Expect, life: Duration) -> Result<Entry> {
        let entry = self.put(key, value, expect).await?;
        let (key, revision) = (entry.key.clone(), entry.mod_revision);
        let (shared, clock) = (Arc::downgrade(&self.shared), self.clock.clone());
        self.expiries.spawn("expiry", async move {
            clock.after(life).await;
            if let Some(shared) = shared.upgrade() {
                // Whoever has changed it since has made it last.
                drop(shared.delete(&key, revision));
            }
        });
        Ok(entry)
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision> {
        self.shared.delete(key, expect)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events> {
        let state = self.shared.state.lock();
        if after < state.compacted {
            return Err(Error::Compacted { asked: after, oldest: state.compacted });
        }
        let mut subscription = self.shared.hub.subscribe(prefix, after)?;
        let backlog = match &mut subscription.backlog {
            Backlog::Complete(events) => std::mem::take(events),
            Backlog::Older { .. } => {
                state.since(after).iter().filter(|event| event.key().starts_with(prefix)).cloned().collect()
            }
        };
        Ok(subscription.into_stream(backlog))
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.state.lock().revision)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let mut state = self.shared.state.lock();
        if revision > state.revision {
            return Err(Error::Future { asked: revision, current: state.revision });
        }
        if revision > state.compacted {
            state.compacted = revision;
            let keep = state.history.partition_point(|event| event.revision <= revision);
            state.history.drain(..keep);
        }
        Ok(())
    }

    async fn defragment(&self) -> Result<()> {
        self.shared.state.lock().history.shrink_to_fit();
        Ok(())
    }

    async fn health(&self) -> Result<Health> {
        let state = self.shared.state.lock();
        let used = state.current.values().map(|entry| entry.key.len() + entry.value.len()).sum::<usize>();
        Ok(Health {
            engine: "memory".into(),
            revision: state.revision,
            size: 0,
            used: used as u64,
            members: Vec::new(),
        })
    }
}
