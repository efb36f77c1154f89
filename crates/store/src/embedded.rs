//! The embedded engine: one committer thread over an LSM tree, one fsync for all writers that wait.
//!
//! On disk there are four keyspaces. `log` holds a record for each revision (see [`record`]); `index` maps a
//! live key to its creating and its last revision; `meta` holds the format and the compaction point; `expiry`
//! says when the entry of a revision is to go (time, then revision). A value is stored once, in the record of the revision that wrote it. Compaction drops the records that a later
//! record at or before the compaction point has replaced, as etcd does.

mod committer;
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use machinery::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};

use self::committer::{Command, Committer, Request};
use self::record::{Position, Record};
use crate::hub::{Backlog, Hub};
use crate::undo::{self, check_revision};
use crate::{
    Change, Entry, Error, Event, Events, Expect, Health, Page, Range, Result, Revision, Store, check_write,
};

/// The disk format that this code writes: 2 has `expiry`. It reads format 1, too, which becomes 2.
const FORMAT: u64 = 2;

/// Writers that may wait for the committer before the next one is held back.
const QUEUE: usize = 1024;

/// How the engine uses memory and keeps history.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long history is kept at least.
    pub history: Duration,
    /// Bytes of blocks kept in memory.
    pub cache_bytes: u64,
    /// Bytes of fresh writes kept in memory before they are sorted into a table.
    pub memtable_bytes: u64,
}

impl Default for Options {
    /// History for five minutes, as upstream compacts by default, and memory for a lab.
    fn default() -> Self {
        Self { history: Duration::from_secs(300), cache_bytes: 4 << 20, memtable_bytes: 4 << 20 }
    }
}

/// A store in one directory of the local disk, for one process at a time.
#[derive(Debug)]
pub struct EmbeddedStore {
    disk: Arc<Disk>,
    hub: Arc<Hub>,
    /// Gone only while the store is dropped.
    requests: Option<mpsc::Sender<Command>>,
    committer: Option<JoinHandle<()>>,
}

impl Drop for EmbeddedStore {
    /// Waits for the writes that were accepted, and leaves the directory to the next who opens it.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the committer of the store has panicked");
        }
    }
}

/// The keyspaces; shared by the committer, which alone writes, and the readers.
struct Disk {
    path: PathBuf,
    database: Database,
    log: Keyspace,
    index: Keyspace,
    meta: Keyspace,
    expiry: Keyspace,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Disk {
    fn unavailable(&self, error: &fjall::Error) -> Error {
        Error::Unavailable(format!("{}: {error}", self.path.display()))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Damaged(format!(
            "{}: {what}; restore a snapshot, or move the directory away to begin with an empty store",
            self.path.display()
        ))
    }

    fn number(&self, view: &impl Readable, name: &str) -> Result<Option<u64>> {
        let Some(bytes) = view.get(&self.meta, name).map_err(|error| self.unavailable(&error))? else {
            return Ok(None);
        };
        let bytes =
            bytes.as_ref().try_into().map_err(|_| self.damaged(&format!("meta {name:?} is not a number")))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    fn record(&self, view: &impl Readable, revision: Revision) -> Result<Record> {
        let bytes = view
            .get(&self.log, revision.to_be_bytes())
            .map_err(|error| self.unavailable(&error))?
            .ok_or_else(|| self.damaged(&format!("the record of revision {revision} is missing")))?;
        Record::decode(&bytes)
            .ok_or_else(|| self.damaged(&format!("the record of revision {revision} is not readable")))
    }

    fn position(&self, view: &impl Readable, key: &str) -> Result<Option<Position>> {
        let Some(bytes) = view.get(&self.index, key).map_err(|error| self.unavailable(&error))? else {
            return Ok(None);
        };
        Position::decode(&bytes)
            .map(Some)
            .ok_or_else(|| self.damaged(&format!("the index of {key} is not readable")))
    }

    fn entry(&self, view: &impl Readable, key: &str) -> Result<Option<Entry>> {
        let Some(position) = self.position(view, key)? else { return Ok(None) };
        Ok(Some(self.record(view, position.modified)?.into_entry(position.modified)))
    }

    /// Returns the changes in `(after, until]`.
    fn changes(&self, view: &impl Readable, after: Revision, until: Revision) -> Result<Vec<Event>> {
        let range = (after + 1).to_be_bytes()..=until.to_be_bytes();
        view.range(&self.log, range)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(|error| self.unavailable(&error))?;
                let revision = key
                    .as_ref()
                    .try_into()
                    .map(Revision::from_be_bytes)
                    .map_err(|_| self.damaged("a key of the log is not a revision"))?;
                let record = Record::decode(&value).ok_or_else(|| {
                    self.damaged(&format!("the record of revision {revision} is not readable"))
                })?;
                self.event(view, revision, record)
            })
            .collect()
    }

