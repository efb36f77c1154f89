//! The one writer: drains the waiting writes, decides each against those before it, commits them in one batch
//! with one fsync, then publishes and answers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use fjall::{PersistMode, Readable};
use jiff::{SignedDuration, Timestamp};
use machinery::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};

use super::Disk;
use super::record::{Expiry, Position, Record};
use crate::hub::Hub;
use crate::{Change, Entry, Error, Event, Expect, Result, Revision};

/// The most writes in one batch: keeps the latency of the first writer low when very many wait.
const BATCH: usize = 512;

/// How many records compaction drops in one batch, so that writers behind it do not wait long.
const COMPACTION_STEP: u64 = 2000;

/// How often the time is noted beside the revision, for keeping history by time.
const MARK_EVERY: Duration = Duration::from_secs(30);

pub(super) enum Command {
    Write { key: Arc<str>, request: Request, answer: oneshot::Sender<Result<Event>> },
    Compact { revision: Revision, answer: oneshot::Sender<Result<()>> },
}

pub(super) enum Request {
    /// The life is how long the entry is kept, if not for ever.
    Put {
        value: Bytes,
        expect: Expect,
        life: Option<Duration>,
    },
    Delete {
        expect: Revision,
    },
}

pub(super) struct Committer {
    disk: Arc<Disk>,
    hub: Arc<Hub>,
    clock: SharedClock,
    history: Duration,
    revision: Revision,
    compacted: Revision,
    /// When the first entry's life is over, if there is one.
    expires: Option<Timestamp>,
    /// When which revision was current, oldest first.
    marks: VecDeque<(Timestamp, Revision)>,
}

/// A write that waits, and who waits for it.
type Write = (Arc<str>, Request, oneshot::Sender<Result<Event>>);

/// The keys that this batch has changed so far; `None` is deleted.
type Staged = HashMap<Arc<str>, Option<Entry>>;

impl Committer {
    pub(super) fn new(
        disk: Arc<Disk>,
        hub: Arc<Hub>,
        clock: SharedClock,
        history: Duration,
        revision: Revision,
        compacted: Revision,
    ) -> Self {
        Self { disk, hub, clock, history, revision, compacted, expires: None, marks: VecDeque::new() }
    }

    /// Starts the thread. It ends when the last sender of `queue` is gone.
    pub(super) fn start(mut self, mut queue: mpsc::Receiver<Command>) -> std::io::Result<JoinHandle<()>> {
        // For the clock alone: waiting for it must not depend on the runtime of whoever opened the store.
        let waiter = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("store-committer".into()).stack_size(512 * 1024).spawn(move || {
            self.expires = self.first_expiry();
            loop {
                let pause = self.pause();
                let first = waiter.block_on(async {
                    tokio::select! {
                        biased;
                        command = queue.recv() => command.map(Some),
                        () = self.clock.after(pause) => Some(None),
                    }
                });
                let Some(first) = first else { break };
                let mut waiting: Vec<Command> = first.into_iter().collect();
                while waiting.len() < BATCH
                    && let Ok(next) = queue.try_recv()
                {
                    waiting.push(next);
                }
                self.serve(waiting);
            }
            self.hub.close();
        })
    }

    /// Returns how long there is nothing to do unless somebody asks.
    fn pause(&self) -> Duration {
        let now = self.clock.now();
        self.expires.map_or(MARK_EVERY, |time| {
            // A moment more: the time on disk has whole milliseconds.
            let left = Duration::try_from(time.duration_since(now)).unwrap_or_default();
            (left + Duration::from_millis(1)).min(MARK_EVERY)
        })
    }

    fn serve(&mut self, waiting: Vec<Command>) {
        let mut writes = Vec::with_capacity(waiting.len());
        let mut compactions = Vec::new();
        for command in waiting {
            match command {
                Command::Write { key, request, answer } => writes.push((key, request, answer)),
                Command::Compact { revision, answer } => compactions.push((revision, answer)),
            }
        }
        if !writes.is_empty() {
            self.commit(writes, Vec::new());
        }
        for (revision, answer) in compactions {
            // Whoever asked may have gone away; the work is done all the same.
            let _gone = answer.send(self.compact(revision));
        }
        if self.expires.is_some_and(|time| time <= self.clock.now()) {
            self.expire();
        }
        if let Some(revision) = self.due()
            && let Err(error) = self.compact(revision)
        {
            tracing::warn!(%error, revision, "compacting the store");
        }
    }

