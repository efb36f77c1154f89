//! Measures the API server over HTTPS with the durable store and prints a table:
//! `cargo bench -p apiserver --bench server [-- --runs 3] [--small]`.
//!
//! The server is a process of its own, so that its processor time can be told from the clients'. It measures,
//! it does not judge: nothing here fails because of a time. `--small` does a tenth of the work, for debug builds.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing better to do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loopback::Outcome;
use store::{EmbeddedStore, Options};
use wire::{Connection, Target};

#[path = "../../examples/serve/loopback.rs"]
mod loopback;
mod watches;
mod wire;

const CLIENTS: usize = 16;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// The figures, in the order of the table: each with its unit and the target, and a sample a run.
#[derive(Default)]
pub(crate) struct Figures(Vec<(&'static str, &'static str, Vec<f64>)>);

impl Figures {
    pub(crate) fn add(&mut self, name: &'static str, target: &'static str, sample: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((.., samples)) => samples.push(sample),
            None => self.0.push((name, target, vec![sample])),
        }
    }

    fn print(&self) {
        println!("\n| figure | median | all runs | target |\n|---|---|---|---|");
        for (name, target, samples) in &self.0 {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            let all: Vec<String> = samples.iter().map(|sample| show(*sample)).collect();
            println!("| {name} | {} | {} | {target} |", show(sorted[sorted.len() / 2]), all.join(", "));
        }
    }
}

fn show(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().collect();
    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [_, command, port, directory] = arguments.as_slice()
        && command == "serve"
    {
        return workers.block_on(serve(port.parse()?, Path::new(directory)));
    }
    let small = arguments.iter().any(|argument| argument == "--small");
    let runs = arguments.iter().skip_while(|argument| *argument != "--runs").nth(1);
    let runs: usize = runs.map_or(Ok(if small { 1 } else { 3 }), |runs| runs.parse())?;
    let mut figures = Figures::default();
    for run in 1..=runs {
        println!("run {run} of {runs}");
        workers.block_on(measure(if small { 10 } else { 1 }, &mut figures));
    }
    figures.print();
    Ok(())
}

async fn serve(port: u16, directory: &Path) -> Outcome {
    machinery::log::init("warn");
    let store =
        EmbeddedStore::open(&directory.join("store"), Options::default(), machinery::clock::system())?;
    loopback::serve(port, directory, Arc::new(store), || Ok(())).await
}

/// The server's process.
pub(crate) struct Server {
    child: Child,
    pub(crate) target: Target,
    /// From its start to its first answer on `/readyz`.
    ready: Duration,
}

impl Server {
    async fn start(directory: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let target = Target::new(port, directory);
        let began = Instant::now();
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program).arg("serve").arg(port.to_string()).arg(directory).spawn().unwrap();
        let mut server = Self { child, target, ready: Duration::ZERO };
        // There is no event to wait on in another process; a refused connection costs microseconds.
        while began.elapsed() < Duration::from_secs(120) {
            if let Ok(mut connection) = server.target.connect().await
                && connection.send("GET", "/readyz", "").await.is_ok_and(|answer| answer.code == 200)
            {
                server.ready = began.elapsed();
                return server;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the server is not ready after two minutes");
    }

    /// The processor time that it used, in milliseconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after = stat.rsplit(')').next().unwrap();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // In ticks of a hundredth of a second: user and system.
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() * 10.0).sum()
    }

    /// The memory that it holds, in MiB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is a process of this benchmark and keeps nothing that matters.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn measure(divisor: usize, figures: &mut Figures) {
    // On the disk of the build and not in memory, so that a sync is one.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    loopback::certificates(directory.path()).unwrap();
    let server = Server::start(directory.path()).await;
    figures.add("exec → /readyz, empty store, s", "≤ 0.15", server.ready.as_secs_f64());
    single_objects(&server, 10_000 / divisor, figures).await;
    lists(&server, 3_000 / divisor, figures).await;
    watches::measure(&server, 100, 500 / divisor, figures).await;
    pods(&server, 10_000 / divisor, figures).await;
    let path: PathBuf = directory.path().into();
    drop(server);
    let server = Server::start(&path).await;
    figures.add("exec → /readyz, 10,000 objects, s", "≤ 0.5", server.ready.as_secs_f64());
}

/// A ConfigMap of a kilobyte.
pub(crate) fn map(name: &str, value: usize) -> String {
    let filler = "x".repeat(900);
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"value":"{value}","filler":"{filler}"}}}}"#
    )
}

