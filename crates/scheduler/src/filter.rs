//! Which nodes can take a pod, and in upstream's words why the others cannot.

use std::collections::{BTreeMap, HashMap};

use crate::affinity;
use crate::cluster::Cluster;
use crate::node::NodeInfo;
use crate::pod::{HostPort, PodInfo, Spread};

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// In upstream's words.
    pub(crate) reasons: Vec<String>,
    /// Whether it could take the pod if other pods went away.
    pub(crate) removing_pods_helps: bool,
}

impl Refusal {
    fn for_good(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], removing_pods_helps: false }
    }

    fn for_now(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], removing_pods_helps: true }
    }
}

/// What the pod's rules about other pods say of the whole cluster, counted once for each attempt.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    spread: Vec<SpreadCount>,
    /// For each required affinity term: how many pods match all terms, by the term's topology value.
    affinity: Vec<HashMap<String, i64>>,
    /// For each required anti-affinity term: how many pods match, by the term's topology value.
    anti_affinity: Vec<HashMap<String, i64>>,
    /// Topology key and value where a pod that is there refuses this one.
    refused: HashMap<(String, String), i64>,
    matches_itself: bool,
}

#[derive(Debug)]
struct SpreadCount {
    domains: BTreeMap<String, i64>,
    least: i64,
}

/// Counts what [`check`] needs. Costs nothing for a pod without such rules among pods without such rules.
pub(crate) fn count(pod: &PodInfo, cluster: &Cluster) -> Counts {
    let mut counts = Counts {
        spread: pod
            .spread
            .iter()
            .filter(|spread| spread.required)
            .map(|spread| count_spread(pod, spread, cluster))
            .collect(),
        affinity: vec![HashMap::new(); pod.required_affinity.len()],
        anti_affinity: vec![HashMap::new(); pod.required_anti_affinity.len()],
        ..Counts::default()
    };
    let own_namespace = cluster.namespace_labels(&pod.key.namespace);
    counts.matches_itself = pod.required_affinity.iter().all(|term| term.matches(pod, own_namespace));
    let has_terms = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
    for node in cluster.nodes() {
        if node.with_anti_affinity > 0 {
            for other in node.pods.values() {
                for term in &other.required_anti_affinity {
                    if let Some(value) = node.labels().get(&term.topology_key)
                        && term.matches(pod, own_namespace)
                    {
                        *counts.refused.entry((term.topology_key.clone(), value.clone())).or_insert(0) += 1;
                    }
                }
            }
        }
        if !has_terms {
            continue;
        }
        for other in node.pods.values() {
            let namespace = cluster.namespace_labels(&other.key.namespace);
            if !pod.required_affinity.is_empty()
                && pod.required_affinity.iter().all(|term| term.matches(other, namespace))
            {
                for (term, count) in pod.required_affinity.iter().zip(&mut counts.affinity) {
                    bump(count, node, &term.topology_key);
                }
            }
            for (term, count) in pod.required_anti_affinity.iter().zip(&mut counts.anti_affinity) {
                if term.matches(other, namespace) {
                    bump(count, node, &term.topology_key);
                }
            }
        }
    }
    counts
}

fn bump(count: &mut HashMap<String, i64>, node: &NodeInfo, topology_key: &str) {
    if let Some(value) = node.labels().get(topology_key) {
        *count.entry(value.clone()).or_insert(0) += 1;
    }
}

fn count_spread(pod: &PodInfo, spread: &Spread, cluster: &Cluster) -> SpreadCount {
    let mut domains = BTreeMap::new();
    for node in cluster.nodes() {
        if let Some(value) = node.labels().get(&spread.topology_key)
            && is_counted(pod, spread, node)
        {
            *domains.entry(value.clone()).or_insert(0) += matching(pod, spread, node);
        }
    }
    let enough = i64::try_from(domains.len()).is_ok_and(|found| found >= spread.min_domains);
    let least = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
    SpreadCount { domains, least }
}

/// Tells whether a node's pods count for the spread of `pod`.
pub(crate) fn is_counted(pod: &PodInfo, spread: &Spread, node: &NodeInfo) -> bool {
    (!spread.honor_affinity || affinity::allows(pod.spec(), node))
        && (!spread.honor_taints || untolerated(pod, node).is_none())
        && pod
            .spread
            .iter()
            .all(|other| other.required != spread.required || node.labels().contains_key(&other.topology_key))
}

