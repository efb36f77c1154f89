//! The next step for a stateful set, as a function of its pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::claim::labels;
use crate::frame::{is_deleting, name};
use crate::history::HASH_LABEL;
use crate::pods;

/// What a set asks for.
#[derive(Debug, Clone)]
pub(crate) struct Goal<'a> {
    pub(crate) name: &'a str,
    pub(crate) replicas: i32,
    /// The first ordinal.
    pub(crate) start: i32,
    /// Whether all pods may be made and deleted at once.
    pub(crate) parallel: bool,
    /// Old pods at and above this ordinal are replaced; `None` leaves them alone.
    pub(crate) partition: Option<i32>,
    /// The hash of the current template.
    pub(crate) update: &'a str,
    pub(crate) min_ready: Duration,
}

/// What to do now.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Steps {
    /// Ordinals.
    pub(crate) create: Vec<i32>,
    /// Names.
    pub(crate) delete: Vec<String>,
    /// To look again after this time.
    pub(crate) again: Option<Duration>,
}

/// Returns the ordinal in the name of a pod of the set.
pub(crate) fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    name(pod).strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

pub(crate) fn hash(pod: &Pod) -> &str {
    labels(pod).get(HASH_LABEL).map_or("", String::as_str)
}

/// Decides the next steps: first that all pods are there and well, in order; then that none is too many; then
/// that old ones are replaced, one at a time, the last first.
pub(crate) fn steps(goal: &Goal<'_>, own: &[Arc<Pod>], now: Timestamp) -> Steps {
    let mut steps = Steps::default();
    let mut by_ordinal: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in own {
        if let Some(ordinal) = ordinal(goal.name, pod) {
            by_ordinal.insert(ordinal, pod);
        }
    }
    let range = goal.start..goal.start.saturating_add(goal.replicas);
    let healthy_in = |pod: &Pod| pods::available_in(pod, goal.min_ready, now).filter(|_| !is_deleting(pod));
    for ordinal in range.clone() {
        match by_ordinal.get(&ordinal) {
            None => {
                steps.create.push(ordinal);
                if !goal.parallel {
                    return steps;
                }
            }
            Some(pod) if pods::is_finished(pod) => {
                if !is_deleting(&***pod) {
                    steps.delete.push(name(&***pod).to_owned());
                }
                if !goal.parallel {
                    return steps;
                }
            }
            Some(pod) => match healthy_in(pod) {
                Some(Duration::ZERO) => {}
                wait => {
                    steps.again = steps.again.into_iter().chain(wait).min();
                    if !goal.parallel {
                        // A broken pod of an old version may be the reason for the new one: it may go.
                        replace_broken(goal, pod, ordinal, &mut steps);
                        return steps;
                    }
                }
            },
        }
    }
    let condemned: Vec<_> = by_ordinal.iter().rev().filter(|(ordinal, _)| !range.contains(ordinal)).collect();
    for (_, pod) in condemned {
        if is_deleting(&***pod) {
            if !goal.parallel {
                return steps;
            }
            continue;
        }
        steps.delete.push(name(&***pod).to_owned());
        if !goal.parallel {
            return steps;
        }
    }
    let Some(partition) = goal.partition else { return steps };
    if !steps.create.is_empty() || !steps.delete.is_empty() {
        return steps;
    }
    for (ordinal, pod) in by_ordinal.iter().rev().filter(|(ordinal, _)| range.contains(ordinal)) {
        if *ordinal < goal.start.saturating_add(partition) {
            break;
        }
        if hash(pod) != goal.update {
            if !is_deleting(&***pod) {
                steps.delete.push(name(&***pod).to_owned());
            }
            return steps;
        }
        match healthy_in(pod) {
            Some(Duration::ZERO) => {}
            wait => {
                steps.again = steps.again.into_iter().chain(wait).min();
                return steps;
            }
        }
    }
    steps
}

/// Upstream waits for a broken pod for good; replacing it when its template has been corrected is what people
/// otherwise do by hand.
fn replace_broken(goal: &Goal<'_>, pod: &Arc<Pod>, ordinal: i32, steps: &mut Steps) {
    let is_old = hash(pod) != goal.update;
    let is_due = goal.partition.is_some_and(|partition| ordinal >= goal.start.saturating_add(partition));
    let never_ran = pods::phase(pod) == "Pending";
    if is_old && is_due && never_ran && !is_deleting(&**pod) {
        steps.delete.push(name(&**pod).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(ordinal: i32, hash: &str, ready: bool, deleting: bool) -> Arc<Pod> {
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": format!("web-{ordinal}"), "labels": {HASH_LABEL: hash},
                "deletionTimestamp": deletion}, "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }}]}}),
            )
            .unwrap(),
        )
    }

    fn goal(replicas: i32, parallel: bool, partition: Option<i32>) -> Goal<'static> {
        Goal {
            name: "web",
            replicas,
            start: 0,
            parallel,
            partition,
            update: "new",
            min_ready: Duration::ZERO,
        }
    }

    #[test]
    fn pods_are_made_in_order_and_deleted_in_reverse() {
        let new = |ordinal, ready| pod(ordinal, "new", ready, false);
        for (goal, pods, create, delete) in [
            (goal(3, false, Some(0)), vec![], vec![0], vec![]),
            (goal(3, true, Some(0)), vec![], vec![0, 1, 2], vec![]),
            (goal(3, false, Some(0)), vec![new(0, false)], vec![], vec![]),
            (goal(3, false, Some(0)), vec![new(0, true)], vec![1], vec![]),
            (goal(1, false, Some(0)), vec![new(0, true), new(1, true), new(2, true)], vec![], vec!["web-2"]),
            (
                goal(1, false, Some(0)),
                vec![new(0, true), new(1, true), pod(2, "new", true, true)],
                vec![],
                vec![],
            ),
            (goal(0, true, Some(0)), vec![new(0, true), new(1, true)], vec![], vec!["web-1", "web-0"]),
        ] {
            let steps = steps(&goal, &pods, Timestamp::UNIX_EPOCH);
            assert_eq!(
                (steps.create, steps.delete),
                (create, delete.into_iter().map(str::to_owned).collect()),
                "{goal:?}"
            );
        }
    }

    #[test]
    fn an_update_replaces_the_last_pod_first_and_stops_at_the_partition() {
        let old = |ordinal| pod(ordinal, "old", true, false);
        let new = |ordinal, ready| pod(ordinal, "new", ready, false);
        for (partition, pods, delete) in [
            (Some(0), vec![old(0), old(1), old(2)], vec!["web-2"]),
            (Some(0), vec![old(0), old(1), new(2, true)], vec!["web-1"]),
            (Some(0), vec![old(0), old(1), pod(2, "old", true, true)], vec![]),
            (Some(2), vec![old(0), old(1), new(2, true)], vec![]),
            (None, vec![old(0), old(1), old(2)], vec![]),
        ] {
            let steps = steps(&goal(3, false, partition), &pods, Timestamp::UNIX_EPOCH);
            assert_eq!(
                steps.delete,
                delete.into_iter().map(str::to_owned).collect::<Vec<_>>(),
                "{partition:?}"
            );
        }
    }
}
