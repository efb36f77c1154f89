//! The one writer: drains the waiting writes, decides each against those before it, commits them in one batch
//! with one fsync, then publishes and answers. After a failure it opens the database anew.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{PersistMode, Readable};
use jiff::{SignedDuration, Timestamp};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::Backoff;
use tokio::sync::{mpsc, oneshot};

use super::disk::{Counters, Disk, Slot};
use super::record::{Expiry, Record};
use super::stage::{Request, Staged, decide, stage};
use super::{Options, journal, witness};
use crate::hub::Hub;
use crate::{Change, Error, Event, Result, Revision};

/// The most writes in one batch: keeps the latency of the first writer low when very many wait.
const BATCH: usize = 512;

/// How many records compaction drops in one batch, so that writers behind it do not wait long.
const COMPACTION_STEP: u64 = 2000;

/// How often the time is noted beside the revision, for keeping history by time.
const MARK_EVERY: Duration = Duration::from_secs(30);

/// How soon a database that failed is opened again: nothing works until then, and the cause may be gone soon.
const REOPEN: Backoff = Backoff { first: Duration::from_millis(100), ..Backoff::QUICK };

pub(super) enum Command {
    Write {
        key: Arc<str>,
        request: Request,
        answer: oneshot::Sender<Result<Event>>,
    },
    Compact {
        revision: Revision,
        answer: oneshot::Sender<Result<()>>,
    },
    /// Gives the journals' room back.
    Shrink {
        answer: Option<oneshot::Sender<Result<()>>>,
    },
}

/// A write that waits, and who waits for it.
type Write = (Arc<str>, Request, oneshot::Sender<Result<Event>>);

pub(super) struct Committer {
    path: PathBuf,
    slot: Arc<Slot>,
    hub: Arc<Hub>,
    clock: SharedClock,
    random: Random,
    options: Options,
    revision: Revision,
    compacted: Revision,
    /// The database has failed and is to be opened anew.
    failed: bool,
    /// How often that was in vain.
    attempts: u32,
    /// When the first entry's life is over, if there is one.
    expires: Option<Timestamp>,
    /// When which revision was current, oldest first.
    marks: VecDeque<(Timestamp, Revision)>,
}

impl Committer {
    pub(super) fn new(
        path: PathBuf,
        slot: Arc<Slot>,
        hub: Arc<Hub>,
        clock: SharedClock,
        options: Options,
        Counters { revision, compacted }: Counters,
    ) -> Self {
        Self {
            path,
            slot,
            hub,
            clock,
            random: Random::from_os(),
            options,
            revision,
            compacted,
            failed: false,
            attempts: 0,
            expires: None,
            marks: VecDeque::new(),
        }
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
        if self.failed {
            return REOPEN.delay(self.attempts, &self.random);
        }
        let now = self.clock.now();
        self.expires.map_or(MARK_EVERY, |time| {
            // A moment more: the time on disk has whole milliseconds.
            let left = Duration::try_from(time.duration_since(now)).unwrap_or_default();
            (left + Duration::from_millis(1)).min(MARK_EVERY)
        })
    }

    fn serve(&mut self, waiting: Vec<Command>) {
        if self.failed {
            self.reopen();
        }
        let mut writes = Vec::with_capacity(waiting.len());
        let (mut compactions, mut shrinks) = (Vec::new(), Vec::new());
        for command in waiting {
            match command {
                Command::Write { key, request, answer } => writes.push((key, request, answer)),
                Command::Compact { revision, answer } => compactions.push((revision, answer)),
                Command::Shrink { answer } => shrinks.push(answer),
            }
        }
        if !writes.is_empty() {
            self.commit(writes, Vec::new());
        }
        for (revision, answer) in compactions {
            // Whoever asked may have gone away; the work is done all the same.
            let _gone = answer.send(self.compact(revision));
        }
        if !shrinks.is_empty() {
            let outcome = self.shrink();
            if let Err(error) = &outcome {
                tracing::warn!(%error, "giving back the room of the store's journals");
            }
            for answer in shrinks.into_iter().flatten() {
                let _gone = answer.send(outcome.as_ref().copied().map_err(Error::duplicate));
            }
        }
        if self.expires.is_some_and(|time| time <= self.clock.now())
            && let Err(error) = self.expire()
        {
            tracing::warn!(%error, "deleting what has expired");
        }
        if let Some(revision) = self.due()
            && let Err(error) = self.compact(revision)
        {
            tracing::warn!(%error, revision, "compacting the store");
        }
        if self.failed && self.attempts == 0 {
            self.reopen();
        }
    }

