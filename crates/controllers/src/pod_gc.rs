//! Removes pods that nobody else will: those of nodes that are gone, and too many that have ended.

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::frame::{Context, Next, Result, absent_is_fine, is_deleting, name};
use crate::pods;

/// How long a node has to be away before its pods are given up.
const QUARANTINE: Duration = Duration::from_secs(40);
/// How many ended pods may stay.
const ENDED: usize = 12_500;

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
    });
    pods::add_indices(&controller.pods);
    let queue = context.queue();
    let (nodes, pod_queue) = (controller.nodes.clone(), queue.clone());
    controller.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        if matches!(delta, Delta::Deleted(_)) {
            return;
        }
        match pods::node(pod) {
            None if is_deleting(&**pod) => pod_queue.add(Key::of(&**pod)),
            // A node that was never there, or went before the pod came.
            Some(node) if nodes.is_synced() && nodes.find("", node).is_none() => {
                pod_queue.add_after(Key::of(&**pod), QUARANTINE);
            }
            _ => {}
        }
        if pods::is_finished(pod) && delta.old().is_none_or(|old| !pods::is_finished(old)) {
            pod_queue.add(Key::cluster(""));
        }
    });
    let (pods, node_queue) = (controller.pods.clone(), queue.clone());
    controller.nodes.observe(move |delta: &Delta<Node>| {
        if let Delta::Deleted(node) = delta {
            for pod in pods.by_index(pods::BY_NODE, name(&**node)) {
                node_queue.add_after(Key::of(&*pod), QUARANTINE);
            }
        }
    });
    let ready = {
        let (controller, queue) = (controller.clone(), queue.clone());
        async move {
            controller.pods.wait_synced().await;
            controller.nodes.wait_synced().await;
            for pod in controller.pods.all() {
                if pods::node(&pod).is_some_and(|node| controller.nodes.find("", node).is_none()) {
                    queue.add_after(Key::of(&*pod), QUARANTINE);
                }
            }
        }
    };
    context.work("pod garbage collector", 2, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        if key.name.is_empty() {
            return self.remove_ended().await;
        }
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        match pods::node(&pod) {
            None if is_deleting(&*pod) => self.remove(&pod).await?,
            Some(node) if self.nodes.find("", node).is_none() => {
                if !pods::is_finished(&pod) {
                    self.give_up(&pod).await?;
                }
                self.remove(&pod).await?;
            }
            _ => {}
        }
        Ok(Next::Done)
    }

    async fn give_up(&self, pod: &Pod) -> Result<()> {
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": {
            "phase": "Failed",
            "conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": self.context.now(),
            }],
        } });
        let api = self.context.api::<Pod>(crate::frame::namespace(pod));
        absent_is_fine(api.patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        Ok(())
    }

    async fn remove(&self, pod: &Pod) -> Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let api = self.context.api::<Pod>(crate::frame::namespace(pod));
        absent_is_fine(api.delete(name(pod), &params).await)?;
        Ok(())
    }

    /// Removes the oldest ended pods beyond what may stay.
    async fn remove_ended(&self) -> Result<Next> {
        let mut ended: Vec<_> = self
            .pods
            .all()
            .into_iter()
            .filter(|pod| pods::is_finished(pod) && !is_deleting(&**pod))
            .collect();
        let excess = ended.len().saturating_sub(ENDED);
        if excess > 0 {
            ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
            for pod in ended.into_iter().take(excess) {
                self.remove(&pod).await?;
            }
        }
        Ok(Next::Done)
    }
}
