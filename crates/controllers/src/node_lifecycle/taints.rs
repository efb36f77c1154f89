//! Which taints a node has to carry, from its conditions.

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are bad when they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

pub(crate) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|one| one.type_ == kind).map(|one| one.status.as_str())
}

/// Returns the taints that `node` has to carry, when they differ from those it has.
pub(crate) fn wanted(node: &Node, now: &Time) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let current = spec.taints.unwrap_or_default();
    let mut right: Vec<(&str, &str)> = Vec::new();
    match condition(node, "Ready") {
        Some("False") => right.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => right.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        Some(_) => {}
        None => right.push((NOT_READY, "NoSchedule")),
    }
    if spec.unschedulable == Some(true) {
        right.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind) == Some("True") {
            right.push((key, "NoSchedule"));
        }
    }
    let is_managed = |taint: &Taint| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
            || PRESSURES.iter().any(|(_, key)| *key == taint.key)
    };
    let is_right = |taint: &Taint| right.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        current.iter().filter(|taint| !is_managed(taint) || is_right(taint)).cloned().collect();
    for (key, effect) in right {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(now.clone()),
            });
        }
    }
    (taints != current).then_some(taints)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn conditions_become_taints_and_foreign_taints_stay() {
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let node = |ready: &str, spec: Value| -> Node {
            serde_json::from_value(json!({"spec": spec, "status": {"conditions": [
                {"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "False"}]}}))
            .unwrap()
        };
        let mine = json!({"key": "mine", "effect": "NoSchedule"});
        for (ready, spec, expect) in [
            ("True", json!({}), None),
            (
                "True",
                json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}, mine]}),
                Some(vec!["mine:NoSchedule"]),
            ),
            (
                "Unknown",
                json!({"taints": [mine]}),
                Some(vec![
                    "mine:NoSchedule",
                    "node.kubernetes.io/unreachable:NoSchedule",
                    "node.kubernetes.io/unreachable:NoExecute",
                ]),
            ),
            (
                "True",
                json!({"unschedulable": true}),
                Some(vec!["node.kubernetes.io/unschedulable:NoSchedule"]),
            ),
        ] {
            let found = wanted(&node(ready, spec), &now).map(|taints| {
                taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect::<Vec<_>>()
            });
            assert_eq!(found, expect.map(|texts| texts.into_iter().map(str::to_owned).collect()));
        }
    }
}
