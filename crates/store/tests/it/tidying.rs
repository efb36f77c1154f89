//! The embedded engine gives the disk back that history had when it is asked to.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, Expect, Options, Revision, Store};

use crate::kit::{collect, put, under};

const KEYS: usize = 200;
const VALUE: usize = 1000;

/// Bytes that files take on the disk: a journal's unused end takes none.
fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .filter_map(|entry| {
            // Tables come and go.
            let meta = entry.metadata().ok()?;
            Some(if meta.is_dir() { size(&entry.path()) } else { meta.blocks() * 512 })
        })
        .sum()
}

/// Changes every key so many times; what is written cannot be compressed to nothing.
async fn update(store: &EmbeddedStore, times: usize) -> Revision {
    let random = Random::seeded(5);
    let chains = (0..KEYS).map(|number| {
        let random = &random;
        async move {
            let key = format!("/p/{number:04}");
            let mut expect = match store.get(&key).await.unwrap().0 {
                Some(entry) => Expect::Revision(entry.mod_revision),
                None => Expect::Absent,
            };
            for _ in 0..times {
                let mut value: Vec<u8> = Vec::with_capacity(VALUE + 8);
                while value.len() < VALUE {
                    value.extend(random.below(u64::MAX).to_le_bytes());
                }
                let entry = store.put(&key, Bytes::from(value), expect).await.unwrap();
                expect = Expect::Revision(entry.mod_revision);
            }
        }
    });
    futures::stream::iter(chains).buffer_unordered(KEYS).for_each(async |()| ()).await;
    store.revision().await.unwrap()
}

const LIVE: u64 = (KEYS * VALUE) as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_compaction_the_disk_holds_little_more_than_what_lives() {
    let directory = tempfile::tempdir().unwrap();
    let options = || Options { memtable_bytes: 256 << 10, ..Options::default() };
    let store = EmbeddedStore::open(directory.path(), options(), clock::system()).unwrap();
    let mut watch = store.watch("/p/0001", 0).await.unwrap();
    let last = update(&store, 40).await;
    let before = size(directory.path());
    assert!(before > 30 * LIVE, "{before}: there is history to forget");
    store.compact(last).await.unwrap();
    store.defragment().await.unwrap();
    let after = size(directory.path());
    assert!(after <= 3 * LIVE, "{after} bytes for {LIVE}");
    assert!(store.health().await.unwrap().size <= 3 * LIVE);
    let entries = store.range(under("/p/")).await.unwrap().entries;

    // It goes on, for those who write and those who watch, and comes back.
    let next = put(&store, "/p/0001", "more").await;
    assert_eq!(next, last + 1);
    let mut seen = 0;
    while seen < next {
        seen = watch.next().await.unwrap().unwrap().revision;
    }
    drop(store);
    let store = EmbeddedStore::open(directory.path(), options(), clock::system()).unwrap();
    assert_eq!(store.verify().await.unwrap(), KEYS as u64);
    assert_eq!(collect(&store, "/", last, 1).await[0].revision, next);
    let found = store.range(under("/p/")).await.unwrap().entries;
    let changed = found.iter().zip(&entries).filter(|(now, then)| now != then).count();
    assert_eq!((found.len(), changed), (KEYS, 1));
    // Again and again: each time it begins from an empty journal.
    for round in 0..3 {
        let last = update(&store, 3).await;
        store.compact(last).await.unwrap();
        store.defragment().await.unwrap();
        let after = size(directory.path());
        assert!(after <= 3 * LIVE, "{after} bytes in round {round}");
        assert_eq!(store.verify().await.unwrap(), KEYS as u64);
    }
}
