//! Measures a lab and prints a table: `cargo bench --bench lab`, as root, after `tests/run` has made the images.
//!
//! It measures, it does not judge: nothing here fails because of a time. Node network 172.29.4.0/24.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing better to do")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, ReplicationController};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::WatchEvent;
use serde_json::json;

const NET: &str = "172.29.4";
const PODS: usize = 60;

struct Bench {
    directory: tempfile::TempDir,
    rows: Vec<[String; 3]>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut bench = Bench { directory: tempfile::tempdir().unwrap(), rows: Vec::new() };
        bench.write_spec();
        bench.measure_render();
        bench.measure_up_and_down();
        bench.cluster(&["up"]);
        bench.measure_memory_after_up();
        bench.measure_idle();
        bench.cluster(&["image", "load", &image("busybox")]);
        let client = bench.client().await;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        bench.measure_single_pods(&pods).await;
        bench.measure_many_pods(&pods).await;
        bench.measure_scheduling(client).await;
        bench.cluster(&["down"]);
        let size = std::fs::metadata(executable()).unwrap().len();
        bench.row("size of the executable", format!("{:.1} MB", size as f64 / 1e6), "≤ 40 MB");
        bench.print();
    });
}

/// The executable that is measured: the one that was built with the benchmark, or `$CLUSTER_EXECUTABLE`.
fn executable() -> PathBuf {
    std::env::var_os("CLUSTER_EXECUTABLE").map_or_else(|| env!("CARGO_BIN_EXE_cluster").into(), PathBuf::from)
}

fn image(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let fixtures = std::env::var_os("E2E_FIXTURES").map_or_else(|| root.join("target/e2e"), PathBuf::from);
    fixtures.join("images").join(format!("{name}.tar")).to_str().unwrap().to_owned()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1e3)
}

fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * share).round() as usize]
}

impl Bench {
    fn row(&mut self, figure: &str, measured: String, target: &str) {
        println!("{figure}: {measured} (target {target})");
        self.rows.push([figure.into(), measured, target.into()]);
    }

    fn print(&self) {
        println!("\n| figure | measured | target |\n|---|---|---|");
        for [figure, measured, target] in &self.rows {
            println!("| {figure} | {measured} | {target} |");
        }
    }

    fn write_spec(&self) {
        let spec = format!("name: bench\nnetwork:\n  nodes: {NET}.0/24\n");
        std::fs::write(self.directory.path().join("cluster.yaml"), spec).unwrap();
    }