/// Counts the node's pods that the constraint selects.
pub(crate) fn matching(pod: &PodInfo, spread: &Spread, node: &NodeInfo) -> i64 {
    use kube::core::SelectorExt;
    let count = node
        .pods
        .values()
        .filter(|other| {
            other.key.namespace == pod.key.namespace
                && !other.is_terminating()
                && spread.selector.matches(other.labels())
        })
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a k8s_openapi::api::core::v1::Taint> {
    node.taints().iter().find(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !affinity::tolerated(pod.tolerations(), taint)
    })
}

/// Returns why `node` cannot take `pod`, in the order that upstream's plugins look.
pub(crate) fn check(pod: &PodInfo, node: &NodeInfo, counts: &Counts) -> Result<(), Refusal> {
    if node.is_unschedulable() {
        let taint = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        if !affinity::tolerated(pod.tolerations(), &taint) {
            return Err(Refusal::for_good("node(s) were unschedulable"));
        }
    }
    if untolerated(pod, node).is_some() {
        return Err(Refusal::for_good("node(s) had untolerated taint(s)"));
    }
    if !affinity::allows(pod.spec(), node) {
        return Err(Refusal::for_good("node(s) didn't match Pod's node affinity/selector"));
    }
    if pod.ports.iter().any(|wanted| node.ports.iter().any(|used| clash(wanted, used))) {
        return Err(Refusal::for_now("node(s) didn't have free ports for the requested pod ports"));
    }
    check_resources(pod, node)?;
    check_spread(pod, node, counts)?;
    check_affinity(pod, node, counts)
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0")
}

fn check_resources(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let mut reasons = Vec::new();
    let mut helps = true;
    let running = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if running.saturating_add(1) > node.allowed_pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut compare = |name: &str, wanted: i64, used: i64, all: i64| {
        if wanted > 0 && wanted > all.saturating_sub(used) {
            reasons.push(format!("Insufficient {name}"));
            helps &= wanted <= all;
        }
    };
    let (wanted, used, all) = (&pod.requests, &node.requested, &node.allocatable);
    compare("cpu", wanted.milli_cpu, used.milli_cpu, all.milli_cpu);
    compare("memory", wanted.memory, used.memory, all.memory);
    compare("ephemeral-storage", wanted.ephemeral, used.ephemeral, all.ephemeral);
    for (name, amount) in &wanted.extended {
        let of = |map: &BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
        compare(name, *amount, of(&used.extended), of(&all.extended));
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, removing_pods_helps: helps }) }
}