    /// Notes a failure of a write and returns what to say of it. The library takes no writes after one that has
    /// failed, and what it has in memory may not be what is on disk: it is opened anew.
    fn failure(&mut self, disk: &Disk, error: &fjall::Error) -> Error {
        let error = disk.failed(error);
        tracing::error!(%error, "writing to the store");
        self.failed = true;
        error
    }

    /// Opens the database anew after a failure.
    fn reopen(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.slot.close("the store is being opened anew after a failed write");
        let opened = witness::rewrite_journals(&self.path)
            .map_err(|error| super::disk::explain(&self.path, &fjall::Error::Io(error)))
            .and_then(|()| Disk::open(&self.path, &self.options))
            .and_then(|(disk, counters)| {
                if counters.revision < self.revision {
                    return Err(disk.damaged(&format!(
                        "revision {} was acknowledged, but what is there ends at {}",
                        self.revision, counters.revision
                    )));
                }
                // What was written and not acknowledged may have become durable: then it has happened.
                let events = disk.changes(&disk.database.snapshot(), self.revision, counters.revision)?;
                Ok((disk, counters, events))
            });
        match opened {
            Ok((disk, counters, events)) => {
                disk.witness.note(counters.revision);
                self.slot.set(Ok(disk));
                (self.revision, self.compacted) = (counters.revision, counters.compacted);
                (self.failed, self.attempts) = (false, 0);
                self.expires = self.first_expiry();
                self.hub.publish(events);
                tracing::info!(revision = self.revision, "the store is open again");
            }
            Err(error) => {
                tracing::warn!(%error, attempt = self.attempts, "opening the store again");
                self.slot.set(Err(error));
            }
        }
    }