/// Runs `work` for each of `count` numbers on `clients` connections. Returns the time for all and for each.
pub(crate) async fn spread<W, F>(
    target: &Target,
    clients: usize,
    count: usize,
    work: W,
) -> (Duration, Vec<Duration>)
where
    W: Fn(Connection, usize) -> F + Clone + Send + 'static,
    F: Future<Output = Connection> + Send,
{
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(target.connect().await.unwrap());
    }
    let began = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(client, mut connection)| {
            let work = work.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for index in (client..count).step_by(clients) {
                    let began = Instant::now();
                    connection = work(connection, index).await;
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort_unstable();
    (began.elapsed(), times)
}

pub(crate) fn milliseconds(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

async fn single_objects(server: &Server, count: usize, figures: &mut Figures) {
    for (verb, rate, rate_target, cpu, cpu_target) in [
        ("POST", "create, a second", "≥ 6,000", "server CPU ms per create", "≤ 0.12"),
        ("GET", "get, a second", "≥ 15,000", "server CPU ms per get", "≤ 0.04"),
        ("PUT", "update, a second", "≥ 6,000", "server CPU ms per update", "≤ 0.12"),
        ("DELETE", "delete, a second", "≥ 6,000", "server CPU ms per delete", "≤ 0.12"),
    ] {
        let before = server.cpu();
        let work = move |mut connection: Connection, index: usize| async move {
            let name = format!("map-{index}");
            let (uri, body) = match verb {
                "POST" => (MAPS.to_owned(), map(&name, 0)),
                "PUT" => (format!("{MAPS}/{name}"), map(&name, 1)),
                _ => (format!("{MAPS}/{name}"), String::new()),
            };
            let answer = connection.send(verb, &uri, &body).await.unwrap();
            assert!(answer.code < 300, "{verb}: {}", String::from_utf8_lossy(&answer.body));
            connection
        };
        let (took, times) = spread(&server.target, CLIENTS, count, work).await;
        figures.add(rate, rate_target, count as f64 / took.as_secs_f64());
        figures.add(cpu, cpu_target, (server.cpu() - before) / count as f64);
        if verb == "POST" {
            figures.add("create latency p50, ms", "≤ 2", milliseconds(&times, 0.5));
            figures.add("create latency p99, ms", "≤ 6", milliseconds(&times, 0.99));
        }
    }
}

async fn lists(server: &Server, count: usize, figures: &mut Figures) {
    let create = |mut connection: Connection, index: usize| async move {
        connection.send("POST", MAPS, &map(&format!("listed-{index}"), 0)).await.unwrap();
        connection
    };
    spread(&server.target, CLIENTS, count, create).await;
    for (accept, rate, target, cpu) in [
        ("application/json", "list of 3,000, a second (4 clients)", "≥ 200", "server CPU ms per list"),
        (
            "application/vnd.kubernetes.protobuf",
            "the same in protobuf",
            "",
            "server CPU ms per list in protobuf",
        ),
    ] {
        let before = server.cpu();
        let list = move |mut connection: Connection, _| async move {
            let headers = format!("Accept: {accept}\r\n");
            let answer = connection.send_with("GET", MAPS, &headers, "").await.unwrap();
            assert!(answer.code == 200 && answer.body.len() > count * 900);
            connection
        };
        let (took, _) = spread(&server.target, 4, 100, list).await;
        figures.add(rate, target, 100.0 / took.as_secs_f64());
        figures.add(cpu, "", (server.cpu() - before) / 100.0);
    }
}

async fn pods(server: &Server, count: usize, figures: &mut Figures) {
    let mut connection = server.target.connect().await.unwrap();
    let account = r#"{"metadata":{"name":"default"}}"#;
    connection.send("POST", "/api/v1/namespaces/default/serviceaccounts", account).await.unwrap();
    let create = |mut connection: Connection, index: usize| async move {
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"pod-{index}","labels":{{"app":"bench","index":"{index}"}}}},"spec":{{"containers":[{{"name":"main","image":"registry.example.com/app:1.0","env":[{{"name":"INDEX","value":"{index}"}}],"resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}}}}}}]}}}}"#
        );
        let answer = connection.send("POST", PODS, &pod).await.unwrap();
        assert_eq!(answer.code, 201, "{}", String::from_utf8_lossy(&answer.body));
        connection
    };
    let mut watchers = Vec::new();
    for _ in 0..100 {
        let mut connection = server.target.connect().await.unwrap();
        assert_eq!(connection.watch(&format!("{PODS}?watch=true&resourceVersion=0")).await.unwrap(), 200);
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while connection.chunk(&mut seen).await.unwrap_or(false) {
                seen.clear();
            }
        }));
    }
    let (took, _) = spread(&server.target, CLIENTS, count, create).await;
    figures.add("pods created beside 100 watchers, a second", "", count as f64 / took.as_secs_f64());
    figures.add("memory with 10,000 pods and 100 watchers, MiB", "≤ 150", server.memory());
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    let stored: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&connection.send("GET", &format!("{PODS}?limit=1"), "").await.unwrap().body)
            .unwrap();
    assert_eq!(stored["metadata"]["remainingItemCount"], count - 1);
}