fn check_spread(pod: &PodInfo, node: &NodeInfo, counts: &Counts) -> Result<(), Refusal> {
    use kube::core::SelectorExt;
    for (spread, count) in pod.spread.iter().filter(|spread| spread.required).zip(&counts.spread) {
        let Some(value) = node.labels().get(&spread.topology_key) else {
            return Err(Refusal::for_good(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let itself = i64::from(spread.selector.matches(pod.labels()));
        let here = count.domains.get(value).copied().unwrap_or(0);
        if here + itself - count.least > spread.max_skew {
            return Err(Refusal::for_now("node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

fn check_affinity(pod: &PodInfo, node: &NodeInfo, counts: &Counts) -> Result<(), Refusal> {
    let labels = node.labels();
    let found = |key: &str, count: &HashMap<String, i64>| {
        labels.get(key).is_some_and(|value| count.get(value).is_some_and(|count| *count > 0))
    };
    let terms = || pod.required_affinity.iter().zip(&counts.affinity);
    if !terms().all(|(term, count)| found(&term.topology_key, count)) {
        // The first of a group that wants to be together may go anywhere that has the topology.
        let nobody = counts.affinity.iter().all(HashMap::is_empty);
        let has_keys = terms().all(|(term, _)| labels.contains_key(&term.topology_key));
        if !(nobody && counts.matches_itself && has_keys) {
            return Err(Refusal::for_good("node(s) didn't match pod affinity rules"));
        }
    }
    let mut against = pod.required_anti_affinity.iter().zip(&counts.anti_affinity);
    if against.any(|(term, count)| found(&term.topology_key, count)) {
        return Err(Refusal::for_now("node(s) didn't match pod anti-affinity rules"));
    }
    if counts.refused.keys().any(|(key, value)| labels.get(key) == Some(value)) {
        return Err(Refusal::for_now("node(s) didn't satisfy existing pods anti-affinity rules"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing;

    fn reasons(pod: &PodInfo, cluster: &Cluster, node: &str) -> Vec<String> {
        let counts = count(pod, cluster);
        check(pod, cluster.node(node).unwrap(), &counts).err().map(|no| no.reasons).unwrap_or_default()
    }

    #[test]
    fn a_node_refuses_a_pod_with_upstreams_words() {
        let node = |extra: Value| {
            let mut base =
                json!({"spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}});
            for (key, value) in extra.as_object().unwrap() {
                base[key] = value.clone();
            }
            base
        };
        let cpu = |amount: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": amount, "memory": "2Gi"}}}]});
        let plain = json!({"containers": [{"name": "a"}]});
        for (node, pod, expect) in [
            (node(json!({})), plain.clone(), vec![]),
            (
                node(json!({"spec": {"unschedulable": true}})),
                plain.clone(),
                vec!["node(s) were unschedulable"],
            ),
            (
                node(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
                plain.clone(),
                vec!["node(s) had untolerated taint(s)"],
            ),
            (
                node(json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}})),
                plain.clone(),
                vec![],
            ),
            (
                node(json!({})),
                json!({"containers": [], "nodeSelector": {"disk": "ssd"}}),
                vec!["node(s) didn't match Pod's node affinity/selector"],
            ),
            (node(json!({})), cpu("3"), vec!["Insufficient cpu", "Insufficient memory"]),
            (node(json!({"status": {"allocatable": {"pods": "0"}}})), plain, vec!["Too many pods"]),
        ] {
            let cluster = testing::cluster([("n1", node)]);
            assert_eq!(reasons(&testing::pod(pod), &cluster, "n1"), expect);
        }
    }

    #[test]
    fn host_ports_clash_unless_the_addresses_differ() {
        let port = |ip: &str| json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]});
        for (there, wanted, free) in
            [("", "", false), ("127.0.0.1", "", false), ("127.0.0.1", "127.0.0.2", true)]
        {
            let mut cluster = testing::cluster([("n1", testing::roomy())]);
            cluster.place(Arc::new(testing::pod(port(there))), "n1");
            assert_eq!(
                reasons(&testing::pod(port(wanted)), &cluster, "n1").is_empty(),
                free,
                "{there} {wanted}"
            );
        }
    }

    fn labelled(name: &str, zone: &str) -> (String, Value) {
        let mut node = testing::roomy();
        node["labels"] = json!({"zone": zone, "kubernetes.io/hostname": name});
        (name.to_owned(), node)
    }

    fn zones() -> Cluster {
        testing::cluster([labelled("a1", "a"), labelled("a2", "a"), labelled("b1", "b")])
    }

    #[test]
    fn spread_constraints_keep_the_skew() {
        let spec = json!({"containers": [], "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]});
        let mut cluster = zones();
        cluster.place(Arc::new(testing::labelled_pod("app", "x", spec.clone())), "a1");
        let pod = testing::labelled_pod("app", "x", spec);
        assert_eq!(reasons(&pod, &cluster, "a2"), ["node(s) didn't match pod topology spread constraints"]);
        assert!(reasons(&pod, &cluster, "b1").is_empty());
    }

    #[test]
    fn pods_that_want_to_be_apart_refuse_each_other_both_ways() {
        let apart = json!({"containers": [], "affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}]}}});
        let mut cluster = zones();
        cluster.place(Arc::new(testing::labelled_pod("app", "x", apart.clone())), "a1");
        let same = testing::labelled_pod("app", "x", apart);
        assert_eq!(reasons(&same, &cluster, "a2"), ["node(s) didn't match pod anti-affinity rules"]);
        assert!(reasons(&same, &cluster, "b1").is_empty());
        let plain = testing::labelled_pod("app", "x", json!({"containers": []}));
        assert_eq!(
            reasons(&plain, &cluster, "a2"),
            ["node(s) didn't satisfy existing pods anti-affinity rules"]
        );
    }

    #[test]
    fn the_first_pod_of_a_group_may_start_anywhere_and_the_others_follow() {
        let together = json!({"containers": [], "affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}]}}});
        let mut cluster = zones();
        let pod = testing::labelled_pod("app", "x", together.clone());
        assert!(reasons(&pod, &cluster, "a1").is_empty());
        let stranger = testing::labelled_pod("app", "y", together.clone());
        assert_eq!(reasons(&stranger, &cluster, "a1"), ["node(s) didn't match pod affinity rules"]);
        cluster.place(Arc::new(testing::labelled_pod("app", "x", together)), "b1");
        assert_eq!(reasons(&pod, &cluster, "a1"), ["node(s) didn't match pod affinity rules"]);
        assert!(reasons(&pod, &cluster, "b1").is_empty());
    }
}
