//! What controllers ask of pods: are they alive, ready, available; and which one is the least loss.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::frame::{controller_of, is_deleting, until};

/// The index of pods by the uid of their controller, or by [`orphans_of`] for those without one.
pub(crate) const BY_CONTROLLER: &str = "controller";
/// The index of pods by the name of their node.
pub(crate) const BY_NODE: &str = "node";

/// Returns the index value of the pods in `namespace` that nobody controls.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphans of {namespace}")
}

pub(crate) fn add_indices(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, |pod| {
        vec![match controller_of(pod) {
            Some(owner) => owner.uid.clone(),
            None => orphans_of(pod.metadata.namespace.as_deref().unwrap_or_default()),
        }]
    });
    pods.add_index(BY_NODE, |pod| node(pod).map(str::to_owned).into_iter().collect());
}

pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Tells whether the pod counts as a replica.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Returns how long it takes until the pod has been ready for `least`: zero is now, `None` while not ready.
pub(crate) fn available_in(pod: &Pod, least: Duration, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if least.is_zero() {
        return Some(Duration::ZERO);
    }
    Some(ready_since(pod).map_or(least, |since| until(since, least, now)))
}

pub(crate) fn is_available(pod: &Pod, least: Duration, now: Timestamp) -> bool {
    available_in(pod, least, now) == Some(Duration::ZERO)
}

/// Orders pods so that the ones whose loss matters least come first. `related` counts, for each node, the
/// pods of the same application there.
pub(crate) fn least_loss_first(pods: &mut [Arc<Pod>], related: &HashMap<String, usize>, now: Timestamp) {
    pods.sort_by_cached_key(|pod| {
        let ready = is_ready(pod);
        let restarts = pod
            .status
            .as_ref()
            .into_iter()
            .flat_map(|status| {
                status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
            })
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0);
        // Ages are compared by order of magnitude, so that a restart of everything does not decide.
        let ready_age = ready_since(pod).map_or(0, |since| {
            now.duration_since(since).as_secs().max(0).checked_ilog2().map_or(0, |log| log + 1)
        });
        let crowd = node(pod).and_then(|node| related.get(node)).copied().unwrap_or(0);
        (
            node(pod).is_some(),
            match phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            ready,
            deletion_cost(pod),
            Reverse(if ready || node(pod).is_some() { crowd } else { 0 }),
            ready_age,
            Reverse(restarts),
            // The youngest go first.
            Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        )
    });
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Builds the pod that `template` describes, controlled by `owner`. Its name is given by the API server.
pub(crate) fn from_template(template: &PodTemplateSpec, prefix: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, more: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        });
        json_merge(&mut value, more);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn json_merge(into: &mut Value, patch: Value) {
        if let (Value::Object(into), Value::Object(patch)) = (&mut *into, &patch) {
            for (key, value) in patch {
                json_merge(into.entry(key).or_insert(Value::Null), value.clone());
            }
        } else {
            *into = patch;
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_pods_that_matter_least_are_deleted_first() {
        let in_order = [
            pod(
                "unassigned",
                json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "conditions": null}}),
            ),
            pod("pending", json!({"status": {"phase": "Pending", "conditions": null}})),
            pod("not-ready", json!({"status": {"conditions": null}})),
            pod(
                "cheap",
                json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}),
            ),
            pod("crowded", json!({"spec": {"nodeName": "n2"}})),
            pod(
                "just-ready",
                json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:50Z"}]}}),
            ),
            pod(
                "restarting",
                json!({"status": {"containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 9}]}}),
            ),
            pod("young", json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:05Z"}})),
            pod("old", json!({})),
        ];
        let mut shuffled: Vec<_> = in_order.iter().rev().cloned().collect();
        let related = HashMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 2)]);
        least_loss_first(&mut shuffled, &related, now());
        let names =
            |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(names(&shuffled), names(&in_order));
    }

    #[test]
    fn a_pod_is_available_once_it_has_been_ready_long_enough() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let ready = pod("a", json!({}));
        let least = Duration::from_secs(30);
        assert_eq!(available_in(&ready, least, at("2026-01-01T00:00:15Z")), Some(Duration::from_secs(25)));
        assert!(is_available(&ready, least, at("2026-01-01T00:00:40Z")));
        assert!(!is_available(&pod("b", json!({"status": {"conditions": null}})), Duration::ZERO, now()));
    }
}