    fn event(&self, view: &impl Readable, revision: Revision, record: Record) -> Result<Event> {
        let previous = match record.previous {
            0 => None,
            at => Some(self.record(view, at)?.into_entry(at)),
        };
        let change = if record.deleted {
            let previous = previous.ok_or_else(|| {
                self.damaged(&format!("revision {revision} deletes a key that was never there"))
            })?;
            Change::Delete { previous }
        } else {
            Change::Put { entry: record.into_entry(revision), previous }
        };
        Ok(Event { revision, change })
    }
}

impl EmbeddedStore {
    /// Opens the store in `path`, creating it when there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another process has it open or the disk fails, [`Error::Damaged`] when what
    /// is there cannot be read or was written by a newer version.
    pub fn open(path: &Path, options: Options, clock: SharedClock) -> Result<Self> {
        let explain = |error: fjall::Error| match error {
            fjall::Error::Locked => Error::Unavailable(format!(
                "{} is in use by another process; stop the other control plane first",
                path.display()
            )),
            fjall::Error::Io(error) => Error::Unavailable(format!("{}: {error}", path.display())),
            other => Error::Damaged(format!(
                "{}: {other}; restore a snapshot, or move the directory away to begin with an empty store",
                path.display()
            )),
        };
        fs_create(path)?;
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .open()
            .map_err(explain)?;
        let keyspace = |name: &str| {
            let memtable = options.memtable_bytes;
            database
                .keyspace(name, move || KeyspaceCreateOptions::default().max_memtable_size(memtable))
                .map_err(explain)
        };
        let (log, index, meta) = (keyspace("log")?, keyspace("index")?, keyspace("meta")?);
        let expiry = keyspace("expiry")?;
        let disk = Arc::new(Disk { path: path.into(), database, log, index, meta, expiry });
        let (revision, compacted) = disk.check()?;
        let hub = Arc::new(Hub::new(revision));
        let (requests, queue) = mpsc::channel(QUEUE);
        let committer =
            Committer::new(disk.clone(), hub.clone(), clock, options.history, revision, compacted)
                .start(queue)
                .map_err(|error| Error::Unavailable(format!("starting the committer thread: {error}")))?;
        Ok(Self { disk, hub, requests: Some(requests), committer: Some(committer) })
    }

    async fn write(&self, key: &str, value: Bytes, expect: Expect, life: Option<Duration>) -> Result<Entry> {
        check_write(key, &value)?;
        match self.submit(key, Request::Put { value, expect, life }).await?.change {
            Change::Put { entry, .. } => Ok(entry),
            Change::Delete { .. } => Err(self.disk.damaged("a put was answered as a delete")),
        }
    }

    async fn send(&self, command: Command) -> Result<()> {
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.send(command).await.map_err(|_| closed())
    }

    async fn submit(&self, key: &str, request: Request) -> Result<Event> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Write { key: Arc::from(key), request, answer };
        self.send(command).await?;
        answered.await.map_err(|_| closed())?
    }
}

fn closed() -> Error {
    Error::Unavailable("the store has stopped; see the log of the control plane".into())
}

fn fs_create(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))
}

impl Disk {
    fn mark_format(&self) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "format", FORMAT.to_be_bytes());
        batch.commit().map_err(|error| self.unavailable(&error))
    }

    /// Checks that format, counters and records fit together; returns the current revision and the
    /// compaction point.
    fn check(&self) -> Result<(Revision, Revision)> {
        let view = self.database.snapshot();
        match self.number(&view, "format")? {
            Some(FORMAT) => {}
            Some(1) => self.mark_format()?,
            Some(newer) if newer > FORMAT => {
                return Err(Error::Damaged(format!(
                    "{} was written in format {newer} by a newer version; this one reads format {FORMAT}: \
                     install the newer version again",
                    self.path.display()
                )));
            }
            Some(other) => return Err(self.damaged(&format!("format {other} is not known"))),
            None => {
                self.mark_format()?;
                return Ok((0, 0));
            }
        }
        let revision = self.number(&view, "revision")?.unwrap_or(0);
        let compacted = self.number(&view, "compacted")?.unwrap_or(0);
        if let Some(last) = view.last_key_value(&self.log) {
            let key = last.key().map_err(|error| self.unavailable(&error))?;
            let logged = key.as_ref().try_into().map(Revision::from_be_bytes);
            if logged.is_ok_and(|logged| logged > revision) {
                return Err(self.damaged(&format!("the log is ahead of its counter, which says {revision}")));
            }
        }
        Ok((revision, compacted))
    }
}

