//! Which nodes a daemon's pods belong on, and which of its pods have to go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Taint, Toleration,
};

use crate::claim::labels;
use crate::frame::{is_deleting, name};
use crate::history::HASH_LABEL;
use crate::pods;

/// What every daemon pod tolerates: trouble of its node does not send it away.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Adds the tolerations of daemon pods.
pub(crate) fn tolerate(spec: &mut PodSpec) {
    let network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    let extra = network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(extra) {
        let known = tolerations
            .iter()
            .any(|one| one.key.as_deref() == Some(key) && one.effect.as_deref() == Some(effect));
        if !known {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
    }
}

/// Ties a pod to `node`: in each term of its node affinity the node's name replaces the fields.
pub(crate) fn pin(spec: &mut PodSpec, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let selector: &mut NodeSelector =
        node_affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_fields = Some(vec![requirement.clone()]);
    }
}

/// Returns the node that a daemon pod is on, or is meant for.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pods::node(pod).or_else(|| {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let selector = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let term = selector.node_selector_terms.first()?;
        let field = term.match_fields.as_ref()?.iter().find(|field| field.key == "metadata.name")?;
        field.values.as_ref()?.first().map(String::as_str)
    })
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(a, b)| a > b),
        "Lt" => value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

fn fits_affinity(spec: &PodSpec, node: &Node) -> bool {
    let has = labels(node);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| has.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let own_name = name(node).to_owned();
    selected
        && required.is_none_or(|selector| {
            selector.node_selector_terms.iter().any(|term| {
                let expressions = term.match_expressions.as_deref().unwrap_or_default();
                let fields = term.match_fields.as_deref().unwrap_or_default();
                !(expressions.is_empty() && fields.is_empty())
                    && expressions.iter().all(|one| requirement_matches(one, has.get(&one.key)))
                    && fields.iter().all(|one| {
                        requirement_matches(one, (one.key == "metadata.name").then_some(&own_name))
                    })
            })
        })
}

fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|one| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (key, effect) = (text(&one.key), text(&one.effect));
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && (one.operator.as_deref() == Some("Exists")
                || (!key.is_empty() && text(&one.value) == text(&taint.value)))
    })
}

/// Tells whether a pod of this spec should be made on the node, and whether one that is there may stay.
pub(crate) fn fits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name(node));
    if !named || !fits_affinity(spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = |effects: &[&str]| {
        taints.iter().any(|taint| effects.contains(&taint.effect.as_str()) && !tolerates(tolerations, taint))
    };
    (!untolerated(&["NoSchedule", "NoExecute"]), !untolerated(&["NoExecute"]))
}

/// What has to change, and the counts of the status.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Nodes that miss their pod.
    pub(crate) create: Vec<String>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Those of `delete` that have failed.
    pub(crate) failed: Vec<Arc<Pod>>,
    pub(crate) desired: i32,
    pub(crate) current: i32,
    pub(crate) misscheduled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) updated: i32,
    /// When the next ready pod becomes available.
    pub(crate) again: Option<Duration>,
}

/// How pods of an older version are replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rollout<'a> {
    /// The label of the current version.
    pub(crate) hash: &'a str,
    /// How many nodes may be without an available pod; `None` leaves old pods alone.
    pub(crate) unavailable: Option<usize>,
}

