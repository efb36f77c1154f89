//! How good each node is for a pod. Every part yields 0 to 100; the weights are upstream's.

use crate::affinity;
use crate::cluster::Cluster;
use crate::filter::{is_counted, matching};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

const BEST: i64 = 100;
const MIB: i64 = 1024 * 1024;

/// Returns the score of each of `nodes`, in their order.
pub(crate) fn score(pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
    let parts: [(i64, Vec<i64>); 7] = [
        (1, nodes.iter().map(|node| least_allocated(pod, node)).collect()),
        (1, nodes.iter().map(|node| balanced(pod, node)).collect()),
        (3, normalize(nodes.iter().map(|node| bad_taints(pod, node)).collect(), true)),
        (2, normalize(nodes.iter().map(|node| affinity::preference(pod.spec(), node)).collect(), false)),
        (2, spreading(pod, nodes, cluster)),
        (2, pod_affinity(pod, nodes, cluster)),
        (1, nodes.iter().map(|node| images(pod, node, cluster)).collect()),
    ];
    let mut sums = vec![0; nodes.len()];
    for (weight, scores) in parts {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *sum += weight * score;
        }
    }
    sums
}

/// The free share of the node once the pod is there.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let share = |used: i64, all: i64| if all <= 0 || used > all { 0 } else { (all - used) * BEST / all };
    let (cpu, memory) = used_after(pod, node);
    (share(cpu, node.allocatable.milli_cpu) + share(memory, node.allocatable.memory)) / 2
}

/// How alike the used shares of CPU and memory are once the pod is there.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (cpu, memory) = used_after(pod, node);
    let share = |used: i64, all: i64| if all <= 0 { BEST } else { (used * BEST / all).min(BEST) };
    let apart = share(cpu, node.allocatable.milli_cpu) - share(memory, node.allocatable.memory);
    // The deviation of two values is half their distance.
    BEST - apart.abs() / 2
}

fn used_after(pod: &PodInfo, node: &NodeInfo) -> (i64, i64) {
    (node.weight.0.saturating_add(pod.weight.0), node.weight.1.saturating_add(pod.weight.1) / MIB * MIB)
}

fn bad_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let bad = node
        .taints()
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !affinity::tolerated(pod.tolerations(), taint));
    i64::try_from(bad.count()).unwrap_or(i64::MAX)
}

/// Scales to 0..=100 by the largest; `reverse` makes the smallest the best.
fn normalize(raw: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = raw.iter().copied().max().unwrap_or(0);
    raw.into_iter()
        .map(|value| {
            let scaled = if most <= 0 { 0 } else { value.max(0) * BEST / most };
            if reverse { BEST - scaled } else { scaled }
        })
        .collect()
}

/// Fewer pods of the same kind near is better: by the pod's own preferences, or else by its owner or services.
fn spreading(pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
    let mut raw = vec![0; nodes.len()];
    if pod.spread.is_empty() {
        let selectors = if pod.owner.is_none() { cluster.selectors_of(pod) } else { Vec::new() };
        for (sum, node) in raw.iter_mut().zip(nodes) {
            *sum = match &pod.owner {
                Some(owner) => node.by_owner.get(owner).copied().unwrap_or(0),
                None if selectors.is_empty() => 0,
                None => {
                    let alike = node.pods.values().filter(|other| {
                        other.key.namespace == pod.key.namespace
                            && selectors.iter().all(|selector| {
                                selector.iter().all(|(key, value)| other.labels().get(key) == Some(value))
                            })
                    });
                    i64::try_from(alike.count()).unwrap_or(i64::MAX)
                }
            };
        }
    } else {
        for spread in pod.spread.iter().filter(|spread| !spread.required) {
            let mut domains = std::collections::HashMap::new();
            for node in cluster.nodes().filter(|node| is_counted(pod, spread, node)) {
                if let Some(value) = node.labels().get(&spread.topology_key) {
                    *domains.entry(value.as_str()).or_insert(0) += matching(pod, spread, node);
                }
            }
            for (sum, node) in raw.iter_mut().zip(nodes) {
                let value = node.labels().get(&spread.topology_key);
                *sum += value.and_then(|value| domains.get(value.as_str())).copied().unwrap_or(0)
                    + spread.max_skew
                    - 1;
            }
        }
    }
    let (least, most) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    raw.into_iter().map(|value| if most == 0 { BEST } else { BEST * (most + least - value) / most }).collect()
}

