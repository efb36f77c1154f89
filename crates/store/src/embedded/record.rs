//! What is on disk for one revision, and where a key's value is. Integers are big-endian.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{Entry, Revision};

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// Operation, creating revision, previous revision, length of the key.
const HEAD: usize = 1 + 8 + 8 + 4;

/// The record of one revision: `op (1) | created (8) | previous (8) | key length (4) | key | value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The key was deleted; there is no value.
    pub(super) deleted: bool,
    /// The revision that created the key.
    pub(super) created: Revision,
    /// The revision that last changed the key before this one; 0 if it was not there.
    pub(super) previous: Revision,
    pub(super) key: Arc<str>,
    pub(super) value: Bytes,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.key.len() + self.value.len());
        bytes.push(if self.deleted { DELETE } else { PUT });
        bytes.extend(self.created.to_be_bytes());
        bytes.extend(self.previous.to_be_bytes());
        // A key is a path of a few hundred bytes; the API bounds every part of it.
        bytes.extend(u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(self.key.as_bytes());
        bytes.extend(&self.value);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let deleted = match head[0] {
            PUT => false,
            DELETE => true,
            _ => return None,
        };
        let number = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let key_length = usize::try_from(u32::from_be_bytes(head.get(17..21)?.try_into().ok()?)).ok()?;
        let (key, value) = rest.split_at_checked(key_length)?;
        Some(Self {
            deleted,
            created: number(1)?,
            previous: number(9)?,
            key: Arc::from(std::str::from_utf8(key).ok()?),
            value: Bytes::copy_from_slice(value),
        })
    }

    /// Returns the entry that this record, found at `revision`, made.
    pub(super) fn into_entry(self, revision: Revision) -> Entry {
        Entry { key: self.key, value: self.value, create_revision: self.created, mod_revision: revision }
    }
}

/// Where the record of a live key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) created: Revision,
    pub(super) modified: Revision,
}

impl Position {
    pub(super) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.created.to_be_bytes());
        bytes[8..].copy_from_slice(&self.modified.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (created, modified) = bytes.split_at_checked(8)?;
        Some(Self {
            created: u64::from_be_bytes(created.try_into().ok()?),
            modified: u64::from_be_bytes(modified.try_into().ok()?),
        })
    }
}

/// When the entry that a revision wrote is to go. Sorts by time on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    /// In whole milliseconds.
    pub(super) over: Timestamp,
    pub(super) revision: Revision,
}

impl Expiry {
    pub(super) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // Nothing is written before 1970.
        let millis = u64::try_from(self.over.as_millisecond()).unwrap_or(0);
        bytes[..8].copy_from_slice(&millis.to_be_bytes());
        bytes[8..].copy_from_slice(&self.revision.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (millis, revision) = bytes.split_at_checked(8)?;
        let millis = i64::try_from(u64::from_be_bytes(millis.try_into().ok()?)).ok()?;
        Some(Self {
            over: Timestamp::from_millisecond(millis).ok()?,
            revision: u64::from_be_bytes(revision.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was_written(
            deleted: bool, created: u64, previous: u64, key in "[a-z/.-]{0,80}", value: Vec<u8>,
        ) {
            let record = Record { deleted, created, previous, key: key.into(), value: value.into() };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _decoded = Record::decode(&bytes);
            let _position = Position::decode(&bytes);
            let _expiry = Expiry::decode(&bytes);
        }
    }
}
