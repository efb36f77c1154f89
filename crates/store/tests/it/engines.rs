//! The engines that the suite runs on.

use std::sync::Arc;

use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, EtcdStore, MemoryStore, Options, Store};

use crate::etcd::Cluster;

/// An empty store; what it lives in goes with it.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<dyn Store>,
    _home: Home,
}

enum Home {
    None,
    Directory(#[expect(dead_code, reason = "held, not read")] tempfile::TempDir),
    Cluster(#[expect(dead_code, reason = "held, not read")] Cluster),
}

/// Returns one empty store of each engine.
pub(crate) async fn engines() -> Vec<Engine> {
    let directory = tempfile::tempdir().unwrap();
    let embedded = EmbeddedStore::open(directory.path(), Options::default(), clock::system()).unwrap();
    let cluster = Cluster::start(1);
    let etcd = EtcdStore::open(cluster.options("/suite"), clock::system(), Random::from_os()).await.unwrap();
    vec![
        Engine { name: "memory", store: Arc::new(MemoryStore::new()), _home: Home::None },
        Engine { name: "embedded", store: Arc::new(embedded), _home: Home::Directory(directory) },
        Engine { name: "etcd", store: Arc::new(etcd), _home: Home::Cluster(cluster) },
    ]
}
