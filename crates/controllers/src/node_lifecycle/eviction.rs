//! Takes pods away from nodes with NoExecute taints, as long after the taint as they tolerate it.

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::frame::{Context, Next, Result, absent_is_fine, is_deleting, name, seconds, until};
use crate::pods;

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: Recorder,
}

pub(super) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder("taint-eviction-controller"),
    });
    pods::add_indices(&controller.pods);
    let queue = context.queue();
    let (pods, node_queue) = (controller.pods.clone(), queue.clone());
    controller.nodes.observe(move |delta: &Delta<Node>| {
        let before = delta.old().map(|old| no_execute(old)).unwrap_or_default();
        let now = no_execute(delta.object());
        if before != now {
            for pod in pods.by_index(pods::BY_NODE, name(&**delta.object())) {
                node_queue.add(Key::of(&*pod));
            }
        }
    });
    let (nodes, pod_queue) = (controller.nodes.clone(), queue.clone());
    controller.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        let view = |pod: &Pod| {
            (pods::node(pod).map(str::to_owned), pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()))
        };
        let matters = delta.old().is_none_or(|old| view(old) != view(pod));
        let Some(node) = pods::node(pod) else { return };
        if matters && nodes.find("", node).is_some_and(|node| !no_execute(&node).is_empty()) {
            pod_queue.add(Key::of(&**pod));
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.nodes.wait_synced().await;
            controller.pods.wait_synced().await;
        }
    };
    context.work("taint eviction", 4, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            _ => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        }
}

/// Returns how long the pod may stay: `None` is for good.
fn stay(tolerations: &[Toleration], taints: &[Taint], now: Timestamp) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Some(Duration::ZERO);
        }
        // The shortest of those that set a limit counts.
        if let Some(limit) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min() {
            let since = taint.time_added.as_ref().map_or(now, |time| time.0);
            let left = until(since, seconds(limit.max(0)), now);
            least = Some(least.map_or(left, |least| least.min(left)));
        }
    }
    least
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        if is_deleting(&*pod) {
            return Ok(Next::Done);
        }
        let Some(node) = pods::node(&pod).and_then(|node| self.nodes.find("", node)) else {
            return Ok(Next::Done);
        };
        let taints = no_execute(&node);
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        match stay(&tolerations, &taints, self.context.clock.now()) {
            None => Ok(Next::Done),
            Some(wait) if !wait.is_zero() => Ok(Next::After(wait)),
            Some(_) => self.evict(key, &pod).await,
        }
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<Next> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.event(pod, EventType::Normal, "TaintManagerEviction", message);
        let api = self.context.api::<Pod>(&key.namespace);
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": self.context.now(),
        }] } });
        absent_is_fine(api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        absent_is_fine(api.delete(&key.name, &params).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint: Taint = serde_json::from_value(json!({"key": "node.kubernetes.io/unreachable",
            "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}))
        .unwrap();
        let toleration = |limit: Option<i64>| -> Toleration {
            serde_json::from_value(json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": limit}))
            .unwrap()
        };
        let taints = [taint];
        for (tolerations, expect) in [
            (vec![], Some(0)),
            (vec![toleration(Some(300))], Some(240)),
            (vec![toleration(Some(30))], Some(0)),
            (vec![toleration(None)], None),
            (vec![toleration(None), toleration(Some(300))], Some(240)),
        ] {
            assert_eq!(stay(&tolerations, &taints, now), expect.map(Duration::from_secs), "{tolerations:?}");
        }
        assert_eq!(stay(&[], &[], now), None);
    }
}
