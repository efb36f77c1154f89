//! `stats/summary`: what the node, its pods and their containers use, in upstream's form.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use runtime::{ContainerStatus, Stats};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::meminfo;

/// The least time between two CPU samples that a rate is made of, nanoseconds.
const WINDOW: u64 = 10_000_000_000;

/// CPU counters that were read before: a rate needs two.
#[derive(Default)]
pub(crate) struct Samples(Mutex<HashMap<String, Sample>>);

#[derive(Clone, Copy)]
struct Sample {
    at: Timestamp,
    cpu: u64,
    rate: u64,
}

impl Samples {
    /// Returns the CPU use of `id` in billionths of a core, given its counter now and when it began.
    fn rate(&self, id: &str, at: Timestamp, cpu: u64, began: Timestamp) -> u64 {
        let per = |cpu: u64, from: Timestamp| {
            let nanoseconds = u128::try_from(at.duration_since(from).as_nanos()).unwrap_or(0);
            u64::try_from((u128::from(cpu) * 1_000_000_000).checked_div(nanoseconds).unwrap_or(0))
                .unwrap_or(0)
        };
        let mut samples = self.0.lock();
        match samples.get(id).copied().filter(|known| known.cpu <= cpu) {
            Some(known) if u64::try_from(at.duration_since(known.at).as_nanos()).unwrap_or(0) < WINDOW => {
                known.rate
            }
            Some(known) => {
                let rate = per(cpu - known.cpu, known.at);
                samples.insert(id.to_owned(), Sample { at, cpu, rate });
                rate
            }
            None => {
                // The first time: the average over its life.
                let rate = per(cpu, began);
                samples.insert(id.to_owned(), Sample { at, cpu, rate });
                rate
            }
        }
    }

    fn keep(&self, known: impl Fn(&str) -> bool) {
        self.0.lock().retain(|id, _| known(id));
    }
}

/// A container and what it uses.
pub(super) struct Used {
    pub(super) pod: std::sync::Arc<Pod>,
    pub(super) container: ContainerStatus,
    pub(super) stats: Stats,
    pub(super) rate: u64,
}

/// Reads what the running containers use.
pub(super) async fn containers(agent: &Agent, samples: &Samples) -> Vec<Used> {
    let mut out = Vec::new();
    for snapshot in agent.pods.all() {
        for container in snapshot.view.running() {
            match agent.runtime.container_stats(&container.id).await {
                Ok(stats) => {
                    let now = agent.clock.now();
                    let began = container.started_at.unwrap_or(container.created_at);
                    out.push(Used {
                        pod: snapshot.pod.clone(),
                        rate: samples.rate(&container.id, now, stats.cpu_nanoseconds, began),
                        container: container.clone(),
                        stats,
                    });
                }
                // It may have ended just now.
                Err(error) => tracing::debug!(id = container.id, %error, "reading what a container uses"),
            }
        }
    }
    samples.keep(|id| id == NODE || out.iter().any(|one| one.container.id == id));
    out
}

/// The node's key among the samples.
const NODE: &str = "node";

/// What the node uses.
pub(super) struct NodeUse {
    pub(super) cpu: u64,
    pub(super) rate: u64,
    pub(super) memory: u64,
    pub(super) working_set: u64,
    pub(super) rss: u64,
    pub(super) faults: u64,
    pub(super) major_faults: u64,
    pub(super) booted: Timestamp,
}

/// Reads what the node's control group uses; on a machine of its own, what the machine does.
pub(super) fn node(agent: &Agent, samples: &Samples) -> NodeUse {
    let now = agent.clock.now();
    let booted = booted(now);
    let cpu = cpu_nanoseconds();
    let memory = Memory::read();
    NodeUse {
        cpu,
        rate: samples.rate(NODE, now, cpu, booted),
        memory: memory.usage,
        working_set: memory.working_set,
        rss: memory.rss,
        faults: memory.faults,
        major_faults: memory.major_faults,
        booted,
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn booted(now: Timestamp) -> Timestamp {
    let uptime = read("/proc/uptime")
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
        .unwrap_or(0.0);
    now.checked_sub(std::time::Duration::from_secs_f64(uptime)).unwrap_or(now)
}

/// Returns a line `name value` of a flat file.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn cpu_nanoseconds() -> u64 {
    if let Some(usage) = read("/sys/fs/cgroup/cpu.stat").and_then(|text| field(&text, "usage_usec")) {
        return usage * 1000;
    }
    for directory in ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu"] {
        if let Some(usage) =
            read(&format!("{directory}/cpuacct.usage")).and_then(|text| text.trim().parse().ok())
        {
            return usage;
        }
    }
    0
}

#[derive(Default)]
struct Memory {
    usage: u64,
    working_set: u64,
    rss: u64,
    faults: u64,
    major_faults: u64,
}

