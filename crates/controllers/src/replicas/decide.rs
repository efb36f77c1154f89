//! The decisions of the engine, as functions of what it sees.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use crate::claim::labels;
use crate::pods;

/// The most pods that one reconciliation makes or deletes.
const BURST: usize = 500;

/// How the number of pods has to change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Create(usize),
    Delete(usize),
}

pub(crate) fn change(desired: i32, active: usize) -> Change {
    let desired = usize::try_from(desired).unwrap_or(0);
    match active.cmp(&desired) {
        std::cmp::Ordering::Equal => Change::None,
        std::cmp::Ordering::Less => Change::Create((desired - active).min(BURST)),
        std::cmp::Ordering::Greater => Change::Delete((active - desired).min(BURST)),
    }
}

/// What the pods of an owner add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) terminating: i32,
    /// When the next ready pod becomes available.
    pub(crate) next: Option<Duration>,
}

pub(crate) fn tally(
    active: &[Arc<Pod>],
    terminating: usize,
    template: Option<&PodTemplateSpec>,
    min_ready: Duration,
    now: Timestamp,
) -> Tally {
    let wanted =
        template.and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
    let mut tally = Tally { terminating: i32::try_from(terminating).unwrap_or(i32::MAX), ..Tally::default() };
    for pod in active {
        tally.replicas += 1;
        let has = labels(&**pod);
        let complete =
            wanted.is_none_or(|wanted| wanted.iter().all(|(key, value)| has.get(key) == Some(value)));
        tally.fully_labeled += i32::from(complete);
        match pods::available_in(pod, min_ready, now) {
            None => {}
            Some(Duration::ZERO) => {
                tally.ready += 1;
                tally.available += 1;
            }
            Some(wait) => {
                tally.ready += 1;
                tally.next = Some(tally.next.map_or(wait, |next| next.min(wait)));
            }
        }
    }
    tally
}

/// Why the pods could not be made or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Returns the new status; zeros are left out as upstream does.
pub(crate) fn status(
    old: &Value,
    tally: &Tally,
    generation: i64,
    counts_terminating: bool,
    failure: Option<&Failure>,
    now: &Time,
) -> Value {
    let mut status = Map::new();
    status.insert("replicas".into(), json!(tally.replicas));
    let mut count = |name: &str, value: i32| {
        if value != 0 {
            status.insert(name.into(), json!(value));
        }
    };
    count("fullyLabeledReplicas", tally.fully_labeled);
    count("readyReplicas", tally.ready);
    count("availableReplicas", tally.available);
    if counts_terminating {
        status.insert("terminatingReplicas".into(), json!(tally.terminating));
    }
    if generation != 0 {
        status.insert("observedGeneration".into(), json!(generation));
    }
    let mut conditions: Vec<Value> =
        old.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition["type"] == "ReplicaFailure");
    match (failure, known) {
        // The first failure is kept until all is well again.
        (Some(_), Some(_)) | (None, None) => {}
        (Some(failure), None) => conditions.push(json!({
            "type": "ReplicaFailure",
            "status": "True",
            "lastTransitionTime": now,
            "reason": failure.reason,
            "message": failure.message,
        })),
        (None, Some(at)) => {
            conditions.remove(at);
        }
    }
    if !conditions.is_empty() {
        status.insert("conditions".into(), Value::Array(conditions));
    }
    Value::Object(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_pods_changes_towards_what_is_desired_in_bounded_steps() {
        for (desired, active, expect) in [
            (2, 1, Change::Create(1)),
            (2, 2, Change::None),
            (0, 3, Change::Delete(3)),
            (1000, 0, Change::Create(500)),
            (-1, 1, Change::Delete(1)),
        ] {
            assert_eq!(change(desired, active), expect, "{desired} desired, {active} active");
        }
    }

    #[test]
    fn a_failure_is_kept_until_it_is_over() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let tally = Tally { replicas: 1, ..Tally::default() };
        let failure = Failure { reason: "FailedCreate", message: "quota".into() };
        let first = status(&Value::Null, &tally, 1, false, Some(&failure), &now);
        assert_eq!(
            first,
            json!({"replicas": 1, "observedGeneration": 1, "conditions": [{"type": "ReplicaFailure",
                "status": "True", "reason": "FailedCreate", "message": "quota",
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]})
        );
        let other = Failure { reason: "FailedCreate", message: "another".into() };
        assert_eq!(status(&first, &tally, 1, false, Some(&other), &now), first);
        assert_eq!(
            status(&first, &tally, 2, true, None, &now),
            json!({"replicas": 1, "terminatingReplicas": 0, "observedGeneration": 2})
        );
    }
}
