//! The store's figures, and etcd's beside them on the same disk in the same run. Prints a table.
//!
//! `ETCD=… cargo bench -p store`; `STORE_BENCH_KEYS` (1,000,000) sets how many keys the large store has.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]

#[path = "../tests/it/etcd.rs"]
mod etcd;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, EtcdStore, Expect, Options, Range, Revision, Store};

const VALUE: usize = 1024;
/// How long each rate is measured.
const LASTS: Duration = Duration::from_secs(5);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.get(1).map(String::as_str) {
        Some("memory") => runtime.block_on(memory(arguments[2].as_ref())),
        Some("open") => runtime.block_on(reopen(arguments[2].as_ref())),
        _ => runtime.block_on(table()),
    }
}

fn value(random: &Random) -> Bytes {
    // Not all alike, as objects are not.
    let line = format!("{:016x}", random.below(u64::MAX));
    Bytes::from(line.repeat(VALUE / 16))
}

fn embedded(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, Options::default(), clock::system()).unwrap()
}

async fn table() {
    let keys: usize = std::env::var("STORE_BENCH_KEYS").map_or(1_000_000, |keys| keys.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded(&directory.path().join("rates")));
    let cluster = etcd::Cluster::start(1);
    let etcd: Arc<dyn Store> = Arc::new(
        EtcdStore::open(cluster.options("/bench"), clock::system(), Random::from_os()).await.unwrap(),
    );
    println!(
        "| figure | embedded | etcd {} | target |\n|---|---|---|---|",
        etcd.health().await.unwrap().engine
    );
    for (writers, factor) in [(1, 1), (64, 3)] {
        let (ours, theirs) = (puts(&store, writers).await, puts(&etcd, writers).await);
        println!(
            "| durable puts a second, {writers} writers, 1 KB | {ours:.0} | {theirs:.0} | ≥ {factor} × etcd |"
        );
    }
    let (ours, theirs) = (delivery(&store).await, delivery(&etcd).await);
    println!("| watch delivery from commit, p50 / p99, 1,000 watchers | {ours} | {theirs} | p99 ≤ 10 ms |");
    drop((store, etcd, cluster));
    println!(
        "| resident memory with 100,000 objects of 1 KB | {} | | ≤ 300 MiB |",
        child("memory", &directory.path().join("memory"))
    );
    let path = directory.path().join("large");
    fill(&path, keys).await;
    println!("| open with {keys} keys of 1 KB, {} | {} | | ≤ 3 s |", size(&path), child("open", &path));
    std::fs::remove_dir_all(&path).unwrap();
    let path = directory.path().join("updates");
    println!(
        "| disk used after 1,000,000 updates of 1,000 keys (1 MB live), before / after compaction | {} | | ≤ 3 × |",
        updates(&path).await
    );
}

/// Returns how many writes a second were acknowledged.
async fn puts(store: &Arc<dyn Store>, writers: usize) -> f64 {
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let random = Random::seeded(writer as u64);
                let mut count = 0_u64;
                while began.elapsed() < LASTS {
                    let key = format!("/registry/pods/{writers}-{writer}/{count:08}");
                    store.put(&key, value(&random), Expect::Absent).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let counts = futures::future::join_all(tasks).await;
    counts.into_iter().map(|count| count.unwrap()).sum::<u64>() as f64 / began.elapsed().as_secs_f64()
}

/// Returns how long after the acknowledgement of a write its event is with a thousand watchers.
async fn delivery(store: &Arc<dyn Store>) -> String {
    let start = store.revision().await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..1000 {
        let mut events = store.watch("/registry/watched/", start).await.unwrap();
        watchers.push(tokio::spawn(async move {
            let mut seen: Vec<(Revision, Instant)> = Vec::new();
            while seen.len() < 100 {
                let batch = events.next().await.unwrap().unwrap();
                let now = Instant::now();
                seen.extend(batch.events.iter().map(|event| (event.revision, now)));
            }
            seen
        }));
    }
    let random = Random::seeded(1);
    let mut committed: HashMap<Revision, Instant> = HashMap::new();
    for number in 0..100 {
        let entry =
            store.put(&format!("/registry/watched/{number}"), value(&random), Expect::Absent).await.unwrap();
        committed.insert(entry.mod_revision, Instant::now());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut delays: Vec<Duration> = Vec::new();
    for watcher in watchers {
        let seen = watcher.await.unwrap();
        delays.extend(seen.iter().map(|(revision, at)| at.saturating_duration_since(committed[revision])));
    }
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    format!("{:.1} / {:.1} ms", at(0.5), at(0.99))
}

async fn fill(path: &Path, keys: usize) {
    let store = embedded(path);
    let random = Random::seeded(2);
    let writes =
        (0..keys).map(|number| {
            let (store, value) = (&store, value(&random));
            async move {
                store.put(&format!("/registry/pods/n/{number:08}"), value, Expect::Absent).await.unwrap()
            }
        });
    futures::stream::iter(writes).buffer_unordered(512).for_each(async |_| ()).await;
}

async fn updates(path: &Path) -> String {
    let store = embedded(path);
    let random = Random::seeded(3);
    let chains = (0..1000).map(|number| {
        let (store, random) = (&store, &random);
        async move {
            let key = format!("/registry/pods/n/{number:04}");
            let mut expect = Expect::Absent;
            for _ in 0..1000 {
                let entry = store.put(&key, value(random), expect).await.unwrap();
                expect = Expect::Revision(entry.mod_revision);
            }
        }
    });
    futures::future::join_all(chains).await;
    let before = size(path);
    store.compact(store.revision().await.unwrap()).await.unwrap();
    store.defragment().await.unwrap();
    format!("{before} / {}", size(path))
}

/// Bytes that files take on the disk: a journal's unused end takes none.
fn size(path: &Path) -> String {
    fn blocks(path: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() { blocks(&entry.path()) } else { meta.blocks() * 512 }
            })
            .sum()
    }
    format!("{:.1} MB", blocks(path) as f64 / 1e6)
}

/// Runs a part in a process of its own and returns what it says.
fn child(part: &str, path: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap()).arg(part).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn memory(path: &Path) {
    fill(path, 100_000).await;
    let store = embedded(path);
    let page = store.range(Range { prefix: "/".into(), limit: 1, ..Range::default() }).await.unwrap();
    assert_eq!(page.remaining, 99_999);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    println!("{} now, {} at most", of("VmRSS:"), of("VmHWM:"));
}

async fn reopen(path: &Path) {
    let began = Instant::now();
    let store = embedded(path);
    let opened = began.elapsed();
    let began = Instant::now();
    let page = store.range(Range { prefix: "/".into(), limit: 1, ..Range::default() }).await.unwrap();
    println!(
        "{:.2} s (then {} entries counted in {:.2} s)",
        opened.as_secs_f64(),
        page.remaining + 1,
        began.elapsed().as_secs_f64()
    );
}