impl Memory {
    fn read() -> Self {
        for (usage, stat, inactive, rss) in [
            ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file", "anon"),
            (
                "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                "/sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file",
                "total_rss",
            ),
        ] {
            let Some(usage) = read(usage).and_then(|text| text.trim().parse::<u64>().ok()) else { continue };
            let stat = read(stat).unwrap_or_default();
            let of = |name: &str| field(&stat, name).unwrap_or(0);
            return Self {
                usage,
                working_set: usage.saturating_sub(of(inactive)),
                rss: of(rss),
                faults: of("pgfault"),
                major_faults: of("pgmajfault"),
            };
        }
        let of = |name: &str| meminfo(name).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        let used = of("MemTotal").saturating_sub(of("MemAvailable"));
        Self {
            usage: of("MemTotal").saturating_sub(of("MemFree")),
            working_set: used,
            rss: of("AnonPages"),
            ..Self::default()
        }
    }
}

fn file_system(path: &Path, now: Timestamp) -> Value {
    let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    found.map_or(Value::Null, |found| {
        json!({
            "time": now, "availableBytes": found.f_bavail * found.f_frsize,
            "capacityBytes": found.f_blocks * found.f_frsize,
            "usedBytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
            "inodesFree": found.f_ffree, "inodes": found.f_files, "inodesUsed": found.f_files - found.f_ffree
        })
    })
}

fn cpu_and_memory(stats: &Stats, rate: u64, limit: Option<i64>, now: Timestamp) -> (Value, Value) {
    let cpu = json!({"time": now, "usageNanoCores": rate, "usageCoreNanoSeconds": stats.cpu_nanoseconds});
    let mut memory = json!({
        "time": now, "usageBytes": stats.memory_usage, "workingSetBytes": stats.memory_working_set,
        "rssBytes": stats.memory_rss, "pageFaults": stats.page_faults, "majorPageFaults": stats.major_page_faults
    });
    if let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0) {
        memory["availableBytes"] = json!(limit.saturating_sub(stats.memory_working_set));
    }
    (cpu, memory)
}

/// Returns the whole summary.
pub(super) async fn summary(agent: &Agent, samples: &Samples) -> Value {
    let used = containers(agent, samples).await;
    let node = node(agent, samples);
    let now = agent.clock.now();
    let mut pods: Vec<Value> = Vec::new();
    for snapshot in agent.pods.all() {
        let meta = &snapshot.pod.metadata;
        let of_pod: Vec<&Used> = used.iter().filter(|one| one.pod.metadata.uid == meta.uid).collect();
        if of_pod.is_empty() {
            continue;
        }
        let mut total = Stats::default();
        let mut rate = 0;
        let containers: Vec<Value> = of_pod
            .iter()
            .map(|one| {
                rate += one.rate;
                total.cpu_nanoseconds += one.stats.cpu_nanoseconds;
                total.memory_usage += one.stats.memory_usage;
                total.memory_working_set += one.stats.memory_working_set;
                total.memory_rss += one.stats.memory_rss;
                total.page_faults += one.stats.page_faults;
                total.major_page_faults += one.stats.major_page_faults;
                total.processes += one.stats.processes;
                let (cpu, memory) = cpu_and_memory(&one.stats, one.rate, None, now);
                json!({
                    "name": one.container.name,
                    "startTime": one.container.started_at, "cpu": cpu, "memory": memory,
                    "rootfs": {"time": now, "usedBytes": one.stats.writable_layer_bytes},
                    "logs": {"time": now, "usedBytes": std::fs::metadata(&one.container.log_path).map_or(0, |meta| meta.len())}
                })
            })
            .collect();
        let (cpu, memory) = cpu_and_memory(&total, rate, None, now);
        pods.push(json!({
            "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "startTime": snapshot.pod.status.as_ref().and_then(|status| status.start_time.clone()),
            "containers": containers, "cpu": cpu, "memory": memory, "volume": [],
            "process_stats": {"process_count": total.processes}
        }));
    }
    let capacity = u64::try_from(agent.machine.memory).unwrap_or(0);
    json!({
        "node": {
            "nodeName": agent.config.node_name, "startTime": node.booted,
            "cpu": {"time": now, "usageNanoCores": node.rate, "usageCoreNanoSeconds": node.cpu},
            "memory": {
                "time": now, "availableBytes": capacity.saturating_sub(node.working_set),
                "usageBytes": node.memory, "workingSetBytes": node.working_set, "rssBytes": node.rss,
                "pageFaults": node.faults, "majorPageFaults": node.major_faults
            },
            "fs": file_system(&agent.config.data_directory, now),
            "runtime": {"imageFs": file_system(&agent.config.image_directory, now)}
        },
        "pods": pods
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_made_of_two_samples_or_of_a_life() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let samples = Samples::default();
        assert_eq!(
            samples.rate("a", at(20), 10_000_000_000, at(0)),
            500_000_000,
            "half a core since it began"
        );
        assert_eq!(samples.rate("a", at(21), 11_000_000_000, at(0)), 500_000_000, "too soon for a new one");
        assert_eq!(samples.rate("a", at(40), 30_000_000_000, at(0)), 1_000_000_000);
        assert_eq!(samples.rate("a", at(60), 5, at(59)), 5, "a counter that fell begins anew");
    }
}
