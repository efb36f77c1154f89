//! The watch cache: every stored object in memory, and the latest changes of each kind.
//!
//! One task follows the store and applies each change, in revision order, to the [`Kind`] it belongs to.
//! Reads and watches never touch the store; a read that must be current waits until the cache has reached
//! the store's revision. The bytes of an object are made once and shared.

mod kind;
mod object;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use bytes::Bytes;
use futures::StreamExt;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::Backoff;
use machinery::tasks::Tasks;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use store::{Change, Entry, Range, Revision, Store};
use tokio::sync::watch;

pub use kind::{Event, Kind};
pub(crate) use kind::{Forgotten, Slice, Watcher};
pub use object::{Facts, Object};
pub(crate) use object::{encode, without_version};

/// What every key begins with.
pub(crate) const ROOT: &str = "/registry/";
/// How long a read waits for the cache to reach a revision.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Above so many facts left behind by writes, all are dropped: they only save a parse.
const PREPARED: usize = 1024;

/// The cache of everything in the store.
pub struct Cache {
    store: Arc<dyn Store>,
    kinds: RwLock<HashMap<Arc<str>, Arc<Kind>>>,
    progress: watch::Sender<Revision>,
    /// Facts of values that are being written here, by the address of the value, so that the task that
    /// follows the store need not parse them again. Holding the value keeps its address from being reused.
    prepared: Mutex<HashMap<usize, (Bytes, Arc<Facts>)>>,
    clock: SharedClock,
    random: Random,
}

impl Cache {
    pub(crate) fn new(store: Arc<dyn Store>, clock: SharedClock, random: Random) -> Arc<Self> {
        Arc::new(Self {
            store,
            kinds: RwLock::default(),
            progress: watch::Sender::new(0),
            prepared: Mutex::default(),
            clock,
            random,
        })
    }

