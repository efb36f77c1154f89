//! Metrics in Prometheus' text format.

use std::fmt::Write as _;

use super::stats::{self, Samples, Used};
use crate::agent::Agent;
use crate::node::VERSION;

/// Adds a metric's help and type.
fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string cannot fail.
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    writeln!(out, "{name}{labels} {value}").ok();
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

fn labels(one: &Used) -> String {
    let meta = &one.pod.metadata;
    format!(
        "container={:?},namespace={:?},pod={:?}",
        one.container.name,
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// Returns what the agent says of itself.
pub(super) fn own(agent: &Agent) -> String {
    let mut out = String::new();
    let pods = agent.pods.all();
    let running: usize = pods.iter().map(|one| one.view.running().count()).sum();
    head(&mut out, "kubelet_node_name", "The node's name. The count is always 1.", "gauge");
    line(&mut out, "kubelet_node_name", &format!("node={:?}", agent.config.node_name), 1);
    head(&mut out, "kubelet_running_pods", "Number of pods that have a running pod sandbox", "gauge");
    line(&mut out, "kubelet_running_pods", "", pods.iter().filter(|one| one.view.sandbox_ready()).count());
    head(&mut out, "kubelet_running_containers", "Number of containers currently running", "gauge");
    line(&mut out, "kubelet_running_containers", "container_state=\"running\"", running);
    head(&mut out, "kubernetes_build_info", "The version of this program. The value is always 1.", "gauge");
    line(&mut out, "kubernetes_build_info", &format!("git_version={VERSION:?}"), 1);
    if let Some(bytes) = resident() {
        head(&mut out, "process_resident_memory_bytes", "Resident memory size in bytes.", "gauge");
        line(&mut out, "process_resident_memory_bytes", "", bytes);
    }
    out
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Returns CPU and memory of node, pods and containers: what a metrics server reads.
pub(super) async fn resource(agent: &Agent, samples: &Samples) -> String {
    let used = stats::containers(agent, samples).await;
    let node = stats::node(agent, samples);
    let now = agent.clock.now().as_millisecond();
    let mut out = String::new();
    head(
        &mut out,
        "node_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the node in core-seconds",
        "counter",
    );
    line(&mut out, "node_cpu_usage_seconds_total", "", format!("{} {now}", seconds(node.cpu)));
    head(&mut out, "node_memory_working_set_bytes", "Current working set of the node in bytes", "gauge");
    line(&mut out, "node_memory_working_set_bytes", "", format!("{} {now}", node.working_set));
    head(
        &mut out,
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        "counter",
    );
    for one in &used {
        let value = format!("{} {now}", seconds(one.stats.cpu_nanoseconds));
        line(&mut out, "container_cpu_usage_seconds_total", &labels(one), value);
    }
    head(
        &mut out,
        "container_memory_working_set_bytes",
        "Current working set of the container in bytes",
        "gauge",
    );
    for one in &used {
        let value = format!("{} {now}", one.stats.memory_working_set);
        line(&mut out, "container_memory_working_set_bytes", &labels(one), value);
    }
    head(
        &mut out,
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds",
        "gauge",
    );
    for one in &used {
        let began = one.container.started_at.unwrap_or(one.container.created_at);
        line(&mut out, "container_start_time_seconds", &labels(one), format!("{} {now}", began.as_second()));
    }
    head(
        &mut out,
        "resource_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    line(&mut out, "resource_scrape_error", "", 0);
    out
}

/// Returns the containers' metrics under cAdvisor's names.
pub(super) async fn cadvisor(agent: &Agent, samples: &Samples) -> String {
    let used = stats::containers(agent, samples).await;
    let mut out = String::new();
    let mut table = |name: &str, help: &str, kind: &str, value: &dyn Fn(&Used) -> String| {
        head(&mut out, name, help, kind);
        for one in &used {
            let labels =
                format!("{},id=\"/{}\",image={:?}", labels(one), one.container.id, one.container.image);
            line(&mut out, name, &labels, value(one));
        }
    };
    table(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        "counter",
        &|one| seconds(one.stats.cpu_nanoseconds),
    );
    table("container_memory_usage_bytes", "Current memory usage in bytes.", "gauge", &|one| {
        one.stats.memory_usage.to_string()
    });
    table("container_memory_working_set_bytes", "Current working set in bytes.", "gauge", &|one| {
        one.stats.memory_working_set.to_string()
    });
    table("container_memory_rss", "Size of RSS in bytes.", "gauge", &|one| one.stats.memory_rss.to_string());
    table("container_processes", "Number of processes running inside the container.", "gauge", &|one| {
        one.stats.processes.to_string()
    });
    table(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        "gauge",
        &|one| one.stats.writable_layer_bytes.to_string(),
    );
    out
}
