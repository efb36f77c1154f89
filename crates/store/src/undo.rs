//! Reading the past: the current entries with the changes since taken back. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Change, Entry, Error, Event, Page, Range, Result, Revision};

/// Returns the revision that a range is read at.
pub(crate) fn check_revision(
    asked: Option<Revision>,
    compacted: Revision,
    current: Revision,
) -> Result<Revision> {
    match asked {
        None => Ok(current),
        Some(asked) if asked > current => Err(Error::Future { asked, current }),
        Some(asked) if asked < compacted => Err(Error::Compacted { asked, oldest: compacted }),
        Some(asked) => Ok(asked),
    }
}

/// Returns what the keys under `prefix` that `later` changes were before it.
pub(crate) fn before(later: &[Event], prefix: &str) -> BTreeMap<Arc<str>, Option<Entry>> {
    let mut before = BTreeMap::new();
    // The first change of a key after the revision knows what the key was at the revision.
    for event in later.iter().filter(|event| event.key().starts_with(prefix)) {
        before.entry(event.key().clone()).or_insert_with(|| match &event.change {
            Change::Put { previous, .. } => previous.clone(),
            Change::Delete { previous } => Some(previous.clone()),
        });
    }
    before
}

/// Takes back `later`, the changes after the wanted revision in order, from the `current` entries under `prefix`.
pub(crate) fn rewind(
    current: impl Iterator<Item = Entry>,
    later: &[Event],
    prefix: &str,
) -> impl Iterator<Item = Entry> {
    let before = before(later, prefix);
    let mut entries: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
    let mut untouched = Vec::new();
    let changed = !before.is_empty();
    for entry in current {
        if !changed {
            untouched.push(entry);
        } else if !before.contains_key(&entry.key) {
            entries.insert(entry.key.clone(), entry);
        }
    }
    entries.extend(before.into_iter().filter_map(|(key, entry)| Some((key, entry?))));
    untouched.into_iter().chain(entries.into_values())
}

/// Cuts one page out of the entries of a range.
pub(crate) fn page(entries: impl Iterator<Item = Entry>, range: &Range, revision: Revision) -> Page {
    let after = range.after.as_deref();
    let mut entries = entries.filter(|entry| after.is_none_or(|after| *entry.key > *after));
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let page: Vec<Entry> = entries.by_ref().take(limit).collect();
    Page { entries: page, revision, remaining: entries.count() }
}