    /// Returns the cache of a resource, such as `deployments.apps`; made when first asked for.
    #[must_use]
    pub fn kind(&self, id: &str) -> Arc<Kind> {
        if let Some(kind) = self.kinds.read().get(id) {
            return kind.clone();
        }
        let mut kinds = self.kinds.write();
        let id: Arc<str> = id.into();
        kinds
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Kind::new(id, *self.progress.borrow(), self.progress.subscribe())))
            .clone()
    }

    /// Returns every kind that has been asked for or has objects.
    pub(crate) fn kinds(&self) -> Vec<Arc<Kind>> {
        self.kinds.read().values().cloned().collect()
    }

    /// Loads everything and starts to follow the store. Kinds whose selectable fields matter are
    /// registered before.
    pub(crate) async fn start(self: &Arc<Self>, tasks: &Tasks) -> store::Result<()> {
        let revision = self.load().await?;
        let events = self.store.watch(ROOT, revision).await?;
        let cache = self.clone();
        tasks.spawn("watch cache", async move { cache.follow(events).await });
        Ok(())
    }

    /// Reads everything: at the start, and again when the store has forgotten what was missed.
    async fn load(&self) -> store::Result<Revision> {
        let page = self.store.range(Range { prefix: ROOT.into(), ..Range::default() }).await?;
        let mut found: HashMap<Arc<str>, Vec<Arc<Object>>> = HashMap::new();
        for entry in page.entries {
            if let Some((kind, key)) = split(&entry.key) {
                let kind = self.kind(kind);
                found.entry(kind.id.clone()).or_default().push(self.object(&kind, key, &entry)?);
            }
        }
        for kind in self.kinds() {
            kind.load(found.remove(&kind.id).unwrap_or_default(), page.revision);
        }
        self.advance(page.revision);
        for kind in self.kinds() {
            kind.wake();
        }
        Ok(page.revision)
    }

    fn object(&self, kind: &Kind, key: &str, entry: &Entry) -> store::Result<Arc<Object>> {
        let prepared = self.prepared.lock().remove(&(entry.value.as_ptr() as usize));
        let facts = match prepared {
            Some((value, facts)) if value.len() == entry.value.len() => facts,
            _ => {
                let value: Value = serde_json::from_slice(&entry.value)
                    .map_err(|error| store::Error::Damaged(format!("{} is not JSON: {error}", entry.key)))?;
                Arc::new(Facts::of(&value, kind.fields()))
            }
        };
        Ok(Arc::new(Object::stored(key.into(), entry.mod_revision, &entry.value, facts)))
    }

    async fn follow(&self, mut events: store::Events) {
        let mut failures = 0;
        loop {
            match events.next().await {
                Some(Ok(batch)) => {
                    failures = 0;
                    self.apply(batch);
                    continue;
                }
                Some(Err(error)) => tracing::warn!(%error, "following the store"),
                None => tracing::warn!("the store ended the watch"),
            }
            loop {
                self.clock.after(Backoff::QUICK.delay(failures, &self.random)).await;
                failures += 1;
                let reached = self.revision();
                let resumed = match self.store.watch(ROOT, reached).await {
                    Err(store::Error::Compacted { .. }) => match self.load().await {
                        Ok(revision) => self.store.watch(ROOT, revision).await,
                        Err(error) => Err(error),
                    },
                    other => other,
                };
                match resumed {
                    Ok(resumed) => {
                        events = resumed;
                        break;
                    }
                    Err(error) => tracing::warn!(%error, "resuming the watch of the store"),
                }
            }
        }
    }

    fn apply(&self, batch: store::Batch) {
        let mut touched: Vec<Arc<Kind>> = Vec::new();
        for event in batch.events {
            let (key, entry) = match &event.change {
                Change::Put { entry, .. } => (entry.key.clone(), Some(entry)),
                Change::Delete { previous } => (previous.key.clone(), None),
            };
            let Some((id, key)) = split(&key) else { continue };
            let kind = match touched.iter().find(|kind| *kind.id == *id) {
                Some(kind) => kind.clone(),
                None => {
                    let kind = self.kind(id);
                    touched.push(kind.clone());
                    kind
                }
            };
            match entry.map(|entry| self.object(&kind, key, entry)).transpose() {
                Ok(object) => kind.apply(key, object, event.revision),
                Err(error) => tracing::error!(%error, "an object cannot be read and is not served"),
            }
        }
        self.advance(batch.revision);
        for kind in touched {
            kind.wake();
        }
        let mut prepared = self.prepared.lock();
        if prepared.len() > PREPARED {
            prepared.clear();
        }
    }

    fn advance(&self, to: Revision) {
        self.progress.send_if_modified(|progress| {
            let moved = to > *progress;
            *progress = to.max(*progress);
            moved
        });
    }

    /// Waits until everything that was acknowledged before this call is in the cache.
    pub(crate) async fn current(&self) -> Result<Revision, Status> {
        let revision = self.store.revision().await.map_err(Status::internal)?;
        self.reach(revision).await?;
        Ok(revision)
    }

    /// Waits until the cache holds `revision`.
    pub(crate) async fn reach(&self, revision: Revision) -> Result<(), Status> {
        if *self.progress.borrow() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|current| *current >= revision);
        tokio::select! {
            biased;
            reached = reached => {
                reached.map(drop).map_err(|_| Status::too_large(revision, 0))
            }
            () = self.clock.after(CATCH_UP) => {
                Err(Status::too_large(revision, *self.progress.borrow()))
            }
        }
    }

    /// Waits until `look` finds something: at least until everything acknowledged before is here, and after
    /// that for `within`.
    pub(crate) async fn wait_for<T>(&self, within: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
        let mut progress = self.progress.subscribe();
        if let Err(error) = self.current().await {
            tracing::debug!(%error, "waiting for an object");
        }
        let late = self.clock.after(within);
        tokio::pin!(late);
        loop {
            progress.mark_unchanged();
            if let Some(found) = look() {
                return Some(found);
            }
            tokio::select! {
                biased;
                moved = progress.changed() => moved.ok()?,
                () = &mut late => return look(),
            }
        }
    }

    /// The revision that the cache holds.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.progress.borrow()
    }

    /// Hands over the facts of a value that is about to be written.
    pub(crate) fn prepare(&self, value: &Bytes, facts: Arc<Facts>) {
        self.prepared.lock().insert(value.as_ptr() as usize, (value.clone(), facts));
    }

    /// Takes them back when the write failed.
    pub(crate) fn forget(&self, value: &Bytes) {
        self.prepared.lock().remove(&(value.as_ptr() as usize));
    }

    /// The store below, for writes.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

/// Splits a store key into the kind's id and the object's key.
fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(ROOT)?.split_once('/')
}
