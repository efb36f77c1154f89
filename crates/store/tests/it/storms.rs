//! Long histories while things break: an etcd that loses leaders, connections and its past, and an embedded store
//! whose disk fills up. Checked by [`crate::history`]. A few thousand calls in every run; 120,000 with `STORE_FULL=1`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, EtcdOptions, EtcdStore, Options, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::embedded_faults::{FULL, in_namespace};
use crate::etcd::Cluster;
use crate::history::{calls, run};

/// Passes connections on to `to` until `cut` says that all that there are shall break.
async fn proxy(listener: TcpListener, to: SocketAddr, cut: watch::Receiver<u64>) {
    while let Ok((mut from, _)) = listener.accept().await {
        let mut cut = cut.clone();
        cut.mark_unchanged();
        tokio::spawn(async move {
            let Ok(mut member) = TcpStream::connect(to).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut from, &mut member) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Forgets the past up to where even a watcher that begins anew is beyond.
async fn forget(store: &dyn Store) {
    if let Ok(revision) = store.revision().await {
        // It may fail: the store is away, or others have forgotten more.
        drop(store.compact(revision.saturating_sub(2000)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_linearizable_while_leaders_die_and_connections_break() {
    let mut cluster = Cluster::start(3);
    let (cut, cuts) = watch::channel(0_u64);
    let mut endpoints = Vec::new();
    for address in cluster.addresses() {
        let listener = TcpListener::bind((address, 12379)).await.unwrap();
        endpoints.push(format!("https://{}", listener.local_addr().unwrap()));
        tokio::spawn(proxy(listener, (address, 2379).into(), cuts.clone()));
    }
    let options = EtcdOptions { endpoints: endpoints.clone(), ..cluster.options("/storm") };
    let store: Arc<dyn Store> =
        Arc::new(EtcdStore::open(options, clock::system(), Random::from_os()).await.unwrap());
    let shared = store.clone();
    let (mut killed, mut broken) = (0, 0);
    let told = run(store, calls(2400, 60_000), async |mut stopped| {
        let random = Random::seeded(21);
        while !*stopped.borrow() {
            let pause = Duration::from_millis(200 + random.below(600));
            // What happens meanwhile is the test; no state is waited for.
            drop(tokio::time::timeout(pause, stopped.changed()).await);
            match random.below(3) {
                0 => {
                    let Ok(health) = shared.health().await else { continue };
                    let leader = health.members.iter().find(|member| member.leader);
                    let Some(number) = leader
                        .and_then(|leader| endpoints.iter().position(|known| *known == leader.endpoint))
                    else {
                        continue;
                    };
                    cluster.kill(number);
                    drop(tokio::time::timeout(Duration::from_millis(1500), stopped.changed()).await);
                    cluster.run(number);
                    killed += 1;
                }
                1 => {
                    cut.send_modify(|count| *count += 1);
                    broken += 1;
                }
                _ => forget(&*shared).await,
            }
        }
    })
    .await;
    println!("etcd of 3, leader killed {killed} times, all connections broken {broken} times: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_is_linearizable_while_its_disk_fills_up() {
    let Some(directory) = std::env::var_os(FULL).map(PathBuf::from) else {
        let directory = tempfile::tempdir().unwrap();
        let mount = format!("mount -t tmpfs -o size=48m none {}", directory.path().display());
        let test = "storms::the_embedded_store_is_linearizable_while_its_disk_fills_up";
        return in_namespace(test, directory.path(), &mount);
    };
    let options = Options { reserve_bytes: 1 << 20, memtable_bytes: 64 << 10, ..Options::default() };
    let store: Arc<dyn Store> =
        Arc::new(EmbeddedStore::open(&directory.join("store"), options, clock::system()).unwrap());
    let (shared, ballast) = (store.clone(), directory.join("ballast"));
    let mut filled = 0;
    let told = run(store, calls(4000, 60_000), async |mut stopped| {
        while !*stopped.borrow() {
            drop(tokio::time::timeout(Duration::from_millis(150), stopped.changed()).await);
            forget(&*shared).await;
            // It cannot while the disk is full.
            drop(shared.defragment().await);
            // Until not a byte more fits.
            let mut file = std::fs::File::create(&ballast).unwrap();
            drop(std::io::copy(&mut std::io::repeat(1), &mut file));
            filled += 1;
            drop(tokio::time::timeout(Duration::from_millis(50), stopped.changed()).await);
            std::fs::remove_file(&ballast).unwrap();
        }
    })
    .await;
    println!("embedded, disk full {filled} times: {told}");
}
