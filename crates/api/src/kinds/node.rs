//! Nodes. A node registers itself with its status, so a new node keeps the status it is sent with.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{flag, keep, list, same, set, text};

const ROLE: &str = "node-role.kubernetes.io/";

/// Completes the descriptor.
pub(super) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, node| {
            let Some(status) = node.get_mut("status") else { return };
            if status["allocatable"].is_null() && !status["capacity"].is_null() {
                let capacity = status["capacity"].clone();
                set(status, "allocatable", capacity);
            }
        },
        prepare_create: |_, _| {},
        validate: |_, node, errors| validate(node, errors),
        validate_update,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Status", "Whether the node is ready, and whether it takes pods."),
            Column::text("Roles", "The roles of the node, from its labels."),
            AGE,
            Column::text("Version", "The version of the node's agent."),
            Column::wide("Internal-IP", "The node's address within the cluster."),
            Column::wide("External-IP", "The node's address from outside."),
            Column::wide("OS-Image", "The node's operating system."),
            Column::wide("Kernel-Version", "The version of the node's kernel."),
            Column::wide("Container-Runtime", "What runs the node's containers."),
        ],
        row,
    );
}

fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match cells::condition(node, "Ready") {
        None => "Unknown",
        Some(condition) if text(condition, "status") == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if flag(node, "spec.unschedulable") {
        status += ",SchedulingDisabled";
    }
    let address = |kind: &str| {
        let found = list(node, "status.addresses").iter().find(|address| text(address, "type") == kind);
        cells::or_none(found.map(|address| text(address, "address")).unwrap_or_default())
    };
    let info = |key: &str| cells::or(text(&node["status"]["nodeInfo"], key), "<unknown>");
    vec![
        cells::name(node),
        status.into(),
        roles(node).into(),
        cells::age(node, now),
        text(node, "status.nodeInfo.kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in meta::labels(node).into_iter().flatten() {
        let role = if key == "kubernetes.io/role" { value.as_str() } else { key.strip_prefix(ROLE) };
        roles.extend(role.filter(|role| !role.is_empty()));
    }
    cells::or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

fn validate(node: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let mut seen = BTreeSet::new();
    for (index, taint) in list(node, "spec.taints").iter().enumerate() {
        let at = path.child("taints").index(index);
        check::named(text(taint, "key"), meta::qualified_name_errors, &at.child("key"), errors);
        check::named(text(taint, "value"), meta::label_value_errors, &at.child("value"), errors);
        check::one_of(taint, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at, errors);
        if !seen.insert((text(taint, "key"), text(taint, "effect"))) {
            errors.duplicate(&at, taint.clone());
        }
    }
    for (index, cidr) in list(node, "spec.podCIDRs").iter().enumerate() {
        check::cidr(cidr.as_str().unwrap_or_default(), &path.child("podCIDRs").index(index), errors);
    }
    for key in ["capacity", "allocatable"] {
        pod::resource_list(&node["status"][key], &Path::new("status").child(key), errors);
    }
}

fn validate_update(_: &Kind, new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    validate(new, errors);
    if part != Part::Main {
        return;
    }
    let path = Path::new("spec");
    for key in ["podCIDRs", "providerID"] {
        let was = &old["spec"][key];
        if !same(was, &Value::Null) && !same(was, &new["spec"][key]) {
            let why = if key == "providerID" {
                "node updates may not change providerID except from \"\" to valid"
            } else {
                "node updates may not change podCIDR except from \"\" to valid"
            };
            errors.forbidden(&path.child(key), why);
        }
    }
    let mut munged = new["spec"].clone();
    for key in ["taints", "unschedulable", "podCIDR", "podCIDRs", "providerID", "configSource", "externalID"]
    {
        keep(&mut munged, &old["spec"], key);
    }
    if !same(&munged, &old["spec"]) {
        let why = "node updates may only change labels, taints, or capacity (or configSource, if the \
                   DynamicKubeletConfig feature gate is enabled)";
        errors.forbidden(&path, why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_state_and_roles() {
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        let node = json!({
            "metadata": {"name": "172.17.4.101", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "master"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "172.17.4.101"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"}},
        });
        let expect = [
            "172.17.4.101",
            "Ready,SchedulingDisabled",
            "control-plane,master",
            "5s",
            "v1.36.0",
            "172.17.4.101",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>",
        ];
        assert_eq!(row(&node, now), expect.map(Value::from));
        let row = row(&json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), now);
        assert_eq!((row[1].as_str(), row[2].as_str()), (Some("NotReady"), Some("<none>")));
    }
}
