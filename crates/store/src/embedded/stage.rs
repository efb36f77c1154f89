//! What one write does: decided against the disk and the writes before it in the same batch, then put into it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::Disk;
use super::record::{Position, Record};
use crate::{Change, Entry, Error, Event, Expect, Result, Revision};

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

/// The keys that a batch has changed so far; `None` is deleted.
pub(super) type Staged = HashMap<Arc<str>, Option<Entry>>;

/// Returns what `request` does at `revision`, or why it may not.
pub(super) fn decide(
    disk: &Disk,
    staged: &Staged,
    revision: Revision,
    key: Arc<str>,
    request: Request,
) -> Result<Event> {
    let previous = match staged.get(&key) {
        Some(entry) => entry.clone(),
        None => disk.entry(&disk.database.snapshot(), &key)?,
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

/// Puts what `event` does into `batch`.
pub(super) fn stage(disk: &Disk, batch: &mut fjall::OwnedWriteBatch, event: &Event) {
    let record = match &event.change {
        Change::Put { entry, previous } => {
            let position = Position { created: entry.create_revision, modified: event.revision };
            batch.insert(&disk.index, entry.key.as_bytes(), position.encode());
            Record {
                deleted: false,
                created: entry.create_revision,
                previous: previous.as_ref().map_or(0, |old| old.mod_revision),
                key: entry.key.clone(),
                value: entry.value.clone(),
            }
        }
        Change::Delete { previous } => {
            batch.remove(&disk.index, previous.key.as_bytes());
            Record {
                deleted: true,
                created: previous.create_revision,
                previous: previous.mod_revision,
                key: previous.key.clone(),
                value: Bytes::new(),
            }
        }
    };
    batch.insert(&disk.log, event.revision.to_be_bytes(), record.encode());
}