    /// Everything that a hundred virtual machines boot from and are given, written into an empty directory.
    fn measure_render(&mut self) {
        let spec = self.directory.path().join("hundred.yaml");
        std::fs::write(
            &spec,
            "name: hundred\nprovider: qemu\nworkers: { count: 100, firstAddress: 172.17.4.110 }\n\
            network: { loadBalancers: 172.17.4.60-172.17.4.99 }\n",
        )
        .unwrap();
        let mut times: Vec<Duration> = (0..5)
            .map(|run| self.cluster(&["-f", "hundred.yaml", "generate", &format!("hundred-{run}")]))
            .collect();
        let figure = "`generate` of 1 master and 100 workers with certificates, from nothing (median of 5)";
        self.row(figure, milliseconds(percentile(&mut times, 0.5)), "≤ 1000 ms");
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn cluster(&self, arguments: &[&str]) -> Duration {
        let started = Instant::now();
        let output = Command::new(executable())
            .args(arguments)
            .current_dir(self.directory.path())
            .env("KUBECONFIG", self.kubeconfig())
            .env("CLUSTER_STATE_DIR", self.directory.path().join("state"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cluster {arguments:?} failed:\n{text}");
        started.elapsed()
    }

    async fn client(&self) -> kube::Client {
        let config = kube::config::Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }

    fn measure_up_and_down(&mut self) {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            ups.push(self.cluster(&["up"]));
            downs.push(self.cluster(&["down"]));
        }
        let up = percentile(&mut ups, 0.5);
        let worst = percentile(&mut ups, 1.0);
        self.row(
            "`up`, two nodes, until both Ready and DNS answers (median of 7; worst)",
            format!("{}; {}", milliseconds(up), milliseconds(worst)),
            "≤ 1.5 s",
        );
        self.row("`down` (median of 7)", milliseconds(percentile(&mut downs, 0.5)), "≤ 0.5 s");
    }

    fn measure_memory_after_up(&mut self) {
        let resident = processes("control-plane").iter().map(|pid| memory(*pid, "Rss")).sum::<u64>();
        self.row("control-plane resident memory after `up`", mebibytes(resident), "≤ 48 MiB");
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the figure is what is used while time passes and nothing happens"
    )]
    fn measure_idle(&mut self) {
        let pids: Vec<u32> = processes("control-plane")
            .into_iter()
            .chain(processes("node-agent").into_iter().take(1))
            .collect();
        std::thread::sleep(Duration::from_secs(5));
        let used = || pids.iter().map(|pid| cpu(*pid)).sum::<Duration>();
        let (before, window) = (used(), Duration::from_secs(30));
        std::thread::sleep(window);
        let share = (used() - before).as_secs_f64() / window.as_secs_f64() * 100.0;
        self.row("idle CPU, control plane and one node, of one core", format!("{share:.2} %"), "≤ 0.5 %");
    }

    async fn measure_single_pods(&mut self, pods: &Api<Pod>) {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for number in 0..PODS {
            let name = format!("single-{number}");
            starts.push(create_and_wait(pods, &name).await);
            ends.push(delete_and_wait(pods, &name).await);
        }
        let (p50, p99) = (percentile(&mut starts, 0.5), percentile(&mut starts, 0.99));
        self.row(
            &format!("pod create → Running seen by a watcher, image present (p50, p99 of {PODS})"),
            format!("{}, {}", milliseconds(p50), milliseconds(p99)),
            "≤ 100, 300 ms",
        );
        self.row(
            "delete (default grace, a process that exits on TERM) → gone (p50)",
            milliseconds(percentile(&mut ends, 0.5)),
            "≤ 100 ms",
        );
    }

    async fn measure_many_pods(&mut self, pods: &Api<Pod>) {
        let started = Instant::now();
        let creates = (0..30).map(|number| {
            let pods = pods.clone();
            async move { create_and_wait(&pods, &format!("many-{number}")).await }
        });
        futures::future::join_all(creates).await;
        let took = started.elapsed();
        self.row("30 pods created at once on one node → last Running", milliseconds(took), "≤ 1.5 s");
        let agents = processes("node-agent");
        let most = agents.iter().map(|pid| memory(*pid, "Rss")).max().unwrap_or(0);
        self.row("node-agent resident memory with 30 pods, shims aside", mebibytes(most), "≤ 32 MiB");
        let shims = processes("shim");
        let mean = shims.iter().map(|pid| memory(*pid, "Pss")).sum::<u64>() / shims.len().max(1) as u64;
        self.row(
            &format!("a pod's shim, proportional (mean of {})", shims.len()),
            mebibytes(mean),
            "≤ 1.5 MiB",
        );
        let control_plane = processes("control-plane").iter().map(|pid| memory(*pid, "Rss")).sum::<u64>();
        self.row("control-plane resident memory after 90 pods", mebibytes(control_plane), "–");
        let deletes = (0..30).map(|number| {
            let pods = pods.clone();
            async move { delete_and_wait(&pods, &format!("many-{number}")).await }
        });
        futures::future::join_all(deletes).await;
    }

    /// Ten nodes that this benchmark registers itself, and a replication controller for 500 pods on them.
    async fn measure_scheduling(&mut self, client: kube::Client) {
        let nodes: Api<Node> = Api::all(client.clone());
        for number in 0..10 {
            let name = format!("bench-{number}");
            let node = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"bench": "yes", "kubernetes.io/hostname": name}}
            }));
            nodes.create(&PostParams::default(), &node.unwrap()).await.unwrap();
            let size = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
            let status = json!({"status": {
                "capacity": size, "allocatable": size,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Bench",
                    "lastHeartbeatTime": "2100-01-01T00:00:00Z"}],
            }});
            nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        }
        // The node lifecycle controller takes the not-ready taint away once it has seen the condition.
        wait_for(&nodes, &ListParams::default().labels("bench=yes"), |seen: &BTreeMap<String, Node>| {
            let untainted = |node: &Node| node.spec.as_ref().is_none_or(|spec| spec.taints.is_none());
            seen.len() == 10 && seen.values().all(untainted)
        })
        .await;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let controllers: Api<ReplicationController> = Api::default_namespaced(client.clone());
        let controller = serde_json::from_value(json!({
            "metadata": {"name": "bulk"},
            "spec": {"replicas": 500, "selector": {"app": "bulk"}, "template": {
                "metadata": {"labels": {"app": "bulk"}},
                "spec": {"nodeSelector": {"bench": "yes"}, "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "busybox", "resources": {"requests": {"cpu": "10m"}}}]},
            }},
        }));
        let started = Instant::now();
        let selector = ListParams::default().labels("app=bulk");
        let watch = wait_for(&pods, &selector, |seen: &BTreeMap<String, Pod>| {
            let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            seen.len() == 500 && seen.values().all(placed)
        });
        let create = async {
            controllers.create(&PostParams::default(), &controller.unwrap()).await.unwrap();
        };
        futures::join!(watch, create);
        let took = started.elapsed();
        self.row(
            "500-pod replication controller, 10 Ready nodes: all scheduled",
            milliseconds(took),
            "≤ 0.5 s",
        );
        controllers.delete("bulk", &DeleteParams::background()).await.unwrap();
        pods.delete_collection(
            &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() },
            &ListParams::default().labels("app=bulk"),
        )
        .await
        .unwrap();
        for number in 0..10 {
            nodes.delete(&format!("bench-{number}"), &DeleteParams::default()).await.unwrap();
        }
    }
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
        }]},
    }))
    .unwrap()
}

