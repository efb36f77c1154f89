//! Which pods of lower priority would have to go so that a pod fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::summary;
use crate::filter::{self, Refusal};
use crate::pod::PodInfo;

/// Pods to remove from a node.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodInfo>>,
}

/// Finds the node where making room hurts least, and says in upstream's words what came of it.
/// Leaves `cluster` as it was.
pub(crate) fn plan(
    pod: &PodInfo,
    refusals: &BTreeMap<String, Refusal>,
    cluster: &mut Cluster,
) -> (Option<Preemption>, String) {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return (None, "not eligible due to preemptionPolicy=Never.".into());
    }
    if is_waiting_for_victims(pod, cluster) {
        return (None, "not eligible due to a terminating pod on the nominated node.".into());
    }
    let mut notes = Vec::new();
    let mut candidates = Vec::new();
    for (name, refusal) in refusals {
        if !refusal.removing_pods_helps {
            notes.push("Preemption is not helpful for scheduling");
            continue;
        }
        match victims(pod, name, cluster) {
            Some(victims) => candidates.push(Preemption { node: name.clone(), victims }),
            None => notes.push("No preemption victims found for incoming pod"),
        }
    }
    let note = summary(refusals.len(), notes.into_iter());
    let best = candidates.into_iter().min_by_key(|candidate| {
        let highest = candidate.victims.iter().map(|victim| victim.priority).max();
        let sum: i64 = candidate.victims.iter().map(|victim| i64::from(victim.priority)).sum();
        (highest, sum, candidate.victims.len())
    });
    (best, note)
}

/// Tells whether pods that were removed for `pod` are still on their way out.
fn is_waiting_for_victims(pod: &PodInfo, cluster: &Cluster) -> bool {
    pod.pod
        .status
        .as_ref()
        .and_then(|status| status.nominated_node_name.as_deref())
        .and_then(|name| cluster.node(name))
        .is_some_and(|node| {
            node.pods.values().any(|other| other.priority < pod.priority && other.is_terminating())
        })
}

fn victims(pod: &PodInfo, name: &str, cluster: &mut Cluster) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<Arc<PodInfo>> =
        cluster.node(name)?.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    // The most important first, and of those the longest running: they are the first to be spared.
    lower.sort_by_key(|other| {
        let started = other.pod.status.as_ref().and_then(|status| status.start_time.clone());
        (std::cmp::Reverse(other.priority), started.map(|time| time.0))
    });
    let fits = |cluster: &Cluster| {
        let counts = filter::count(pod, cluster);
        cluster.node(name).is_some_and(|node| filter::check(pod, node, &counts).is_ok())
    };
    for other in &lower {
        cluster.node_mut(name)?.remove(&other.uid);
    }
    let mut gone = Vec::new();
    if fits(cluster) {
        for other in lower {
            cluster.node_mut(name)?.add(other.clone());
            if !fits(cluster) {
                cluster.node_mut(name)?.remove(&other.uid);
                gone.push(other);
            }
        }
        for other in &gone {
            cluster.node_mut(name)?.add(other.clone());
        }
        return Some(gone);
    }
    for other in lower {
        cluster.node_mut(name)?.add(other);
    }
    None
}