pub(crate) fn plan(
    spec: &PodSpec,
    nodes: &[Arc<Node>],
    daemon_pods: &[Arc<Pod>],
    rollout: Rollout<'_>,
    min_ready: Duration,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in daemon_pods {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let (mut old_available, mut missing) = (Vec::new(), 0);
    for node in nodes {
        let mut here = by_node.remove(name(&**node)).unwrap_or_default();
        let (run, stay) = fits(spec, node);
        plan.desired += i32::from(run);
        if !run && !here.is_empty() {
            plan.misscheduled += 1;
        }
        if !stay {
            plan.delete.extend(here.iter().filter(|pod| !is_deleting(&****pod)).map(|pod| (*pod).clone()));
            continue;
        }
        let ended = here.iter().any(|pod| pods::is_finished(pod));
        for pod in here.iter().filter(|pod| pods::is_finished(pod) && !is_deleting(&****pod)) {
            plan.delete.push((*pod).clone());
            plan.failed.push((*pod).clone());
        }
        here.retain(|pod| !pods::is_finished(pod));
        // The oldest stays where there are too many.
        here.sort_by_key(|pod| {
            (
                is_deleting(&***pod),
                pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
                name(&***pod).to_owned(),
            )
        });
        if here.len() > 1 {
            plan.delete.extend(here.drain(1..).filter(|pod| !is_deleting(&***pod)).cloned());
        }
        if !run {
            continue;
        }
        let Some(pod) = here.first() else {
            missing += 1;
            if !ended {
                plan.create.push(name(&**node).to_owned());
            }
            continue;
        };
        plan.current += 1;
        let is_new = labels(&***pod).get(HASH_LABEL).is_some_and(|found| found == rollout.hash);
        plan.updated += i32::from(is_new);
        let wait = pods::available_in(pod, min_ready, now).filter(|_| !is_deleting(&***pod));
        plan.ready += i32::from(wait.is_some());
        match wait {
            Some(Duration::ZERO) => {
                plan.available += 1;
                if !is_new {
                    old_available.push((*pod).clone());
                }
            }
            other => {
                plan.again = plan.again.into_iter().chain(other).min();
                missing += 1;
                // A pod that does not work anyway makes room at once.
                if !is_new && !is_deleting(&***pod) && rollout.unavailable.is_some() {
                    plan.delete.push((*pod).clone());
                }
            }
        }
    }
    // What is left is on nodes that are gone; the pod garbage collector minds those.
    if let Some(unavailable) = rollout.unavailable {
        plan.delete.extend(old_available.into_iter().take(unavailable.saturating_sub(missing)));
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, spec: Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": spec}),
            )
            .unwrap(),
        )
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool, phase: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {HASH_LABEL: hash}},
                "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
            .unwrap(),
        )
    }

    fn spec(value: Value) -> PodSpec {
        let mut spec: PodSpec = serde_json::from_value(value).unwrap();
        tolerate(&mut spec);
        spec
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| name(&**pod)).collect()
    }

    #[test]
    fn a_daemon_runs_on_cordoned_nodes_and_not_where_a_taint_or_selector_forbids() {
        let cordoned = json!({"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
        let tainted = json!({"taints": [{"key": "mine", "effect": "NoSchedule"}]});
        let evicting = json!({"taints": [{"key": "mine", "effect": "NoExecute"}]});
        let any = json!({"containers": []});
        let slow = json!({"containers": [], "nodeSelector": {"disk": "hdd"}});
        for (node_spec, pod_spec, expect) in [
            (cordoned, any.clone(), (true, true)),
            (tainted, any.clone(), (false, true)),
            (evicting, any, (false, false)),
            (json!({}), slow, (false, false)),
        ] {
            assert_eq!(fits(&spec(pod_spec), &node("n", node_spec)), expect);
        }
    }

    #[test]
    fn missing_pods_are_made_and_broken_surplus_and_old_ones_go() {
        let nodes = ["a", "b", "c", "d"].map(|name| node(name, json!({})));
        let pods = [
            pod("b1", "b", "old", true, "Running"),
            pod("c1", "c", "new", true, "Running"),
            pod("c2", "c", "new", true, "Running"),
            pod("d1", "d", "new", false, "Failed"),
        ];
        let spec = spec(json!({"containers": []}));
        let now = Timestamp::UNIX_EPOCH;
        let run = |unavailable| {
            plan(&spec, &nodes, &pods, Rollout { hash: "new", unavailable }, Duration::ZERO, now)
        };
        let result = run(Some(1));
        assert_eq!(result.create, ["a"]);
        assert_eq!(names(&result.delete), ["c2", "d1"], "two nodes are without a pod: the old one waits");
        assert_eq!((result.desired, result.current, result.ready, result.updated), (4, 2, 2, 1));
        assert_eq!(names(&run(Some(3)).delete), ["c2", "d1", "b1"]);
        assert_eq!(names(&run(None).delete), ["c2", "d1"]);
    }

    #[test]
    fn a_pinned_pod_knows_its_node_before_it_is_bound() {
        let mut pinned = spec(json!({"containers": []}));
        pin(&mut pinned, "n1");
        let pod = Pod { spec: Some(pinned.clone()), ..Pod::default() };
        assert_eq!(node_of(&pod), Some("n1"));
        assert!(fits(&pinned, &node("n1", json!({}))).0);
        assert!(!fits(&pinned, &node("n2", json!({}))).0);
    }
}