    fn commit(&mut self, writes: Vec<Write>, done: Vec<Expiry>) {
        let slot = self.slot.clone();
        let disk = match slot.disk() {
            Ok(disk) => disk,
            Err(error) => {
                for (.., answer) in writes {
                    let _gone = answer.send(Err(error.duplicate()));
                }
                return;
            }
        };
        let full = self.full();
        let mut staged = Staged::new();
        let mut batch = disk.database.batch().durability(Some(PersistMode::SyncData));
        let mut next = self.revision;
        let mut accepted = Vec::with_capacity(writes.len());
        let mut expires = self.expires;
        for (key, request, answer) in writes {
            let life = match &request {
                Request::Put { life, .. } => *life,
                Request::Delete { .. } => None,
            };
            let decided = match (&full, &request) {
                (Some(why), Request::Put { .. }) => Err(Error::Unavailable(why.clone())),
                _ => decide(&disk, &staged, next + 1, key, request),
            };
            match decided {
                Ok(event) => {
                    next += 1;
                    stage(&disk, &mut batch, &event);
                    if let Some(life) = life {
                        let over = self.over(life);
                        batch.insert(&disk.expiry, Expiry { over, revision: next }.encode(), []);
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
            batch.remove(&disk.expiry, expiry.encode());
        }
        batch.insert(&disk.meta, "revision", next.to_be_bytes());
        match batch.commit() {
            Ok(()) => {
                disk.witness.note(next);
                self.revision = next;
                self.expires = expires;
                self.hub.publish(accepted.iter().map(|(event, _)| event.clone()).collect());
                for (event, answer) in accepted {
                    let _gone = answer.send(Ok(event));
                }
            }
            Err(error) => {
                let error = self.failure(&disk, &error);
                for (_, answer) in accepted {
                    let _gone = answer.send(Err(error.duplicate()));
                }
            }
        }
    }

    /// Empties the journals once everything in them is in tables: the library gives a journal's room back only
    /// when it has grown to 64 MB.
    fn shrink(&mut self) -> Result<()> {
        let slot = self.slot.clone();
        // Nothing is written meanwhile: this is the only writer.
        slot.read(Disk::flush).inspect_err(|_| self.failed = true)?;
        let renewed = slot.renew(|| {
            journal::clear(&self.path)
                .map_err(|error| super::disk::explain(&self.path, &fjall::Error::Io(error)))?;
            let (disk, counters) = Disk::open(&self.path, &self.options)?;
            let expected = Counters { revision: self.revision, compacted: self.compacted };
            if counters != expected {
                return Err(disk.damaged(&format!("{expected:?} became {counters:?} without its journals")));
            }
            Ok(disk)
        });
        renewed.inspect_err(|_| self.failed = true)
    }

    /// Says why nothing more may be stored, if so.
    fn full(&self) -> Option<String> {
        let (room, reserve) = (witness::room(&self.path)?, self.options.reserve_bytes);
        (room < reserve).then(|| {
            format!(
                "the disk of {} is full: {room} bytes are left, and {reserve} are kept for tidying up; make room, \
                 or delete objects",
                self.path.display()
            )
        })
    }

    /// Returns when a life that begins now is over.
    fn over(&self, life: Duration) -> Timestamp {
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
        let over = self.clock.now().saturating_add(life).unwrap_or(Timestamp::MAX);
        // The next whole millisecond, as the disk has no finer ones and an entry must not go too early.
        Timestamp::from_millisecond(over.as_millisecond().saturating_add(1)).unwrap_or(over)
    }

    fn first_expiry(&self) -> Option<Timestamp> {
        let first = self.slot.read(|disk| {
            let Some(first) = disk.expiry.first_key_value() else { return Ok(None) };
            let key = first.key().map_err(|error| disk.failed(&error))?;
            let expiry = Expiry::decode(&key).ok_or_else(|| disk.damaged("an expiry is not readable"))?;
            Ok(Some(expiry.over))
        });
        first.unwrap_or_else(|error| {
            tracing::error!(%error, "nothing expires any more");
            None
        })
    }

    /// Deletes the entries whose life is over and that nobody has changed since.
    fn expire(&mut self) -> Result<()> {
        let now = Expiry { over: self.clock.now(), revision: Revision::MAX };
        self.expires = None;
        let (writes, done) = self.slot.read(|disk| {
            let view = disk.database.snapshot();
            let (mut writes, mut done): (Vec<Write>, Vec<Expiry>) = (Vec::new(), Vec::new());
            for guard in view.range(&disk.expiry, ..=now.encode()).take(BATCH) {
                let key = guard.key().map_err(|error| disk.failed(&error))?;
                let expiry = Expiry::decode(&key).ok_or_else(|| disk.damaged("an expiry is not readable"))?;
                // A record that was replaced may have been compacted away.
                let record = view.get(&disk.log, expiry.revision.to_be_bytes());
                if let Some(bytes) = record.map_err(|error| disk.failed(&error))? {
                    let record = Record::decode(&bytes)
                        .ok_or_else(|| disk.damaged("a record of the log is not readable"))?;
                    let (answer, _nobody) = oneshot::channel();
                    writes.push((record.key, Request::Delete { expect: expiry.revision }, answer));
                }
                done.push(expiry);
            }
            Ok((writes, done))
        })?;
        self.commit(writes, done);
        if !self.failed {
            self.expires = self.first_expiry();
        }
        Ok(())
    }

    /// Returns the revision before which history is older than it needs to be kept.
    fn due(&mut self) -> Option<Revision> {
        let now = self.clock.now();
        let age = |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
        if self.marks.back().is_none_or(|(then, _)| age(*then) >= MARK_EVERY) {
            self.marks.push_back((now, self.revision));
        }
        let mut due = None;
        while self.marks.front().is_some_and(|(then, _)| age(*then) > self.options.history) {
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
        let slot = self.slot.clone();
        let disk = slot.disk()?;
        // Synced like every other: of two batches that are not, the first may be torn and the second whole.
        let mut batch = disk.database.batch().durability(Some(PersistMode::SyncData));
        for guard in disk.log.range((self.compacted + 1).to_be_bytes()..=until.to_be_bytes()) {
            let (key, value) = guard.into_inner().map_err(|error| disk.failed(&error))?;
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
        batch.commit().map_err(|error| self.failure(&disk, &error))?;
        self.compacted = until;
        Ok(())
    }
}
