//! A control plane without sockets, and nodes that only pretend to run pods.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, testing};
use client::{Delta, Informers, Key, WorkQueue};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use machinery::clock;
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, until};
use machinery::tasks::Tasks;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) struct Kit {
    pub(crate) client: kube::Client,
    _server: Arc<ApiServer>,
    _tasks: Tasks,
}

/// Starts everything, with two nodes of which the first takes no pods.
pub(crate) async fn start() -> Kit {
    let _already_set = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let (server, tasks) = testing::start().await;
    let client = testing::admin(&server);
    let (clock, random) = (clock::system(), Random::seeded(7));
    let manager = server.local_client("system:kube-controller-manager", &[]);
    let informers = Informers::new(manager.clone(), clock.clone(), random.clone(), tasks.clone());
    let config = controllers::Config {
        pod_network: "10.2.0.0/16".parse().unwrap(),
        node_prefix: 24,
        dns_address: "10.3.0.10".parse().unwrap(),
        load_balancer_range: ("172.17.4.240".parse().unwrap(), "172.17.4.250".parse().unwrap()),
        ca_certificate: "the authority".into(),
        ca_key: None,
    };
    controllers::run(manager, &informers, config, clock.clone(), random.clone(), &tasks);
    let scheduler = server.local_client("system:kube-scheduler", &[]);
    scheduler::run(scheduler, &informers, clock.clone(), random.clone(), &tasks);
    simulate_kubelets(&client, &informers, &tasks, &clock, &random);
    let kit = Kit { client, _server: server, _tasks: tasks };
    kit.add_node("172.17.4.101", true).await;
    kit.add_node("172.17.4.201", false).await;
    kit
}

/// Runs what is bound: pods get an address and are ready at once; deleted ones end at once.
fn simulate_kubelets(
    client: &kube::Client,
    informers: &Informers,
    tasks: &Tasks,
    clock: &clock::SharedClock,
    random: &Random,
) {
    let queue = WorkQueue::new(clock.clone(), random.clone());
    let pods = informers.of::<Pod>();
    let feed = queue.clone();
    pods.observe(move |delta: &Delta<Pod>| feed.add(Key::of(&**delta.object())));
    let addresses = Arc::new(AtomicU32::new(2));
    for _ in 0..4 {
        let (queue, pods, client, addresses) =
            (queue.clone(), pods.clone(), client.clone(), addresses.clone());
        tasks.spawn("kubelet", async move {
            while let Some(key) = queue.get().await {
                if let Some(pod) = pods.get(&key) {
                    run_pod(&client, &pod, &addresses).await;
                }
                queue.done(&key);
            }
        });
    }
}

async fn run_pod(client: &kube::Client, pod: &Pod, addresses: &AtomicU32) {
    let namespace = pod.metadata.namespace.as_deref().unwrap();
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let name = pod.metadata.name.as_deref().unwrap();
    let spec = pod.spec.as_ref().unwrap();
    if spec.node_name.is_none() {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        if let Err(error) = api.delete(name, &params).await {
            tracing::debug!(%error, "already gone");
        }
        return;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Pending") {
        return;
    }
    let number = addresses.fetch_add(1, Ordering::Relaxed);
    let ip = format!("10.2.{}.{}", number / 250, number % 250 + 2);
    // A pod of a job ends by itself: well, unless its only container is called "bad".
    let ends = spec.restart_policy.as_deref() == Some("Never");
    let bad = spec.containers.iter().any(|container| container.name == "bad");
    let phase = match (ends, bad) {
        (false, _) => "Running",
        (true, false) => "Succeeded",
        (true, true) => "Failed",
    };
    let ready = if phase == "Running" { "True" } else { "False" };
    let now = jiff::Timestamp::now().to_string();
    let patch = json!({"status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}});
    if let Err(error) = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        tracing::debug!(%error, "already gone");
    }
}

impl Kit {
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn add_node(&self, name: &str, unschedulable: bool) {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {"unschedulable": unschedulable}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let now = jiff::Timestamp::now().to_string();
        let status = json!({"status": {
            "capacity": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
            "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
            "addresses": [{"type": "InternalIP", "address": name}],
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits until `check` accepts the list of all objects of a kind in the namespace `default`.
    pub(crate) async fn wait_list<K>(
        &self,
        what: &str,
        selector: &str,
        check: impl Fn(&[K]) -> bool,
    ) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = self.api::<K>();
        let params = kube::api::ListParams::default().labels(selector);
        wait(what, async || {
            let found = api.list(&params).await.unwrap().items;
            if check(&found) {
                Attempt::Done(found)
            } else {
                Attempt::Again(serde_json::to_string(&found).unwrap())
            }
        })
        .await
    }

    /// Waits until `check` accepts the object `name`.
    pub(crate) async fn wait_object<K>(&self, what: &str, name: &str, check: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = self.api::<K>();
        wait(what, async || match api.get_opt(name).await.unwrap() {
            Some(found) if check(&found) => Attempt::Done(found),
            other => Attempt::Again(serde_json::to_string(&other).unwrap()),
        })
        .await
    }
}

pub(crate) async fn wait<T>(what: &str, attempt: impl AsyncFnMut() -> Attempt<T, String>) -> T {
    let backoff = Backoff { most: Duration::from_millis(100), ..Backoff::QUICK };
    let deadline = Duration::from_secs(60);
    until(what, deadline, backoff, &clock::SystemClock, &Random::seeded(1), attempt)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}
