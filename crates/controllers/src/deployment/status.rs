//! The status of a deployment: counts and conditions, in the words that `kubectl rollout status` looks for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rolling::Bounds;
use crate::frame::{name, seconds, until};

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn sum<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>, of: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(|set| of(set)).sum()
}

pub(crate) fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub(crate) fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: &Time,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

/// Replaces the condition of that type; one that says the same for the same reason stays as it was.
pub(crate) fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(at) = conditions.iter().position(|known| known.type_ == condition.type_) {
        let known = &conditions[at];
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
        conditions.remove(at);
    }
    conditions.push(condition);
}

pub(crate) fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Counts the replica sets. `new` is one of `all`.
pub(crate) fn calculate(
    deployment: &Deployment,
    all: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    now: &Time,
) -> DeploymentStatus {
    let count = |value: i32| (value != 0).then_some(value);
    let of = |read: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| {
        move |set: &ReplicaSet| set.status.as_ref().map_or(0, read)
    };
    let available = sum(all, of(|status| status.available_replicas.unwrap_or(0)));
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: count(sum(all, of(|status| status.replicas))),
        updated_replicas: count(sum(new, of(|status| status.replicas))),
        ready_replicas: count(sum(all, of(|status| status.ready_replicas.unwrap_or(0)))),
        available_replicas: count(available),
        unavailable_replicas: count((sum(all, replicas) - available).max(0)),
        terminating_replicas: Some(sum(all, of(|status| status.terminating_replicas.unwrap_or(0)))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let bounds = Bounds::of(deployment);
    let condition = if available >= bounds.replicas - bounds.unavailable {
        let message = "Deployment has minimum availability.";
        new_condition("Available", "True", "MinimumReplicasAvailable", message.into(), now)
    } else {
        let message = "Deployment does not have minimum availability.";
        new_condition("Available", "False", "MinimumReplicasUnavailable", message.into(), now)
    };
    set_condition(&mut status, condition);
    status
}

/// Tells whether every replica is of the current version and available, and no other is left.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Bounds::of(deployment).replicas;
    let is_wanted = |count: Option<i32>| count.unwrap_or(0) == wanted;
    is_wanted(status.updated_replicas)
        && is_wanted(status.replicas)
        && is_wanted(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let count = |value: Option<i32>| value.unwrap_or(0);
    let of_old_versions = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || of_old_versions(new) < of_old_versions(&old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

/// Returns the deadline in seconds; the largest number means that there is none.
pub(crate) fn deadline(deployment: &Deployment) -> Option<i32> {
    let deadline = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds);
    deadline.filter(|seconds| *seconds != i32::MAX)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(condition) = condition(status, "Progressing") else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => stuck_in(deployment, status, now).is_some_and(|wait| wait.is_zero()),
    }
}

/// Returns how long it is until the deployment counts as stuck, if it might.
pub(crate) fn stuck_in(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<std::time::Duration> {
    let deadline = deadline(deployment)?;
    let condition = condition(status, "Progressing")?;
    if is_complete(deployment, status)
        || matches!(condition.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE))
    {
        return None;
    }
    let from = condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref())?;
    Some(until(from.0, seconds(deadline), now))
}

/// Counts, and says how the rollout goes.
pub(crate) fn rollout(
    deployment: &Deployment,
    all: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    now: &Time,
) -> DeploymentStatus {
    let mut status = calculate(deployment, all, new, now);
    if deadline(deployment).is_none() {
        remove_condition(&mut status, "Progressing");
    }
    let current = condition(&status, "Progressing").cloned();
    let is_done = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|current| current.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if deadline(deployment).is_some() && !is_done {
        let who = match new {
            Some(set) => format!("ReplicaSet {:?}", name(&**set)),
            None => format!("Deployment {:?}", name(deployment)),
        };
        if is_complete(deployment, &status) {
            let message = format!("{who} has successfully progressed.");
            set_condition(&mut status, new_condition("Progressing", "True", NEW_SET_AVAILABLE, message, now));
        } else if is_progressing(deployment, &status) {
            let message = format!("{who} is progressing.");
            let mut condition = new_condition("Progressing", "True", "ReplicaSetUpdated", message, now);
            if let Some(current) = current.filter(|current| current.status == "True") {
                condition.last_transition_time = current.last_transition_time;
            }
            // Every step renews the time, so that the deadline counts from the last one.
            remove_condition(&mut status, "Progressing");
            set_condition(&mut status, condition);
        } else if has_timed_out(deployment, &status, now.0) {
            let message = format!("{who} has timed out progressing.");
            set_condition(&mut status, new_condition("Progressing", "False", TIMED_OUT, message, now));
        }
    }
    let failure = new.into_iter().chain(all).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure")
    });
    match failure {
        Some(failure) => set_condition(
            &mut status,
            DeploymentCondition {
                type_: "ReplicaFailure".into(),
                status: failure.status.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
                last_transition_time: failure.last_transition_time.clone(),
                last_update_time: failure.last_transition_time.clone(),
            },
        ),
        None => remove_condition(&mut status, "ReplicaFailure"),
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(status: Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "web", "generation": 1},
            "spec": {"replicas": 2, "selector": {}, "template": {}, "progressDeadlineSeconds": 600}, "status": status}))
        .unwrap()
    }

    fn set(replicas: i32, available: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web-1"}, "spec": {"replicas": replicas, "selector": {}},
                "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}}))
            .unwrap(),
        )
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn progressing(status: &DeploymentStatus) -> (String, String, String) {
        let condition = condition(status, "Progressing").unwrap();
        (condition.status.clone(), condition.reason.clone().unwrap(), condition.message.clone().unwrap())
    }

    #[test]
    fn a_rollout_progresses_completes_or_times_out() {
        let sets = [set(2, 1)];
        let status = rollout(&deployment(Value::Null), &sets, Some(&sets[0]), &at(0));
        assert_eq!(
            progressing(&status),
            ("True".into(), "ReplicaSetUpdated".into(), "ReplicaSet \"web-1\" is progressing.".into())
        );
        assert_eq!(
            condition(&status, "Available").unwrap().reason.as_deref(),
            Some("MinimumReplicasUnavailable")
        );
        let before = deployment(serde_json::to_value(&status).unwrap());
        assert_eq!(stuck_in(&before, &status, at(10).0), Some(std::time::Duration::from_secs(590)));

        let done = [set(2, 2)];
        let status = rollout(&before, &done, Some(&done[0]), &at(10));
        assert_eq!(
            progressing(&status),
            (
                "True".into(),
                "NewReplicaSetAvailable".into(),
                "ReplicaSet \"web-1\" has successfully progressed.".into()
            )
        );
        assert_eq!(
            condition(&status, "Available").unwrap().reason.as_deref(),
            Some("MinimumReplicasAvailable")
        );

        let status = rollout(&before, &sets, Some(&sets[0]), &at(601));
        assert_eq!(
            progressing(&status),
            (
                "False".into(),
                "ProgressDeadlineExceeded".into(),
                "ReplicaSet \"web-1\" has timed out progressing.".into()
            )
        );
    }
}
