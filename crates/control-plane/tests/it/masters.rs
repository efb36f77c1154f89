//! Three masters over three etcd members, each killed in turn with its member, under a constant load of writes
//! and watches: no acknowledged write is lost, no event is missed, nobody leads beside another.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use tokio::sync::watch;

use crate::etcd::Cluster;
use crate::master::{Master, client, write_pki};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

struct Three {
    etcd: Cluster,
    masters: Vec<Master>,
    pki: PathBuf,
}

impl Three {
    fn start() -> Self {
        let etcd = Cluster::start(3);
        let directory = etcd.directory().join("masters");
        std::fs::create_dir_all(&directory).unwrap();
        let addresses = etcd.addresses();
        write_pki(&directory, &addresses);
        let masters = addresses
            .iter()
            .enumerate()
            .map(|(number, address)| {
                let mut options = etcd.options("/tests");
                // Each asks the member beside it first.
                options.endpoints.rotate_left(number);
                Master::start(directory.join(number.to_string()), &directory, *address, &options)
            })
            .collect();
        Self { etcd, masters, pki: directory }
    }

    async fn clients(&self) -> Vec<kube::Client> {
        let mut clients = Vec::new();
        for master in &self.masters {
            clients.push(client(&self.pki, master.address).await);
        }
        clients
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        self.masters.iter().map(|master| master.address).collect()
    }

    fn logs(&self) -> String {
        let logs =
            self.masters.iter().map(|master| std::fs::read_to_string(master.log()).unwrap_or_default());
        logs.collect::<Vec<_>>().join("\n=====\n")
    }
}

