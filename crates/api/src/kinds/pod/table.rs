//! The table of pods.

use jiff::Timestamp;
use serde_json::Value;

use super::super::cells;
use crate::meta;
use crate::registry::{AGE, Column, NAME, Table};
use crate::time;
use crate::value::{at, flag, int, list, text};

pub(super) fn table() -> Table {
    Table::new(
        vec![
            NAME,
            Column::text("Ready", "How many of the pod's containers are ready for traffic."),
            Column::text("Status", "The pod's state, summed up from its phase and its containers."),
            Column::text("Restarts", "How often containers of the pod were restarted, and when last."),
            AGE,
            Column::wide("IP", "The pod's address."),
            Column::wide("Node", "The node that runs the pod."),
            Column::wide("Nominated Node", "The node where the pod will find room once others are gone."),
            Column::wide("Readiness Gates", "How many of the pod's readiness gates have passed."),
        ],
        row,
    )
}

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, time::human(now.as_second() - last.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        cells::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        cells::age(pod, now),
        cells::or_none(address(pod)).into(),
        cells::or_none(text(pod, "spec.nodeName")).into(),
        cells::or_none(text(pod, "status.nominatedNodeName")).into(),
        gates(pod).into(),
    ]
}

fn address(pod: &Value) -> &str {
    match text(pod, "status.podIP") {
        "" => list(pod, "status.podIPs").first().map(|ip| text(ip, "ip")).unwrap_or_default(),
        ip => ip,
    }
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return cells::NONE.into();
    }
    let passed = gates.iter().filter(|gate| cells::is_true(pod, text(gate, "conditionType"))).count();
    format!("{passed}/{}", gates.len())
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn restarted(&mut self, status: &Value) {
        self.restarts += int(status, "restartCount").unwrap_or(0);
        self.last_restart =
            self.last_restart.max(time::parse(text(status, "lastState.terminated.finishedAt")));
    }
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "status.phase");
    let mut reason = match text(pod, "status.reason") {
        "" => phase,
        reason => reason,
    }
    .to_owned();
    if cells::condition(pod, "PodScheduled")
        .is_some_and(|condition| text(condition, "reason") == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let init = list(pod, "spec.initContainers");
    let sidecar = |name: &str| {
        init.iter().any(|one| text(one, "name") == name && text(one, "restartPolicy") == "Always")
    };
    let sidecars = init.iter().filter(|one| text(one, "restartPolicy") == "Always").count();
    let mut all = Summary {
        ready: 0,
        total: list(pod, "spec.containers").len() + sidecars,
        reason: String::new(),
        restarts: 0,
        last_restart: None,
    };
    // Once the pod is initialized only the restarts of those init containers count that go on running.
    let mut running_init =
        Summary { ready: 0, total: 0, reason: String::new(), restarts: 0, last_restart: None };
    let mut initializing = false;
    for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        all.restarted(status);
        let is_sidecar = sidecar(text(status, "name"));
        if is_sidecar {
            running_init.restarted(status);
        }
        let terminated = at(status, "state.terminated");
        let waiting = text(status, "state.waiting.reason");
        if !terminated.is_null() && int(terminated, "exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if is_sidecar && flag(status, "started") {
            all.ready += usize::from(flag(status, "ready"));
            continue;
        }
        reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init.len())
        };
        initializing = true;
        break;
    }
    if !initializing || cells::is_true(pod, "Initialized") {
        all.restarts = running_init.restarts;
        all.last_restart = running_init.last_restart;
        let mut running = false;
        for status in list(pod, "status.containerStatuses").iter().rev() {
            all.restarted(status);
            let terminated = at(status, "state.terminated");
            let waiting = text(status, "state.waiting.reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if !terminated.is_null() {
                reason = ended(terminated);
            } else if flag(status, "ready") && !at(status, "state.running").is_null() {
                running = true;
                all.ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if cells::is_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
    if meta::is_deleting(pod) {
        if text(pod, "status.reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    all.reason = reason;
    all
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn ended(terminated: &Value) -> String {
    match (text(terminated, "reason"), int(terminated, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cells_of(pod: &Value) -> Vec<String> {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        row(pod, now).iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
    }

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
            "status": status,
        })
    }

    #[test]
    fn the_status_sums_up_phase_and_containers() {
        let running = |ready: bool| json!({"ready": ready, "state": {"running": {}}});
        let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        let ended =
            |reason: &str, code: i32| json!({"state": {"terminated": {"reason": reason, "exitCode": code}}});
        for (status, ready, reason) in [
            (json!({"phase": "Pending"}), "0/3", "Pending"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/3", "Evicted"),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
                "0/3",
                "SchedulingGated",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running(true), running(true)]}),
                "2/3",
                "Running",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff"), running(true)]}),
                "1/3",
                "CrashLoopBackOff",
            ),
            (json!({"phase": "Failed", "containerStatuses": [ended("Error", 1)]}), "0/3", "Error"),
            (json!({"phase": "Failed", "containerStatuses": [ended("", 3)]}), "0/3", "ExitCode:3"),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9, "exitCode": 137}}}]}),
                "0/3",
                "Signal:9",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [ended("Completed", 0), running(true)],
                    "conditions": [{"type": "Ready", "status": "True"}]}),
                "1/3",
                "Running",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [ended("Completed", 0), running(true)]}),
                "1/3",
                "NotReady",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [waiting("PodInitializing")]}),
                "0/3",
                "Init:0/2",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [ended("Completed", 0), {"name": "s"}]}),
                "0/3",
                "Init:1/2",
            ),
            (json!({"phase": "Pending", "initContainerStatuses": [ended("Error", 1)]}), "0/3", "Init:Error"),
            (json!({"phase": "Pending", "initContainerStatuses": [ended("", 2)]}), "0/3", "Init:ExitCode:2"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [waiting("CrashLoopBackOff")]}),
                "0/3",
                "Init:CrashLoopBackOff",
            ),
            (
                json!({"phase": "Pending",
                    "initContainerStatuses": [ended("Completed", 0), {"name": "s", "started": true, "ready": true}],
                    "containerStatuses": [waiting("ContainerCreating")]}),
                "1/3",
                "ContainerCreating",
            ),
        ] {
            let cells = cells_of(&pod(status.clone()));
            assert_eq!((cells[1].as_str(), cells[2].as_str()), (ready, reason), "{status}");
        }
    }

    #[test]
    fn a_pod_that_is_deleted_is_terminating_until_it_has_ended() {
        for (status, reason) in [
            (json!({"phase": "Running"}), "Terminating"),
            (json!({"phase": "Running", "reason": "NodeLost"}), "Unknown"),
            (json!({"phase": "Succeeded"}), "Succeeded"),
        ] {
            let mut pod = pod(status);
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:05:00Z".into();
            assert_eq!(cells_of(&pod)[2], reason);
        }
    }

    #[test]
    fn restarts_tell_when_the_last_one_was() {
        let status = json!({"phase": "Running", "podIP": "10.2.0.5", "containerStatuses": [
            {"restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:04:00Z"}}},
            {"restartCount": 1, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}},
        ]});
        let mut pod = pod(status);
        pod["spec"]["readinessGates"] = json!([{"conditionType": "x"}]);
        assert_eq!(cells_of(&pod)[3..], ["3 (5m ago)", "10m", "10.2.0.5", "<none>", "<none>", "0/1"]);
    }
}