    fn commit(&mut self, writes: Vec<Write>, done: Vec<Expiry>) {
        let mut staged = Staged::new();
        let mut batch = self.disk.database.batch().durability(Some(PersistMode::SyncData));
        let mut next = self.revision;
        let mut accepted = Vec::with_capacity(writes.len());
        let mut expires = self.expires;
        for (key, request, answer) in writes {
            let life = match &request {
                Request::Put { life, .. } => *life,
                Request::Delete { .. } => None,
            };
            match self.decide(&staged, next + 1, key, request) {
                Ok(event) => {
                    next += 1;
                    self.stage(&mut batch, &event);
                    if let Some(life) = life {
                        let over = self.over(life);
                        batch.insert(&self.disk.expiry, Expiry { over, revision: next }.encode(), []);
                        expires = Some(expires.map_or(over, |first| first.min(over)));
                    }
                    let now = match &event.change {
                        Change::Put { entry, .. } => Some(entry.clone()),
                        Change::Delete { .. } => None,
                    };
                    staged.insert(event.key().clone(), now);
                    accepted.push((event, answer));
                }
                Err(error) => {
                    let _gone = answer.send(Err(error));
                }
            }
        }
        if accepted.is_empty() && done.is_empty() {
            return;
        }
        for expiry in done {
            batch.remove(&self.disk.expiry, expiry.encode());
        }
        batch.insert(&self.disk.meta, "revision", next.to_be_bytes());
        match batch.commit() {
            Ok(()) => {
                self.revision = next;
                self.expires = expires;
                self.hub.publish(accepted.iter().map(|(event, _)| event.clone()).collect());
                for (event, answer) in accepted {
                    let _gone = answer.send(Ok(event));
                }
            }
            Err(error) => {
                tracing::error!(%error, "committing to the store");
                for (_, answer) in accepted {
                    let _gone = answer.send(Err(self.disk.unavailable(&error)));
                }
            }
        }
    }

    /// Returns when a life that begins now is over.
    fn over(&self, life: Duration) -> Timestamp {
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
        let over = self.clock.now().saturating_add(life).unwrap_or(Timestamp::MAX);
        // The next whole millisecond, as the disk has no finer ones and an entry must not go too early.
        Timestamp::from_millisecond(over.as_millisecond().saturating_add(1)).unwrap_or(over)
    }

    fn first_expiry(&self) -> Option<Timestamp> {
        let first = self.disk.expiry.first_key_value()?;
        Some(Expiry::decode(&first.key().ok()?)?.over)
    }

    /// Deletes the entries whose life is over and that nobody has changed since.
    fn expire(&mut self) {
        let now = Expiry { over: self.clock.now(), revision: Revision::MAX };
        let view = self.disk.database.snapshot();
        let (mut writes, mut done): (Vec<Write>, Vec<Expiry>) = (Vec::new(), Vec::new());
        for guard in view.range(&self.disk.expiry, ..=now.encode()).take(BATCH) {
            let Some(expiry) = guard.key().ok().and_then(|key| Expiry::decode(&key)) else {
                tracing::error!("an entry's expiry is not readable; nothing expires until that is repaired");
                self.expires = None;
                return;
            };
            // A record that was replaced may have been compacted away.
            let record = self.disk.log.get(expiry.revision.to_be_bytes());
            let record = record.ok().flatten().and_then(|bytes| Record::decode(&bytes));
            if let Some(record) = record {
                let (answer, _nobody) = oneshot::channel();
                writes.push((record.key, Request::Delete { expect: expiry.revision }, answer));
            }
            done.push(expiry);
        }
        drop(view);
        self.commit(writes, done);
        self.expires = self.first_expiry();
    }

