//! Notices nodes that have fallen silent, keeps every node's taints, and tells pods that their node is not ready.
//!
//! A node is heard when its lease or its status changes. The moment of hearing counts, on this clock: the
//! nodes' clocks may be wrong. A node costs one wake-up in each grace period while it is well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::taints;
use crate::frame::{Context, Next, Result, absent_is_fine, is_deleting, name, namespace, until};
use crate::pods;

/// How long a node may be silent.
const GRACE: Duration = Duration::from_secs(40);
/// How long a node may take to speak for the first time.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
const LEASES: &str = "kube-node-lease";

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    recorder: Recorder,
    heard: parking_lot::Mutex<HashMap<Key, Timestamp>>,
}

pub(super) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes: context.informers.of(),
        pods: context.informers.of(),
        leases: context
            .informers
            .start(Api::namespaced(context.client.clone(), LEASES), client::Selection::default()),
        recorder: context.recorder("node-controller"),
        heard: parking_lot::Mutex::default(),
    });
    pods::add_indices(&controller.pods);
    let queue = context.queue();
    let (hearing, node_queue) = (controller.clone(), queue.clone());
    controller.nodes.observe(move |delta: &Delta<Node>| {
        let node = delta.object();
        let key = Key::of(&**node);
        match delta {
            Delta::Deleted(_) => {
                hearing.heard.lock().remove(&key);
                let message = format!("Node {} event: Removing Node {} from Controller", key.name, key.name);
                hearing.recorder.event(&**node, EventType::Normal, "RemovingNode", message);
                return;
            }
            Delta::Added(_) => {
                let message = format!("Node {} event: Registered Node {} in Controller", key.name, key.name);
                hearing.recorder.event(&**node, EventType::Normal, "RegisteredNode", message);
                hearing.hear(key.clone());
            }
            Delta::Updated { old, new } => {
                if heartbeat(old) != heartbeat(new) {
                    hearing.hear(key.clone());
                }
            }
        }
        node_queue.add(key);
    });
    let hearing = controller.clone();
    controller.leases.observe(move |delta| {
        // The moments are noted; the node's own timer looks at them when it is due.
        if !matches!(delta, Delta::Deleted(_)) {
            hearing.hear(Key::cluster(name(&**delta.object())));
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.nodes.wait_synced().await;
            controller.pods.wait_synced().await;
            controller.leases.wait_synced().await;
        }
    };
    context.work("node lifecycle", 2, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|one| one.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Returns the conditions of a node that has fallen silent.
fn silent(node: &Node, now: &Time) -> Vec<NodeCondition> {
    let status = node.status.clone().unwrap_or_default();
    let known = status.conditions.unwrap_or_default();
    ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .filter_map(|kind| {
            let current = known.iter().find(|one| one.type_ == kind);
            if current.is_some_and(|current| current.status == "Unknown") {
                return None;
            }
            let (reason, message) = match current {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            Some(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: current
                    .and_then(|current| current.last_heartbeat_time.clone())
                    .or_else(|| node.metadata.creation_timestamp.clone()),
                last_transition_time: Some(now.clone()),
            })
        })
        .collect()
}

impl Controller {
    fn hear(&self, key: Key) {
        self.heard.lock().insert(key, self.context.clock.now());
    }

    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Done) };
        if is_deleting(&*node) {
            return Ok(Next::Done);
        }
        let now = self.context.clock.now();
        let heard = *self.heard.lock().entry(key.clone()).or_insert(now);
        let grace = if taints::condition(&node, "Ready").is_some() { GRACE } else { STARTUP_GRACE };
        let wait = until(heard, grace, now);
        let mut current = (*node).clone();
        if wait.is_zero() {
            let conditions = silent(&node, &self.context.now());
            if !conditions.is_empty() {
                let patch = json!({ "metadata": { "uid": node.metadata.uid }, "status": { "conditions": conditions } });
                let api = self.context.cluster_api::<Node>();
                let patched =
                    api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                let Some(patched) = absent_is_fine(patched)? else { return Ok(Next::Done) };
                let message = format!("Node {} status is now: NodeNotReady", key.name);
                self.recorder.event(&*node, EventType::Normal, "NodeNotReady", message);
                current = patched;
            }
        }
        self.set_taints(&current).await?;
        if taints::condition(&current, "Ready").is_some_and(|ready| ready != "True") {
            self.set_pods_not_ready(&key.name).await?;
        }
        Ok(if wait.is_zero() { Next::Done } else { Next::After(wait) })
    }

    async fn set_taints(&self, node: &Node) -> Result<()> {
        let Some(wanted) = taints::wanted(node, &self.context.now()) else { return Ok(()) };
        // Taints are one list: nobody else's change of it may be lost.
        let patch = json!({
            "metadata": { "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": wanted },
        });
        let api = self.context.cluster_api::<Node>();
        absent_is_fine(api.patch(name(node), &PatchParams::default(), &Patch::Merge(patch)).await)?;
        Ok(())
    }

    async fn set_pods_not_ready(&self, node: &str) -> Result<()> {
        for pod in self.pods.by_index(pods::BY_NODE, node) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [{
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": self.context.now(),
            }] } });
            let api = self.context.api::<Pod>(namespace(&*pod));
            absent_is_fine(
                api.patch_status(name(&*pod), &PatchParams::default(), &Patch::Strategic(patch)).await,
            )?;
            self.recorder.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_unknown_once_and_remembers_whether_it_ever_spoke() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let node: Node = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "Unknown"}]}}))
        .unwrap();
        let texts: Vec<_> =
            silent(&node, &now).into_iter().map(|one| (one.type_, one.reason.unwrap_or_default())).collect();
        let expect = [
            ("Ready", "NodeStatusUnknown"),
            ("DiskPressure", "NodeStatusNeverUpdated"),
            ("PIDPressure", "NodeStatusNeverUpdated"),
        ];
        assert_eq!(texts, expect.map(|(kind, reason)| (kind.to_owned(), reason.to_owned())));
    }
}