async fn create_and_wait(pods: &Api<Pod>, name: &str) -> Duration {
    let started = Instant::now();
    let selector = ListParams::default().fields(&format!("metadata.name={name}"));
    let running = wait_for(pods, &selector, |seen: &BTreeMap<String, Pod>| {
        seen.values()
            .any(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"))
    });
    let create = async {
        pods.create(&PostParams::default(), &pod(name)).await.unwrap();
    };
    futures::join!(running, create);
    started.elapsed()
}

async fn delete_and_wait(pods: &Api<Pod>, name: &str) -> Duration {
    let started = Instant::now();
    let selector = ListParams::default().fields(&format!("metadata.name={name}"));
    pods.delete(name, &DeleteParams::default()).await.unwrap();
    wait_for(pods, &selector, |seen: &BTreeMap<String, Pod>| seen.is_empty()).await;
    started.elapsed()
}

/// Lists, watches, and returns once what is there satisfies `done`.
async fn wait_for<K>(api: &Api<K>, selector: &ListParams, done: impl Fn(&BTreeMap<String, K>) -> bool)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let list = api.list(selector).await.unwrap();
    let name = |object: &K| object.meta().name.clone().unwrap();
    let mut seen: BTreeMap<String, K> =
        list.items.into_iter().map(|object| (name(&object), object)).collect();
    let mut version = list.metadata.resource_version.unwrap();
    while !done(&seen) {
        let mut params = kube::api::WatchParams::default().timeout(290);
        params.label_selector.clone_from(&selector.label_selector);
        params.field_selector.clone_from(&selector.field_selector);
        let mut events = api.watch(&params, &version).await.unwrap().boxed();
        while let Some(event) = events.try_next().await.unwrap() {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = object.meta().resource_version.clone().unwrap();
                    seen.insert(name(&object), object);
                }
                WatchEvent::Deleted(object) => {
                    version = object.meta().resource_version.clone().unwrap();
                    seen.remove(&name(&object));
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(error) => panic!("{error}"),
            }
            if done(&seen) {
                return;
            }
        }
    }
}

/// Returns the processes whose first argument, or the name of whose executable, ends with `name`.
fn processes(name: &str) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            // `cluster control-plane …`, `/opt/bin/control-plane …`, `/proc/self/exe <mark> shim …`
            words.by_ref().take(3).any(|word| word.ends_with(name.as_bytes()))
        })
        .collect()
}

/// Returns bytes of a line of `smaps_rollup`.
fn memory(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(&format!("{field}:")));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux that this runs on.
    Duration::from_millis(ticks * 10)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
