//! Three masters and a worker over a real etcd: each master is lost in turn, then all at once, under a constant load of
//! writes and a watch.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::lab::{Lab, Ran};
use crate::machine::kill_nine;

/// What a client that tries again may find the API gone for, where the machine has other things to do, too.
const BOUND: Duration = Duration::from_secs(20);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

fn kubectl(lab: &Lab, line: &str) -> Ran {
    lab.shell("newest", &format!("kubectl {line}"))
}

/// Returns the executable of a real etcd.
fn etcd() -> String {
    std::env::var("ETCD").expect("ETCD names an etcd executable: run tests/run, which unpacks Debian's")
}

/// Kills a machine as a power cut does.
fn cut_power(lab: &Lab, name: &str, machine: &str) {
    let about = std::fs::read(lab.path().join(format!("state/{name}/nodes/{machine}/machine.json"))).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    kill_nine(i32::try_from(about["pid"].as_i64().unwrap()).unwrap());
}

/// A client as any other: with the lab's kubeconfig, and the patience of a person.
async fn client(lab: &Lab) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(lab.path().join("kubeconfig")).unwrap();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.connect_timeout = Some(Duration::from_secs(1));
    config.read_timeout = Some(Duration::from_secs(3));
    kube::Client::try_from(config).unwrap()
}

/// What the load has seen.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Acknowledged names, with how long the API was gone before each of them.
    written: Mutex<Vec<(String, Duration)>>,
    seen: Mutex<BTreeSet<String>>,
}

impl Load {
    fn count(&self) -> usize {
        self.written.lock().unwrap().len()
    }

    /// Returns the longest time without an acknowledged write since `from`.
    fn gap(&self, from: usize) -> Duration {
        self.written.lock().unwrap()[from..].iter().map(|(_, gap)| *gap).max().unwrap_or_default()
    }

    /// Waits until so many more were written.
    #[track_caller]
    fn wait_for_more(&self, more: usize) {
        let (wanted, began) = (self.count() + more, Instant::now());
        while self.count() < wanted {
            assert!(began.elapsed() < PATIENCE, "{} of {wanted} were written", self.count());
            pause();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the load has no event to wait for")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

async fn write(client: kube::Client, load: Arc<Load>) {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut last = Instant::now();
    for number in 0.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("load-{number:06}");
        let object: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        loop {
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => break,
                // An earlier attempt was done without our hearing of it.
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        load.written.lock().unwrap().push((name, last.elapsed()));
        last = Instant::now();
    }
}

async fn follow(client: kube::Client, load: Arc<Load>) {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event {
            load.seen.lock().unwrap().insert(object.name_any());
        }
    }
}

/// Returns which master has the address that moves between them: by its hardware address in the host's table.
fn holder(address: &str, masters: &[&str]) -> Option<usize> {
    let table = std::fs::read_to_string("/proc/net/arp").unwrap();
    let mac = |address: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(address))?;
        line.split_whitespace().nth(3).map(str::to_owned)
    };
    let of = mac(address)?;
    masters.iter().position(|master| mac(master).as_ref() == Some(&of))
}

#[test]
fn each_of_three_masters_and_all_at_once_may_be_lost_under_load() {
    let lab = Lab::up(
        "three",
        "172.27.4",
        &format!("masters: {{ count: 3 }}\netcd: {{ executable: {} }}\n", etcd()),
    );
    let nodes = kubectl(&lab, "get nodes --no-headers");
    assert_eq!(nodes.ok().lines().count(), 4, "{}", nodes.text);
    kubectl(&lab, "create configmap before --from-literal=a=b").ok();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let load = Arc::new(Load::default());
    let connected = runtime.block_on(client(&lab));
    runtime.spawn(follow(connected.clone(), load.clone()));
    let writer = runtime.spawn(write(connected, load.clone()));
    load.wait_for_more(10);

    let names = ["m1", "m2", "m3"];
    let addresses = ["172.27.4.101", "172.27.4.102", "172.27.4.103"];
    for _ in 0..2 {
        // Whoever has the address of the API: the worst one to lose.
        let lost = holder("172.27.4.100", &addresses).unwrap_or_default();
        let before = load.count();
        cut_power(&lab, "three", names[lost]);
        load.wait_for_more(10);
        println!(
            "{} with the API's address was lost: the longest time without a write was {:?}",
            names[lost],
            load.gap(before)
        );
        assert!(load.gap(before) < BOUND, "{:?}", load.gap(before));
        kubectl(&lab, "get configmap before").ok();
        lab.cluster(&["up"]).ok();
    }

    for machine in ["m1", "m2", "m3", "w1"] {
        cut_power(&lab, "three", machine);
    }
    lab.cluster(&["up"]).ok();
    load.wait_for_more(10);
    load.stop.store(true, Ordering::Relaxed);
    runtime.block_on(writer).unwrap();

    let written: BTreeSet<String> =
        load.written.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    let present = kubectl(&lab, "get configmaps -o name").ok().to_owned();
    let present: BTreeSet<String> =
        present.lines().filter_map(|line| line.strip_prefix("configmap/").map(str::to_owned)).collect();
    let lost: Vec<&String> = written.difference(&present).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    let began = Instant::now();
    while !written.is_subset(&load.seen.lock().unwrap()) {
        assert!(
            began.elapsed() < PATIENCE,
            "the watch misses {:?}",
            written.difference(&load.seen.lock().unwrap())
        );
        pause();
    }
    println!("{} writes", written.len());

    let status = lab.cluster(&["status", "-o", "json"]);
    let status: Value = serde_json::from_str(status.ok().lines().next().unwrap()).unwrap();
    let leaders = status["etcd"].as_array().unwrap().iter().filter(|member| member["leader"] == true);
    assert_eq!(leaders.count(), 1, "{status}");
    for component in ["kube-controller-manager", "kube-scheduler"] {
        assert!(names.contains(&status["leaders"][component].as_str().unwrap()), "{status}");
    }
    let endpoints = kubectl(&lab, "get endpoints kubernetes -o jsonpath={.subsets[*].addresses[*].ip}");
    assert_eq!(endpoints.ok(), addresses.join(" "), "{}", endpoints.text);
}