/// Runs `read` where blocking on the disk hurts nobody.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Error::Unavailable(format!("reading the store: {error}")))?
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision)> {
        let view = self.disk.database.snapshot();
        let revision = self.disk.number(&view, "revision")?.unwrap_or(0);
        Ok((self.disk.entry(&view, key)?, revision))
    }

    async fn range(&self, range: Range) -> Result<Page> {
        let disk = self.disk.clone();
        blocking(move || {
            let view = disk.database.snapshot();
            let current = disk.number(&view, "revision")?.unwrap_or(0);
            let compacted = disk.number(&view, "compacted")?.unwrap_or(0);
            let revision = check_revision(range.revision, compacted, current)?;
            let later = disk.changes(&view, revision, current)?;
            let mut failure = None;
            let entries = view.prefix(&disk.index, &range.prefix).map_while(|guard| {
                let read = || {
                    let (_, position) = guard.into_inner().map_err(|error| disk.unavailable(&error))?;
                    let position = Position::decode(&position)
                        .ok_or_else(|| disk.damaged("an entry of the index is not readable"))?;
                    Ok(disk.record(&view, position.modified)?.into_entry(position.modified))
                };
                read().map_err(|error| failure = Some(error)).ok()
            });
            let page = undo::page(undo::rewind(entries, &later, &range.prefix), &range, revision);
            failure.map_or(Ok(page), Err)
        })
        .await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        self.write(key, value, expect, None).await
    }

    async fn put_for(&self, key: &str, value: Bytes, expect: Expect, life: Duration) -> Result<Entry> {
        self.write(key, value, expect, Some(life)).await
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision> {
        Ok(self.submit(key, Request::Delete { expect }).await?.revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events> {
        let compacted = self.disk.number(&self.disk.database.snapshot(), "compacted")?.unwrap_or(0);
        if after < compacted {
            return Err(Error::Compacted { asked: after, oldest: compacted });
        }
        let mut subscription = self.hub.subscribe(prefix, after)?;
        let backlog = match &mut subscription.backlog {
            Backlog::Complete(events) => std::mem::take(events),
            Backlog::Older { published } => {
                let (disk, published, prefix) = (self.disk.clone(), *published, prefix.to_owned());
                blocking(move || {
                    let mut events = disk.changes(&disk.database.snapshot(), after, published)?;
                    events.retain(|event| event.key().starts_with(&prefix));
                    Ok(events)
                })
                .await?
            }
        };
        Ok(subscription.into_stream(backlog))
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.hub.revision())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Compact { revision, answer }).await?;
        answered.await.map_err(|_| closed())?
    }

    async fn defragment(&self) -> Result<()> {
        let disk = self.disk.clone();
        blocking(move || {
            for keyspace in [&disk.log, &disk.index, &disk.meta, &disk.expiry] {
                // A table is only made smaller by writing it anew, and what is fresh is in no table yet.
                keyspace
                    .rotate_memtable_and_wait()
                    .and_then(|()| keyspace.major_compact())
                    .map_err(|error| disk.unavailable(&error))?;
            }
            Ok(())
        })
        .await
    }

    async fn health(&self) -> Result<Health> {
        let (disk, revision) = (self.disk.clone(), self.hub.revision());
        blocking(move || {
            let view = disk.database.snapshot();
            disk.number(&view, "format")?.ok_or_else(|| disk.damaged("the format is missing"))?;
            let size = disk.database.disk_space().map_err(|error| disk.unavailable(&error))?;
            let used =
                [&disk.log, &disk.index, &disk.meta, &disk.expiry].map(Keyspace::disk_space).iter().sum();
            Ok(Health {
                engine: format!("embedded, format {FORMAT}"),
                revision,
                size,
                used,
                members: Vec::new(),
            })
        })
        .await
    }
}
