//! Snapshots that are restored, and moves from one engine to another: revisions and values stay.

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use jiff::Timestamp;
use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, Entry, Error, EtcdStore, Options, Range, Store, snapshot};

use crate::etcd::Cluster;
use crate::kit::{delete, put};

fn embedded(directory: &Path) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(directory, Options::default(), clock::system()).unwrap())
}

async fn save(store: &Arc<impl Store>) -> Vec<u8> {
    let blocks = snapshot::stream(store.clone(), "/registry/", Timestamp::UNIX_EPOCH);
    blocks.try_collect::<Vec<_>>().await.unwrap().concat()
}

async fn entries(store: &dyn Store) -> Vec<Entry> {
    store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap().entries
}

async fn fill(store: &dyn Store) {
    for number in 0..120 {
        put(store, &format!("/registry/{}", number % 30), &number.to_string()).await;
    }
    put(store, "/masters/1", "not an object").await;
    delete(store, "/registry/7").await;
}

#[tokio::test]
async fn a_store_moves_to_etcd_and_back_with_its_revisions() {
    let home = tempfile::tempdir().unwrap();
    let first = embedded(&home.path().join("first"));
    fill(&*first).await;
    let wanted = entries(&*first).await;
    let last = first.revision().await.unwrap();

    let cluster = Cluster::start(1);
    let etcd = Arc::new(
        EtcdStore::open(cluster.options("/moved"), clock::system(), Random::from_os()).await.unwrap(),
    );
    let summary = etcd.restore(&mut &*save(&first).await).await.unwrap();
    assert_eq!((summary.entries, summary.header.revision), (29, last));
    assert_eq!(entries(&*etcd).await, wanted);
    assert_eq!(etcd.revision().await.unwrap(), last);
    assert!(matches!(etcd.watch("/", last - 1).await, Err(Error::Compacted { .. })), "no history before");
    let again = etcd.restore(&mut &*save(&first).await).await.unwrap_err();
    assert!(matches!(again, Error::Refused(_)), "{again}");
    let newer = put(&*etcd, "/registry/new", "in etcd").await;
    assert_eq!(newer, last + 1, "revisions go on");

    let path = home.path().join("second");
    EmbeddedStore::restore(&path, &mut &*save(&etcd).await, 0).unwrap();
    let second = embedded(&path);
    assert_eq!(entries(&*second).await, entries(&*etcd).await);
    assert_eq!(second.revision().await.unwrap(), newer);
    assert!(matches!(second.watch("/", newer - 1).await, Err(Error::Compacted { .. })));
    assert_eq!(put(&*second, "/registry/3", "back again").await, newer + 1);
    assert_eq!(second.verify().await.unwrap(), 30);
}

#[tokio::test]
async fn a_damaged_snapshot_leaves_nothing_behind_and_a_store_is_not_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let first = embedded(&home.path().join("first"));
    fill(&*first).await;
    let file = save(&first).await;
    let target = home.path().join("second");
    let mut damaged = file.clone();
    damaged[file.len() - 40] ^= 1;
    assert!(matches!(EmbeddedStore::restore(&target, &mut &*damaged, 0), Err(Error::Damaged(_))));
    assert!(matches!(
        EmbeddedStore::restore(&target, &mut &file[..file.len() - 1], 0),
        Err(Error::Damaged(_))
    ));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "only the first store is there");
    let error = EmbeddedStore::restore(&home.path().join("first"), &mut &*file, 0).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    EmbeddedStore::restore(&target, &mut &*file, 0).unwrap();
    assert_eq!(entries(&*embedded(&target)).await, entries(&*first).await);
}

#[tokio::test]
async fn a_store_that_was_restored_goes_on_after_what_was_there_before() {
    let home = tempfile::tempdir().unwrap();
    let first = embedded(&home.path().join("first"));
    fill(&*first).await;
    let (file, kept) = (save(&first).await, entries(&*first).await);
    let after = put(&*first, "/registry/3", "not in the snapshot").await;
    let path = home.path().join("second");
    let summary = EmbeddedStore::restore(&path, &mut &*file, after + 100).unwrap();
    assert_eq!(summary.header.revision, after - 1);
    let second = embedded(&path);
    assert_eq!(entries(&*second).await, kept, "with the revisions that they had");
    assert_eq!(second.revision().await.unwrap(), after + 100);
    // Who has seen what the snapshot does not have must read again.
    assert!(matches!(second.watch("/", after).await, Err(Error::Compacted { .. })));
    assert_eq!(put(&*second, "/registry/3", "new").await, after + 101);
    drop(second);
    assert_eq!(embedded(&path).verify().await.unwrap(), 29);
}
