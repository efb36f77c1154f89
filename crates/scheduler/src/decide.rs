//! The decision about one pod: a node, or upstream's explanation why there is none.

use std::collections::BTreeMap;

use machinery::names::Random;

use crate::cluster::Cluster;
use crate::filter::{self, Refusal};
use crate::pod::PodInfo;
use crate::preempt::{self, Preemption};
use crate::score;

/// What to do with a pod.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Bind it to this node.
    Place(String),
    /// It has to wait.
    Wait {
        /// Why, in upstream's words.
        message: String,
        /// The pods to remove so that it fits soon.
        preemption: Option<Preemption>,
    },
}

/// Decides where `pod` goes. Leaves `cluster` as it was.
pub(crate) fn decide(pod: &PodInfo, cluster: &mut Cluster, random: &Random) -> Decision {
    let counts = filter::count(pod, cluster);
    let mut fitting = Vec::new();
    let mut refusals: BTreeMap<String, Refusal> = BTreeMap::new();
    for node in cluster.nodes() {
        match filter::check(pod, node, &counts) {
            Ok(()) => fitting.push(node),
            Err(refusal) => {
                refusals.insert(node.name().to_owned(), refusal);
            }
        }
    }
    match fitting.as_slice() {
        [] if refusals.is_empty() => {
            Decision::Wait { message: "no nodes available to schedule pods".into(), preemption: None }
        }
        [] => {
            let (preemption, note) = preempt::plan(pod, &refusals, cluster);
            let reasons = refusals.values().flat_map(|refusal| refusal.reasons.iter().map(String::as_str));
            let message = format!("{} preemption: {note}", summary(refusals.len(), reasons));
            Decision::Wait { message, preemption }
        }
        [only] => Decision::Place(only.name().to_owned()),
        nodes => {
            let scores = score::score(pod, nodes, cluster);
            let best = scores.iter().copied().max().unwrap_or(0);
            let ties: Vec<usize> = (0..nodes.len()).filter(|at| scores[*at] == best).collect();
            let pick = random.below(u64::try_from(ties.len()).unwrap_or(1));
            let pick = ties[usize::try_from(pick).unwrap_or(0)];
            Decision::Place(nodes[pick].name().to_owned())
        }
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub(crate) fn summary<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *histogram.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> =
        histogram.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing;

    fn wait(pod: &PodInfo, cluster: &mut Cluster) -> (String, Option<Preemption>) {
        match decide(pod, cluster, &Random::seeded(1)) {
            Decision::Wait { message, preemption } => (message, preemption),
            Decision::Place(node) => panic!("placed on {node}"),
        }
    }

    fn cpu(amount: &str, priority: i32) -> serde_json::Value {
        json!({"priority": priority, "containers": [{"name": "a", "resources": {"requests": {"cpu": amount}}}]})
    }

    #[test]
    fn a_pod_that_fits_nowhere_is_told_why_as_upstream_does() {
        let mut cordoned = testing::roomy();
        cordoned["spec"] = json!({"unschedulable": true});
        let mut cluster = testing::cluster([("172.17.4.101", cordoned), ("172.17.4.201", testing::roomy())]);
        let (message, _) = wait(&testing::pod(cpu("100", 0)), &mut cluster);
        assert_eq!(
            message,
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: \
             0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        );
        cluster.place(Arc::new(testing::pod(cpu("3", 0))), "172.17.4.201");
        let (message, _) = wait(&testing::pod(cpu("2", 0)), &mut cluster);
        assert_eq!(
            message,
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: \
             0/2 nodes are available: 1 No preemption victims found for incoming pod, \
             1 Preemption is not helpful for scheduling."
        );
        let (message, _) = wait(&testing::pod(cpu("2", 0)), &mut Cluster::default());
        assert_eq!(message, "no nodes available to schedule pods");
    }

    #[test]
    fn a_pod_of_higher_priority_displaces_the_fewest_of_the_least_important() {
        let mut cluster = testing::cluster([("n1", testing::roomy()), ("n2", testing::roomy())]);
        let (low, lower) = (testing::pod(cpu("2", 5)), testing::pod(cpu("2", 1)));
        let victim = lower.uid.clone();
        cluster.place(Arc::new(low), "n1");
        cluster.place(Arc::new(lower), "n1");
        cluster.place(Arc::new(testing::pod(cpu("4", 50))), "n2");
        let (_, preemption) = wait(&testing::pod(cpu("2", 10)), &mut cluster);
        let preemption = preemption.unwrap();
        assert_eq!(preemption.node, "n1");
        assert_eq!(preemption.victims.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>(), [victim]);
        assert_eq!(cluster.node("n1").unwrap().pods.len(), 2, "deciding changes nothing");
    }

    #[test]
    fn many_replicas_spread_evenly() {
        let nodes: Vec<_> = (0..10).map(|number| (format!("n{number}"), testing::roomy())).collect();
        let mut cluster = testing::cluster(nodes);
        for _ in 0..500 {
            let pod = testing::owned_pod("rs", json!({"containers": [{"name": "a"}]}));
            let Decision::Place(node) = decide(&pod, &mut cluster, &Random::seeded(1)) else {
                panic!("there is room")
            };
            cluster.assume(Arc::new(pod), &node);
        }
        assert!(cluster.nodes().all(|node| node.pods.len() == 50));
    }
}