    /// Returns what `request` does at `revision`, or why it may not.
    fn decide(&self, staged: &Staged, revision: Revision, key: Arc<str>, request: Request) -> Result<Event> {
        let previous = match staged.get(&key) {
            Some(entry) => entry.clone(),
            None => self.disk.entry(&self.disk.database.snapshot(), &key)?,
        };
        let expected = match &request {
            Request::Put { expect: Expect::Absent, .. } => previous.is_none(),
            Request::Put { expect: Expect::Revision(at), .. } | Request::Delete { expect: at } => {
                previous.as_ref().is_some_and(|old| old.mod_revision == *at)
            }
        };
        if !expected {
            return Err(Error::Conflict { key: key.to_string(), current: previous });
        }
        let change = match (request, previous) {
            (Request::Put { value, .. }, previous) => Change::Put {
                entry: Entry {
                    value,
                    create_revision: previous.as_ref().map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    key,
                },
                previous,
            },
            (Request::Delete { .. }, Some(previous)) => Change::Delete { previous },
            (Request::Delete { .. }, None) => {
                return Err(Error::Conflict { key: key.to_string(), current: None });
            }
        };
        Ok(Event { revision, change })
    }

    fn stage(&self, batch: &mut fjall::OwnedWriteBatch, event: &Event) {
        let record = match &event.change {
            Change::Put { entry, previous } => {
                let position = Position { created: entry.create_revision, modified: event.revision };
                batch.insert(&self.disk.index, entry.key.as_bytes(), position.encode());
                Record {
                    deleted: false,
                    created: entry.create_revision,
                    previous: previous.as_ref().map_or(0, |old| old.mod_revision),
                    key: entry.key.clone(),
                    value: entry.value.clone(),
                }
            }
            Change::Delete { previous } => {
                batch.remove(&self.disk.index, previous.key.as_bytes());
                Record {
                    deleted: true,
                    created: previous.create_revision,
                    previous: previous.mod_revision,
                    key: previous.key.clone(),
                    value: Bytes::new(),
                }
            }
        };
        batch.insert(&self.disk.log, event.revision.to_be_bytes(), record.encode());
    }

    /// Returns the revision before which history is older than it needs to be kept.
    fn due(&mut self) -> Option<Revision> {
        let now = self.clock.now();
        let age = |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
        if self.marks.back().is_none_or(|(then, _)| age(*then) >= MARK_EVERY) {
            self.marks.push_back((now, self.revision));
        }
        let mut due = None;
        while self.marks.front().is_some_and(|(then, _)| age(*then) > self.history) {
            due = self.marks.pop_front().map(|(_, revision)| revision);
        }
        due.filter(|revision| *revision > self.compacted)
    }

    fn compact(&mut self, revision: Revision) -> Result<()> {
        if revision > self.revision {
            return Err(Error::Future { asked: revision, current: self.revision });
        }
        while self.compacted < revision {
            let until = revision.min(self.compacted + COMPACTION_STEP);
            self.compact_step(until)?;
        }
        Ok(())
    }

    /// Drops every record that a record in `(compacted, until]` replaced.
    fn compact_step(&mut self, until: Revision) -> Result<()> {
        let disk = &self.disk;
        let mut batch = disk.database.batch();
        for guard in disk.log.range((self.compacted + 1).to_be_bytes()..=until.to_be_bytes()) {
            let (key, value) = guard.into_inner().map_err(|error| disk.unavailable(&error))?;
            let record =
                Record::decode(&value).ok_or_else(|| disk.damaged("a record of the log is not readable"))?;
            if record.previous != 0 {
                batch.remove(&disk.log, record.previous.to_be_bytes());
            }
            // A deletion itself is history once it lies at or before the compaction point. The last record
            // stays, since it shows that counter and log agree.
            if record.deleted && key.as_ref() != self.revision.to_be_bytes() {
                batch.remove(&disk.log, key);
            }
        }
        batch.insert(&disk.meta, "compacted", until.to_be_bytes());
        batch.commit().map_err(|error| disk.unavailable(&error))?;
        self.compacted = until;
        Ok(())
    }
}
