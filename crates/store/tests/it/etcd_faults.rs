//! The etcd engine when things are not as they should be: lost members, wrong certificates, foreign clusters.

use std::sync::Arc;

use machinery::clock;
use machinery::names::Random;
use store::{Error, EtcdOptions, EtcdStore, Store};

use crate::etcd::{Cluster, write_certificates};
use crate::kit::{next, put};

async fn open(options: EtcdOptions) -> store::Result<EtcdStore> {
    EtcdStore::open(options, clock::system(), Random::from_os()).await
}

#[tokio::test]
async fn a_prefix_belongs_to_one_cluster() {
    let cluster = Cluster::start(1);
    let mine = open(cluster.options("/a")).await.unwrap();
    put(&mine, "/x", "mine").await;
    assert!(open(cluster.options("/a")).await.is_ok(), "another master of the same cluster");
    let foreign = EtcdOptions { owner: "somebody else".into(), ..cluster.options("/a") };
    let error = open(foreign.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(
        error.to_string(),
        "store refused: the etcd prefix /a belongs to another cluster (its owner is \"the tests\", this cluster is \
         \"somebody else\"); give every cluster a prefix of its own"
    );
    let other = open(EtcdOptions { prefix: "/b".into(), ..foreign }).await.unwrap();
    assert_eq!(other.get("/x").await.unwrap().0, None);
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_named() {
    let cluster = Cluster::start(1);
    drop(open(cluster.options("/a")).await.unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    write_certificates(elsewhere.path());
    let mut options = cluster.options("/a");
    options.tls.as_mut().unwrap().ca = elsewhere.path().join("ca.crt");
    let error = open(options).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate") && error.contains("correct `ca`"), "{error}");
    let mut options = cluster.options("/a");
    options.tls.as_mut().unwrap().cert = elsewhere.path().join("tls.crt");
    options.tls.as_mut().unwrap().key = elsewhere.path().join("tls.key");
    let error = open(options).await.unwrap_err().to_string();
    assert!(error.contains("does not accept the client certificate"), "{error}");
    let mut options = cluster.options("/a");
    options.tls.as_mut().unwrap().key = elsewhere.path().join("tls.key");
    let error = open(options).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let error = open(EtcdOptions { tls: None, ..cluster.options("/a") }).await.unwrap_err().to_string();
    assert!(error.contains("https needs ca, cert and key"), "{error}");
}

#[tokio::test]
async fn another_etcd_cluster_at_the_same_endpoints_is_noticed() {
    let (one, two) = (Cluster::start(1), Cluster::start(1));
    let memory = Some(one.directory().join("memory/etcd"));
    drop(open(EtcdOptions { memory: memory.clone(), ..one.options("/a") }).await.unwrap());
    drop(open(EtcdOptions { memory: memory.clone(), ..one.options("/a") }).await.unwrap());
    let error = open(EtcdOptions { memory, ..two.options("/a") }).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert!(error.to_string().contains("but this master used the etcd cluster"), "{error}");
}

/// One of three members after the other is killed and comes back, while a writer and a watcher go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_and_no_event_is_lost_when_members_are_killed() {
    let mut cluster = Cluster::start(3);
    let store = Arc::new(open(cluster.options("/a")).await.unwrap());
    let mut events = store.watch("/", store.revision().await.unwrap()).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let (mut acknowledged, mut tried) = (Vec::new(), 0_u32);
            while !*stopped.borrow() {
                tried += 1;
                let key = format!("/{tried:06}");
                match store.put(&key, bytes::Bytes::from("v"), store::Expect::Absent).await {
                    Ok(entry) => acknowledged.push((entry.mod_revision, key)),
                    Err(Error::Unavailable(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            acknowledged
        }
    });
    let mut seen = Vec::new();
    for round in 0..3 {
        for member in [round, (round + 1) % 3] {
            cluster.kill(member);
            // Progress without that member, then with it again.
            for _ in 0..2 {
                let reached = seen.len() + 40;
                while seen.len() < reached {
                    let batch = next(&mut events).await;
                    seen.extend(batch.events.iter().map(|event| (event.revision, event.key().to_string())));
                }
                cluster.kill(member);
                cluster.run(member);
            }
        }
    }
    stop.send(true).unwrap();
    let acknowledged = writer.await.unwrap();
    let last = store.revision().await.unwrap();
    loop {
        let batch = next(&mut events).await;
        seen.extend(batch.events.iter().map(|event| (event.revision, event.key().to_string())));
        if batch.revision >= last {
            break;
        }
    }
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order and once");
    let missing: Vec<_> = acknowledged.iter().filter(|write| !seen.contains(write)).collect();
    assert!(missing.is_empty(), "of {} acknowledged writes were not seen: {missing:?}", acknowledged.len());
    let present = store.range(store::Range { prefix: "/".into(), ..Default::default() }).await.unwrap();
    let present: Vec<_> =
        present.entries.iter().map(|entry| (entry.mod_revision, entry.key.to_string())).collect();
    assert_eq!(
        present,
        {
            seen.sort_by(|a, b| a.1.cmp(&b.1));
            seen
        },
        "the watch saw exactly what is there"
    );
}
