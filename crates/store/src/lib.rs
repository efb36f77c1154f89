//! The versioned key-value store: a trait with etcd's semantics, and its engines.
//!
//! One revision counter for the whole store; every change has a revision of its own; a write is a
//! compare-and-set on a key's revision and is durable when it is acknowledged. This crate does not know
//! what a Pod is: keys are paths, values are bytes.

mod embedded;
mod etcd;
mod hub;
mod memory;
pub mod snapshot;
mod undo;

pub use embedded::{EmbeddedStore, Options};
pub use etcd::{EtcdMember, EtcdMembers, EtcdOptions, EtcdStore, EtcdTls};
pub use memory::MemoryStore;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// A point in the store's history. The first write has revision 1 or higher; 0 is "before everything".
pub type Revision = u64;

/// A key with its value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key (again, after its last deletion).
    pub create_revision: Revision,
    /// The revision that last changed the key.
    pub mod_revision: Revision,
}

/// One change, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision of this change; strictly increasing within a watch.
    pub revision: Revision,
    /// What changed.
    pub change: Change,
}

/// What an [`Event`] did to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key was created or replaced.
    Put {
        /// The entry as it is now.
        entry: Entry,
        /// The entry as it was, when it existed.
        previous: Option<Entry>,
    },
    /// The key was deleted.
    Delete {
        /// The entry as it last was.
        previous: Entry,
    },
}

/// What a write expects of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key is not there.
    Absent,
    /// The key is there and was last changed at this revision.
    Revision(Revision),
}

/// Which entries a range wants.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Every key that begins with this.
    pub prefix: String,
    /// Only keys after this one (exclusive): how a page continues.
    pub after: Option<String>,
    /// At most so many entries; 0 is no limit.
    pub limit: usize,
    /// As of this revision; `None` is now.
    pub revision: Option<Revision>,
}

/// What a range found.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries in key order.
    pub entries: Vec<Entry>,
    /// The revision that this is true at: the asked one, or the store's current one.
    pub revision: Revision,
    /// How many further entries there are after the last of this page.
    pub remaining: usize,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key was not as expected; nothing was changed. Read again and decide anew.
    #[error("{key} is not as expected")]
    Conflict {
        /// The key.
        key: String,
        /// The entry as it is now, if the key is there.
        current: Option<Entry>,
    },
    /// The revision lies before the last compaction. Read the current state and watch from there.
    #[error("revision {asked} has been compacted; the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that is still there.
        oldest: Revision,
    },
    /// The revision is not there yet.
    #[error("revision {asked} is ahead of the store, which is at {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// The engine failed. The write may or may not have happened; it was not acknowledged.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// What is on disk cannot be trusted. The text says what, where, and what to do.
    #[error("store damaged: {0}")]
    Damaged(String),
    /// The store must not be used as it is: it belongs to another cluster, speaks another version, or the key
    /// cannot be a key. The text says what to do.
    #[error("store refused: {0}")]
    Refused(String),
}

impl Error {
    /// Returns the same error for another caller who waits for the same thing.
    fn duplicate(&self) -> Self {
        match self {
            Self::Conflict { key, current } => Self::Conflict { key: key.clone(), current: current.clone() },
            Self::Compacted { asked, oldest } => Self::Compacted { asked: *asked, oldest: *oldest },
            Self::Future { asked, current } => Self::Future { asked: *asked, current: *current },
            Self::Unavailable(text) => Self::Unavailable(text.clone()),
            Self::Damaged(text) => Self::Damaged(text.clone()),
            Self::Refused(text) => Self::Refused(text.clone()),
        }
    }

    /// Returns the text without the words that all errors of its kind begin with.
    fn detail(&self) -> String {
        match self {
            Self::Unavailable(text) | Self::Damaged(text) | Self::Refused(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Changes that a watcher gets at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The changes in revision order; none when only `revision` has moved.
    pub events: Vec<Event>,
    /// The watcher has now seen every change up to this revision.
    pub revision: Revision,
}

/// A stream of changes in revision order without gaps. Ends when the watcher is too slow
/// ([`Error::Compacted`] on the next attempt to resume may follow) or the store closes.
pub type Events = futures::stream::BoxStream<'static, Result<Batch>>;

/// How a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The engine and its version, such as `etcd 3.4.23`.
    pub engine: String,
    /// The revision of the last change.
    pub revision: Revision,
    /// Bytes on disk (of the member that answered); 0 for a store in memory.
    pub size: u64,
    /// Bytes of these that hold something, as far as the engine knows.
    pub used: u64,
    /// Those who keep the store together; empty when it is one process's own.
    pub members: Vec<Member>,
}

/// One member of a store that several machines keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The endpoint that was asked.
    pub endpoint: String,
    /// Its name, or its id as long as it has none.
    pub name: String,
    /// Whether it leads.
    pub leader: bool,
    /// Why it is of no use at present.
    pub trouble: Option<String>,
}

/// The versioned key-value store.
#[async_trait::async_trait]
pub trait Store: Send + Sync + Debug + 'static {
    /// Returns the entry at `key`, if there is one, and the store's revision.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision)>;

    /// Returns the entries of a range.
    async fn range(&self, range: Range) -> Result<Page>;

    /// Creates or replaces `key` when it is as expected. Durable when this returns.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry>;

    /// As [`Store::put`]; the store deletes the key by itself if it is still as this call wrote it once `life`
    /// has passed. Never earlier, and soon after.
    async fn put_for(&self, key: &str, value: Bytes, expect: Expect, life: Duration) -> Result<Entry>;

    /// Deletes `key` when it was last changed at `expect`. Durable when this returns.
    /// Returns the deletion's revision.
    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision>;

    /// Streams every change under `prefix` with a revision greater than `after`. After a call of
    /// [`Store::revision`] the stream reaches that revision soon, whether something changed under `prefix` or not.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events>;

    /// Returns the revision of the last change.
    async fn revision(&self) -> Result<Revision>;

    /// Forgets history before `revision`: older ranges and watches fail with [`Error::Compacted`].
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Gives what compaction freed back to the file system. May hold up writes while it runs.
    async fn defragment(&self) -> Result<()>;

    /// Says how the store is; an error when it can neither read nor write.
    async fn health(&self) -> Result<Health>;
}

/// The longest key, and the largest value with its key, that every engine takes: what etcd takes by default.
const KEY_BYTES: usize = 4096;
const VALUE_BYTES: usize = 1536 * 1024 - 16 * 1024;

/// Refuses what no engine could store.
fn check_write(key: &str, value: &[u8]) -> Result<()> {
    if !key.starts_with('/') || key.len() > KEY_BYTES {
        let shown: String = key.chars().take(80).collect();
        return Err(Error::Refused(format!(
            "a key begins with '/' and has at most {KEY_BYTES} bytes; this one has {}: {shown:?}",
            key.len()
        )));
    }
    if value.len() > VALUE_BYTES {
        let size = value.len();
        return Err(Error::Refused(format!(
            "{key}: the value has {size} bytes; the store takes at most {VALUE_BYTES}: make it smaller or split it"
        )));
    }
    Ok(())
}
