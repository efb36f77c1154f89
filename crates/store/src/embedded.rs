//! The embedded engine: one committer thread over an LSM tree, one fsync for all writers that wait.
//!
//! On disk there are four keyspaces. `log` holds a record for each revision (see [`record`]); `index` maps a
//! live key to its creating and its last revision; `meta` holds the format and the compaction point; `expiry`
//! says when the entry of a revision is to go (time, then revision). A value is stored once, in the record of the
//! revision that wrote it. Compaction drops the records that a later record at or before the compaction point
//! has replaced, as etcd does.

mod committer;
mod disk;
mod journal;
mod record;
mod restore;
mod stage;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use machinery::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};

use self::committer::{Command, Committer};
use self::disk::{Disk, FORMAT, Slot};
use self::stage::Request;
use crate::hub::{Backlog, Hub};
use crate::undo::check_revision;
use crate::{
    Change, Entry, Error, Event, Events, Expect, Health, Page, Range, Result, Revision, Store, check_write,
};

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
    /// Bytes that are left free on the disk: below, writes are refused, so that tables can still be merged and
    /// entries be deleted.
    pub reserve_bytes: u64,
}

impl Default for Options {
    /// History for five minutes, as upstream compacts by default, and memory for a lab.
    fn default() -> Self {
        Self {
            history: Duration::from_secs(300),
            cache_bytes: 4 << 20,
            memtable_bytes: 4 << 20,
            reserve_bytes: 32 << 20,
        }
    }
}

/// A store in one directory of the local disk, for one process at a time.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    slot: Arc<Slot>,
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
        self.slot.close("the store is closed");
    }
}

impl EmbeddedStore {
    /// Opens the store in `path`, creating it when there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another process has it open or the disk fails, [`Error::Damaged`] when what
    /// is there cannot be read, [`Error::Refused`] when a newer version wrote it.
    pub fn open(path: &Path, options: Options, clock: SharedClock) -> Result<Self> {
        let (disk, counters) = Disk::open(path, &options)?;
        let hub = Arc::new(Hub::new(counters.revision));
        let slot = Arc::new(Slot::new(disk));
        let (requests, queue) = mpsc::channel(QUEUE);
        let committer = Committer::new(path.into(), slot.clone(), hub.clone(), clock, options, counters)
            .start(queue)
            .map_err(|error| Error::Unavailable(format!("starting the committer thread: {error}")))?;
        Ok(Self { path: path.into(), slot, hub, requests: Some(requests), committer: Some(committer) })
    }

    /// Reads everything and checks that it fits together; returns how many entries there are.
    ///
    /// # Errors
    /// [`Error::Damaged`] says what does not.
    pub async fn verify(&self) -> Result<u64> {
        self.read(Disk::verify).await
    }

    /// Runs `read` where blocking on the disk hurts nobody.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let slot = self.slot.clone();
        tokio::task::spawn_blocking(move || slot.read(read))
            .await
            .map_err(|error| Error::Unavailable(format!("reading the store: {error}")))?
    }

    async fn write(&self, key: &str, value: Bytes, expect: Expect, life: Option<Duration>) -> Result<Entry> {
        check_write(key, &value)?;
        match self.submit(key, Request::Put { value, expect, life }).await?.change {
            Change::Put { entry, .. } => Ok(entry),
            Change::Delete { .. } => Err(disk::damaged(&self.path, "a put was answered as a delete")),
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

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision)> {
        self.slot.read(|disk| {
            let view = disk.database.snapshot();
            Ok((disk.entry(&view, key)?, disk.counters(&view)?.revision))
        })
    }

    async fn range(&self, range: Range) -> Result<Page> {
        self.read(move |disk| {
            let view = disk.database.snapshot();
            let counters = disk.counters(&view)?;
            let revision = check_revision(range.revision, counters.compacted, counters.revision)?;
            let later = disk.changes(&view, revision, counters.revision)?;
            disk.page(&view, &range, revision, &later)
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
        let compacted = self.slot.read(|disk| Ok(disk.counters(&disk.database.snapshot())?.compacted))?;
        if after < compacted {
            return Err(Error::Compacted { asked: after, oldest: compacted });
        }
        let mut subscription = self.hub.subscribe(prefix, after)?;
        let backlog = match &mut subscription.backlog {
            Backlog::Complete(events) => std::mem::take(events),
            Backlog::Older { published } => {
                let (published, prefix) = (*published, prefix.to_owned());
                self.read(move |disk| {
                    let view = disk.database.snapshot();
                    // Compaction may have come in between.
                    check_revision(Some(after), disk.counters(&view)?.compacted, published)?;
                    let mut events = disk.changes(&view, after, published)?;
                    events.retain(|event| event.key().starts_with(&prefix));
                    Ok(events)
                })
                .await?
            }
        };
        Ok(subscription.into_stream(backlog))
    }

    async fn revision(&self) -> Result<Revision> {
        // Whoever asks is about to read what the cache above has; without a disk nothing new can come of it.
        self.slot.read(|_| Ok(self.hub.revision()))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Compact { revision, answer }).await?;
        answered.await.map_err(|_| closed())?
    }

    async fn defragment(&self) -> Result<()> {
        self.read(Disk::rewrite).await?;
        let (answer, answered) = oneshot::channel();
        self.send(Command::Shrink { answer: Some(answer) }).await?;
        answered.await.map_err(|_| closed())?
    }

    async fn health(&self) -> Result<Health> {
        self.read(|disk| {
            let view = disk.database.snapshot();
            Ok(Health {
                engine: format!("embedded, format {FORMAT}"),
                revision: disk.counters(&view)?.revision,
                size: disk.tables() + journal::size(&disk.path),
                used: disk.tables(),
                members: Vec::new(),
            })
        })
        .await
    }
}