/// Preferences of the pod about others, and of others about the pod.
fn pod_affinity(pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
    let mut by_domain: std::collections::HashMap<(&str, &str), i64> = std::collections::HashMap::new();
    let own_namespace = cluster.namespace_labels(&pod.key.namespace);
    for node in cluster.nodes() {
        if pod.preferred_affinity.is_empty() && node.with_affinity == 0 {
            continue;
        }
        for other in node.pods.values() {
            let namespace = cluster.namespace_labels(&other.key.namespace);
            let mine = pod
                .preferred_affinity
                .iter()
                .filter(|term| term.matches(other, namespace))
                .map(|term| (term, term.weight));
            let theirs = other
                .preferred_affinity
                .iter()
                .map(|term| (term, term.weight))
                // A required term of a pod that is there counts a little for those that fit it.
                .chain(other.required_affinity.iter().map(|term| (term, 1)))
                .filter(|(term, _)| term.matches(pod, own_namespace));
            for (term, weight) in mine.chain(theirs) {
                if let Some(value) = node.labels().get(&term.topology_key) {
                    *by_domain.entry((term.topology_key.as_str(), value.as_str())).or_insert(0) += weight;
                }
            }
        }
    }
    let raw: Vec<i64> = nodes
        .iter()
        .map(|node| {
            by_domain
                .iter()
                .filter(|((key, value), _)| node.labels().get(*key).is_some_and(|label| label == value))
                .map(|(_, weight)| weight)
                .sum()
        })
        .collect();
    let (least, most) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    raw.into_iter()
        .map(|value| if most == least { 0 } else { BEST * (value - least) / (most - least) })
        .collect()
}

/// Larger images that are there already are better; an image on many nodes counts more.
fn images(pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> i64 {
    if node.images.is_empty() {
        return 0;
    }
    let containers = &pod.spec().containers;
    let all = i64::try_from(cluster.nodes().count()).unwrap_or(i64::MAX).max(1);
    let sum: i64 = containers
        .iter()
        .filter_map(|container| {
            let name = full_image_name(container.image.as_deref()?);
            let size = node.images.get(&name)?;
            let having = cluster.nodes().filter(|other| other.images.contains_key(&name)).count();
            Some(size / all * i64::try_from(having).unwrap_or(0))
        })
        .sum();
    let least = 23 * MIB;
    let most = 1000 * MIB * i64::try_from(containers.len()).unwrap_or(1).max(1);
    BEST * (sum.clamp(least, most) - least) / (most - least)
}

/// Images are listed with a tag always.
fn full_image_name(image: &str) -> String {
    let tagged = image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing;

    fn best(pod: &PodInfo, cluster: &Cluster) -> String {
        let nodes: Vec<_> = cluster.nodes().collect();
        let scores = score(pod, &nodes, cluster);
        let at = (0..nodes.len()).max_by_key(|at| scores[*at]).unwrap();
        nodes[at].name().to_owned()
    }

    #[test]
    fn the_emptier_node_is_better() {
        let mut cluster = testing::cluster([("n1", testing::roomy()), ("n2", testing::roomy())]);
        let big =
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "2", "memory": "2Gi"}}}]});
        cluster.place(Arc::new(testing::pod(big.clone())), "n2");
        assert_eq!(best(&testing::pod(big), &cluster), "n1");
    }

    #[test]
    fn pods_of_one_owner_spread_even_against_the_emptier_node() {
        let mut cluster = testing::cluster([("n1", testing::roomy()), ("n2", testing::roomy())]);
        let small = json!({"containers": [{"name": "a"}]});
        cluster.place(Arc::new(testing::owned_pod("rs-1", small.clone())), "n1");
        for _ in 0..3 {
            cluster.place(Arc::new(testing::pod(small.clone())), "n2");
        }
        assert_eq!(best(&testing::owned_pod("rs-1", small), &cluster), "n2");
    }

    #[test]
    fn a_soft_taint_and_preferences_are_minded() {
        let mut tainted = testing::roomy();
        tainted["spec"] = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
        let mut fast = testing::roomy();
        fast["labels"] = json!({"disk": "ssd"});
        let cluster = testing::cluster([("n1", fast), ("n2", tainted.clone()), ("n3", testing::roomy())]);
        let wants = json!({"containers": [], "affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference": {
                "matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
        assert_eq!(best(&testing::pod(wants), &cluster), "n1");
        let cluster = testing::cluster([("n2", tainted), ("n3", testing::roomy())]);
        assert_eq!(best(&testing::pod(json!({"containers": []})), &cluster), "n3");
    }

    #[test]
    fn a_node_that_has_the_image_is_better() {
        let mut has = testing::roomy();
        has["status"]["images"] = json!([{"names": ["nginx:latest"], "sizeBytes": 900_000_000}]);
        let cluster = testing::cluster([("n1", testing::roomy()), ("n2", has)]);
        let pod = testing::pod(json!({"containers": [{"name": "a", "image": "nginx"}]}));
        assert_eq!(best(&pod, &cluster), "n2");
    }
}
