//! The node as the API shows it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::machine::{Machine, architecture};
use crate::config::Config;

/// How well the node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Why pods cannot run here; `None` when they can.
    pub(crate) not_ready: Option<String>,
    /// Memory is short.
    pub(crate) memory_pressure: bool,
    /// Disk space is short.
    pub(crate) disk_pressure: bool,
    /// Process ids are short.
    pub(crate) pid_pressure: bool,
}

/// Returns the labels that the node carries.
pub(crate) fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Returns the node to register.
pub(crate) fn node(config: &Config, status: NodeStatus) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { unschedulable: config.unschedulable.then_some(true), ..NodeSpec::default() }),
        status: Some(status),
    }
}

/// Returns the node's status. `old` carries the times of the conditions that stay.
pub(crate) fn status(
    config: &Config,
    machine: &Machine,
    runtime: &str,
    health: &Health,
    images: Vec<ContainerImage>,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let mut info = machine.info.clone();
    info.container_runtime_version = runtime.to_owned();
    NodeStatus {
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".into(), address: config.node_ip.to_string() },
            NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() },
        ]),
        capacity: Some(machine.capacity.clone()),
        allocatable: Some(machine.allocatable.clone()),
        conditions: Some(conditions(health, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        images: Some(images),
        node_info: Some(info),
        ..NodeStatus::default()
    }
}

fn conditions(health: &Health, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let pressure = |kind: &str, yes: bool, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if yes { bad } else { good };
        (kind.to_owned(), yes, reason.to_owned(), message.to_owned())
    };
    let ready = match &health.not_ready {
        None => (
            "Ready".to_owned(),
            true,
            "KubeletReady".to_owned(),
            "kubelet is posting ready status".to_owned(),
        ),
        Some(why) => ("Ready".to_owned(), false, "KubeletNotReady".to_owned(), why.clone()),
    };
    [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ]
    .into_iter()
    .map(|(type_, yes, reason, message)| {
        let status = if yes { "True" } else { "False" };
        let known = old.and_then(|old| old.conditions.iter().flatten().find(|one| one.type_ == type_));
        let since = known.filter(|one| one.status == status).and_then(|one| one.last_transition_time.clone());
        NodeCondition {
            type_,
            status: status.to_owned(),
            reason: Some(reason),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        }
    })
    .collect()
}

/// Returns what a status says of the node's readiness: `True`, `False` or `Unknown`.
pub(crate) fn readiness(status: &NodeStatus) -> Option<&str> {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.map(|condition| condition.status.as_str())
}

/// Returns whether two statuses say the same, heartbeats aside.
pub(crate) fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for one in status.conditions.iter_mut().flatten() {
            one.last_heartbeat_time = None;
        }
        status
    };
    still(a) == still(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let bad = Health { not_ready: Some("no network".into()), ..Health::default() };
        let first = NodeStatus { conditions: Some(conditions(&bad, None, at(10))), ..NodeStatus::default() };
        let second = conditions(&Health::default(), Some(&first), at(20));
        let find = |kind: &str| second.iter().find(|one| one.type_ == kind).unwrap();
        assert_eq!(find("Ready").last_transition_time, Some(Time(at(20))));
        assert_eq!(find("Ready").status, "True");
        assert_eq!(find("MemoryPressure").last_transition_time, Some(Time(at(10))));
        assert_eq!(find("MemoryPressure").last_heartbeat_time, Some(Time(at(20))));
        let again =
            NodeStatus { conditions: Some(conditions(&bad, Some(&first), at(30))), ..NodeStatus::default() };
        assert!(same(&first, &again));
    }
}
