//! The versioned key-value store: a trait with etcd's semantics, and its engines.
//!
//! One revision counter for the whole store; every change has a revision of its own; a write is a
//! compare-and-set on a key's revision and is durable when it is acknowledged. This crate does not know
//! what a Pod is: keys are paths, values are bytes.

mod embedded;
mod hub;
mod memory;
mod undo;

pub use embedded::{EmbeddedStore, Options};
pub use memory::MemoryStore;

use std::fmt::Debug;
use std::sync::Arc;

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
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A stream of changes in revision order without gaps. Ends when the watcher is too slow
/// ([`Error::Compacted`] on the next attempt to resume may follow) or the store closes.
pub type Events = futures::stream::BoxStream<'static, Result<Vec<Event>>>;

/// The versioned key-value store.
#[async_trait::async_trait]
pub trait Store: Send + Sync + Debug + 'static {
    /// Returns the entry at `key`, if there is one, and the store's revision.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision)>;

    /// Returns the entries of a range.
    async fn range(&self, range: Range) -> Result<Page>;

    /// Creates or replaces `key` when it is as expected. Durable when this returns.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry>;

    /// Deletes `key` when it was last changed at `expect`. Durable when this returns.
    /// Returns the deletion's revision.
    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision>;

    /// Streams every change under `prefix` with a revision greater than `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events>;

    /// Returns the revision of the last change.
    async fn revision(&self) -> Result<Revision>;

    /// Forgets history before `revision`: older ranges and watches fail with [`Error::Compacted`].
    async fn compact(&self, revision: Revision) -> Result<()>;
}
