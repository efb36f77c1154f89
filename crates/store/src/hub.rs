//! The recent past and those who watch: shared by the engines.
//!
//! Owned by an engine, written by its one committer after a batch is durable, read by whoever starts a watch.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

use crate::{Batch, Change, Error, Event, Events, Result, Revision};

/// Batches that may wait for one watcher. A watcher that is further behind is cut off: it must never hold up
/// the writers, and it can resume from the last revision that it saw.
const WATCHER_QUEUE: usize = 4096;

/// Bytes of recent events that are kept in memory for watchers that resume.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    /// The last published revision, for watchers to whom its events did not matter.
    progress: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Inner {
    /// The last published revision.
    revision: Revision,
    /// The window holds every event after this revision.
    window_start: Revision,
    window: VecDeque<Event>,
    window_bytes: usize,
    watchers: Vec<Watcher>,
    closed: bool,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Result<Batch>>,
}

/// A watch that has begun: nothing after `published` will be missed.
pub(crate) struct Subscription {
    /// Everything up to here is in the backlog.
    published: Revision,
    /// What happened after the asked revision, as far as the window reaches back.
    pub(crate) backlog: Backlog,
    live: mpsc::Receiver<Result<Batch>>,
    progress: watch::Receiver<Revision>,
}

/// The part of a watch that lies in the past.
pub(crate) enum Backlog {
    /// All of it.
    Complete(Vec<Event>),
    /// The window does not reach back so far: read `(after, published]` from the engine's history.
    Older { published: Revision },
}

impl Subscription {
    /// Returns the stream of `backlog` and all that follows.
    pub(crate) fn into_stream(self, backlog: Vec<Event>) -> Events {
        let first = Batch { events: backlog, revision: self.published };
        let rest = stream::unfold((self.live, self.progress, self.published), |mut state| async {
            let batch = next(&mut state).await?;
            Some((batch, state))
        });
        stream::iter([Ok(first)]).chain(rest).boxed()
    }
}

/// Waits for the next batch, or for progress beyond what was last reported.
async fn next(
    (live, progress, reported): &mut (mpsc::Receiver<Result<Batch>>, watch::Receiver<Revision>, Revision),
) -> Option<Result<Batch>> {
    loop {
        let batch = tokio::select! {
            biased;
            batch = live.recv() => batch?,
            Ok(()) = progress.changed() => {
                let revision = *progress.borrow_and_update();
                match live.try_recv() {
                    Ok(batch) => {
                        progress.mark_changed();
                        batch
                    }
                    Err(TryRecvError::Empty) => Ok(Batch { events: Vec::new(), revision }),
                    Err(TryRecvError::Disconnected) => return None,
                }
            }
        };
        if let Ok(batch) = &batch {
            if batch.events.is_empty() && batch.revision <= *reported {
                continue;
            }
            *reported = batch.revision;
        }
        return Some(batch);
    }
}

impl Hub {
    pub(crate) fn new(revision: Revision) -> Self {
        Self {
            progress: watch::Sender::new(revision),
            inner: Mutex::new(Inner {
                revision,
                window_start: revision,
                window: VecDeque::new(),
                window_bytes: 0,
                watchers: Vec::new(),
                closed: false,
            }),
        }
    }

    /// Returns the last published revision.
    pub(crate) fn revision(&self) -> Revision {
        self.inner.lock().revision
    }

    /// Hands a durable batch to the watchers.
    pub(crate) fn publish(&self, events: Vec<Event>) {
        let mut inner = self.inner.lock();
        let Some(last) = events.last() else { return };
        let revision = last.revision;
        inner.revision = revision;
        inner.watchers.retain(|watcher| {
            let wanted: Vec<Event> =
                events.iter().filter(|event| event.key().starts_with(&watcher.prefix)).cloned().collect();
            wanted.is_empty() || watcher.sender.try_send(Ok(Batch { events: wanted, revision })).is_ok()
        });
        for event in events {
            inner.window_bytes += event.weight();
            inner.window.push_back(event);
        }
        while inner.window_bytes > WINDOW_BYTES
            && let Some(oldest) = inner.window.pop_front()
        {
            inner.window_bytes -= oldest.weight();
            inner.window_start = oldest.revision;
        }
        // After the watchers have their events: whoever reads this has nothing older to come.
        self.progress.send_replace(revision);
    }

    /// Begins a watch of `prefix` after the revision `after`.
    pub(crate) fn subscribe(&self, prefix: &str, after: Revision) -> Result<Subscription> {
        let (sender, live) = mpsc::channel(WATCHER_QUEUE);
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Error::Unavailable("the store is closed".into()));
        }
        if after > inner.revision {
            return Err(Error::Future { asked: after, current: inner.revision });
        }
        inner.watchers.push(Watcher { prefix: prefix.to_owned(), sender });
        let backlog = if after >= inner.window_start {
            let first = inner.window.partition_point(|event| event.revision <= after);
            let events = inner.window.range(first..).filter(|event| event.key().starts_with(prefix));
            Backlog::Complete(events.cloned().collect())
        } else {
            Backlog::Older { published: inner.revision }
        };
        Ok(Subscription { published: inner.revision, backlog, live, progress: self.progress.subscribe() })
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.watchers.clear();
    }
}

impl Event {
    /// Returns the key that changed.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        match &self.change {
            Change::Put { entry, .. } => &entry.key,
            Change::Delete { previous } => &previous.key,
        }
    }

    fn weight(&self) -> usize {
        let previous = |entry: &crate::Entry| entry.value.len();
        let bytes = match &self.change {
            Change::Put { entry, previous: old } => entry.value.len() + old.as_ref().map_or(0, previous),
            Change::Delete { previous: old } => previous(old),
        };
        bytes + 128
    }
}
