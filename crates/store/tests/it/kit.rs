//! What the tests do with a store.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use store::{Batch, Change, Event, Events, Expect, Range, Revision, Store};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    let expect = match store.get(key).await.unwrap().0 {
        Some(entry) => Expect::Revision(entry.mod_revision),
        None => Expect::Absent,
    };
    store.put(key, Bytes::copy_from_slice(value.as_bytes()), expect).await.unwrap().mod_revision
}

pub(crate) async fn delete(store: &dyn Store, key: &str) -> Revision {
    let entry = store.get(key).await.unwrap().0.unwrap();
    store.delete(key, entry.mod_revision).await.unwrap()
}

pub(crate) async fn listed(store: &dyn Store, range: Range) -> Vec<String> {
    let page = store.range(range).await.unwrap();
    page.entries
        .iter()
        .map(|entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)))
        .collect()
}

pub(crate) fn under(prefix: &str) -> Range {
    Range { prefix: prefix.into(), ..Range::default() }
}

/// Returns the next `count` changes under `prefix` after a revision.
pub(crate) async fn collect(store: &dyn Store, prefix: &str, after: Revision, count: usize) -> Vec<Event> {
    let mut events = store.watch(prefix, after).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(next(&mut events).await.events);
    }
    seen
}

/// Returns the next batch of a watch that has to go on.
pub(crate) async fn next(events: &mut Events) -> Batch {
    let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("a batch in time");
    next.expect("the watch goes on").unwrap()
}

pub(crate) fn shown(event: &Event) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match &event.change {
        Change::Put { entry, previous: None } => format!("+{}={}", entry.key, text(&entry.value)),
        Change::Put { entry, previous: Some(old) } => {
            format!("~{}={} was {}", entry.key, text(&entry.value), text(&old.value))
        }
        Change::Delete { previous } => format!("-{} was {}", previous.key, text(&previous.value)),
    }
}
