//! Snapshots that are restored, and moves from one engine to another: revisions and values stay.

use std::path::Path;

use jiff::Timestamp;
use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, Entry, Error, EtcdStore, Options, Range, Store, snapshot};

use crate::etcd::Cluster;
use crate::kit::{delete, put};

fn embedded(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, Options::default(), clock::system()).unwrap()
}

async fn save(store: &dyn Store) -> Vec<u8> {
    let mut file = Vec::new();
    snapshot::save(store, "/registry/", Timestamp::UNIX_EPOCH, &mut file).await.unwrap();
    file
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
    fill(&first).await;
    let wanted = entries(&first).await;
    let last = first.revision().await.unwrap();

    let cluster = Cluster::start(1);
    let etcd = EtcdStore::open(cluster.options("/moved"), clock::system(), Random::from_os()).await.unwrap();
    let summary = etcd.restore(&mut &*save(&first).await).await.unwrap();
    assert_eq!((summary.entries, summary.header.revision), (29, last));
    assert_eq!(entries(&etcd).await, wanted);
    assert_eq!(etcd.revision().await.unwrap(), last);
    assert!(matches!(etcd.watch("/", last - 1).await, Err(Error::Compacted { .. })), "no history before");
    let again = etcd.restore(&mut &*save(&first).await).await.unwrap_err();
    assert!(matches!(again, Error::Refused(_)), "{again}");
    let newer = put(&etcd, "/registry/new", "in etcd").await;
    assert_eq!(newer, last + 1, "revisions go on");

    let path = home.path().join("second");
    EmbeddedStore::restore(&path, &mut &*save(&etcd).await).unwrap();
    let second = embedded(&path);
    assert_eq!(entries(&second).await, entries(&etcd).await);
    assert_eq!(second.revision().await.unwrap(), newer);
    assert!(matches!(second.watch("/", newer - 1).await, Err(Error::Compacted { .. })));
    assert_eq!(put(&second, "/registry/3", "back again").await, newer + 1);
    assert_eq!(second.verify().await.unwrap(), 30);
}

#[tokio::test]
async fn a_damaged_snapshot_leaves_nothing_behind_and_a_store_is_not_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let first = embedded(&home.path().join("first"));
    fill(&first).await;
    let file = save(&first).await;
    let target = home.path().join("second");
    let mut damaged = file.clone();
    damaged[file.len() - 40] ^= 1;
    assert!(matches!(EmbeddedStore::restore(&target, &mut &*damaged), Err(Error::Damaged(_))));
    assert!(matches!(EmbeddedStore::restore(&target, &mut &file[..file.len() - 1]), Err(Error::Damaged(_))));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "only the first store is there");
    let error = EmbeddedStore::restore(&home.path().join("first"), &mut &*file).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    EmbeddedStore::restore(&target, &mut &*file).unwrap();
    assert_eq!(entries(&embedded(&target)).await, entries(&first).await);
}