/// Calls `attempt` at one server after the other until it succeeds; returns what came of it.
async fn eventually<T>(
    what: &str,
    clients: &[kube::Client],
    attempt: impl AsyncFn(&kube::Client) -> Result<T, String>,
) -> T {
    let began = Instant::now();
    let mut turn = 0;
    loop {
        turn += 1;
        match attempt(&clients[turn % clients.len()]).await {
            Ok(value) => return value,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Creates one object after the other; returns the acknowledged names and the longest time without one.
async fn write(clients: Vec<kube::Client>, stop: watch::Receiver<bool>) -> (Vec<String>, Duration) {
    let (mut names, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    let mut turn = 0;
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        let name = format!("c{number:06}");
        let object: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": name}, "data": {"n": name}})).unwrap();
        loop {
            let api: Api<ConfigMap> = Api::namespaced(clients[turn % clients.len()].clone(), "default");
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => break,
                // An earlier attempt was done without our hearing of it.
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => break,
                Err(_) => {
                    turn += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        longest = longest.max(last.elapsed());
        last = Instant::now();
        names.push(name);
    }
    (names, longest)
}

/// Follows the objects across servers, as a client does that lists anew when it must; returns their names in the order of their events once `last` was seen.
async fn follow(
    clients: Vec<kube::Client>,
    mut version: String,
    mut last: watch::Receiver<Option<String>>,
) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for turn in 0.. {
        let api: Api<ConfigMap> = Api::namespaced(clients[turn % clients.len()].clone(), "default");
        let Ok(events) = api.watch(&WatchParams::default(), &version).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut events = events.boxed();
        loop {
            let done = last.borrow_and_update().clone().is_some_and(|last| seen.last() == Some(&last));
            if done {
                return seen;
            }
            tokio::select! {
                _ = last.changed() => {}
                event = events.next() => match event {
                    Some(Ok(WatchEvent::Added(object))) => {
                        version = object.metadata.resource_version.unwrap();
                        let name = object.metadata.name.unwrap();
                        if name.starts_with('c') {
                            seen.push(name);
                        }
                    }
                    Some(Ok(WatchEvent::Bookmark(mark))) => version = mark.metadata.resource_version,
                    // This server began after that version: as every client does, list and go on from there.
                    Some(Ok(WatchEvent::Error(status))) if status.code == 410 => {
                        let Ok(list) = api.list(&ListParams::default()).await else { break };
                        let names = list.items.into_iter().filter_map(|object| object.metadata.name);
                        let mut missed: Vec<String> =
                            names.filter(|name| name.starts_with('c') && !seen.contains(name)).collect();
                        missed.sort();
                        seen.extend(missed);
                        version = list.metadata.resource_version.unwrap();
                        break;
                    }
                    Some(Ok(WatchEvent::Error(_))) => break,
                    Some(Ok(other)) => panic!("not expected: {other:?}"),
                    Some(Err(_)) | None => break,
                },
            }
        }
    }
    seen
}

/// When somebody began to lead, and when somebody no longer could.
#[derive(Debug)]
struct Term {
    component: String,
    identity: String,
    at: Timestamp,
    begins: bool,
}

/// Reads the masters' logs.
fn terms(logs: &str) -> Vec<Term> {
    let mut terms: Vec<Term> = logs
        .lines()
        .filter_map(|line| {
            let begins = !line.contains("no longer leads");
            if !line.contains(" leads ") && begins {
                return None;
            }
            let field = |name: &str| {
                let from = line.find(&format!("{name}=")).unwrap() + name.len() + 1;
                line[from..].split(' ').next().unwrap().trim_matches('"').to_owned()
            };
            let at = line.split_whitespace().next().unwrap().parse().unwrap();
            Some(Term { component: field("component"), identity: field("identity"), at, begins })
        })
        .collect();
    terms.sort_by_key(|term| term.at);
    terms
}

/// Makes sure that each who begins to lead finds the one before gone: stepped down, or killed.
fn check_terms(terms: &[Term], kills: &[(Timestamp, Ipv4Addr)]) {
    for component in ["kube-controller-manager", "kube-scheduler"] {
        let own = || terms.iter().filter(|term| term.component == component);
        let begins: Vec<&Term> = own().filter(|term| term.begins).collect();
        assert!(begins.len() > 1, "{component} is led by a second one at some time: {terms:#?}");
        for pair in begins.windows(2) {
            let between = |at: Timestamp| pair[0].at <= at && at <= pair[1].at;
            let stepped_down =
                own().any(|term| !term.begins && term.identity == pair[0].identity && between(term.at));
            let killed = kills
                .iter()
                .any(|(at, address)| pair[0].identity.starts_with(&format!("{address}_")) && between(*at));
            assert!(stepped_down || killed, "two lead {component}: {pair:#?} {kills:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_three_masters_may_be_lost_under_load() {
    let mut three = Three::start();
    let clients = three.clients().await;
    let version = eventually("a first list", &clients, async |client| {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        list.metadata.resource_version.ok_or_else(|| "no resource version".into())
    })
    .await;
    let leaders = async |clients: &[kube::Client]| {
        eventually("leaders", clients, async |client| {
            let api: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
            let mut holders = Vec::new();
            for name in ["kube-controller-manager", "kube-scheduler"] {
                let lease = api.get(name).await.map_err(|error| error.to_string())?;
                let holder =
                    lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
                holders.push(holder.ok_or_else(|| format!("{name} has no holder"))?);
            }
            Ok(holders)
        })
        .await
    };
    let (stop, stopped) = watch::channel(false);
    let (last, lasts) = watch::channel(None);
    let writer = tokio::spawn(write(clients.clone(), stopped));
    let follower = tokio::spawn(follow(clients.clone(), version, lasts));
    let mut kills = Vec::new();
    for lost in 0..3 {
        kills.push((Timestamp::now(), three.addresses()[lost]));
        three.masters[lost].kill();
        three.etcd.kill(lost);
        let rest: Vec<kube::Client> = clients
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != lost)
            .map(|(_, client)| client.clone())
            .collect();
        // Whoever led is replaced.
        let gone = three.addresses()[lost].to_string();
        eventually("other leaders", &rest, async |client| {
            let holders = leaders(std::slice::from_ref(client)).await;
            let free = holders.iter().all(|holder| !holder.starts_with(&format!("{gone}_")));
            free.then_some(()).ok_or_else(|| format!("{holders:?} with {gone} gone"))
        })
        .await;
        three.etcd.run(lost);
        three.masters[lost].run();
        eventually("the lost master", &clients[lost..=lost], async |client| {
            let api: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
            api.get("kube-scheduler").await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    stop.send(true).unwrap();
    let (written, longest) = writer.await.unwrap();
    last.send(written.last().cloned()).unwrap();
    let seen = tokio::time::timeout(PATIENCE, follower).await.expect("the watch ends").unwrap();
    assert_eq!(seen, written, "every event once and in order");
    for (number, client) in clients.iter().enumerate() {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let present: Vec<String> = api
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .into_iter()
            .filter_map(|object| object.metadata.name.filter(|name| name.starts_with('c')))
            .collect();
        assert_eq!(present, written, "at master {number}");
    }
    println!("{} writes; the longest time without one was {longest:?}", written.len());
    check_terms(&terms(&three.logs()), &kills);
}
