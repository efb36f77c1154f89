//! Moves the pods of a node elsewhere, as `kubectl drain` does: cordon, evict, wait until they are gone.

use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use machinery::clock;
use machinery::names::Random;
use machinery::retry::{self, Attempt, Backoff};
use serde_json::json;

use crate::error::{Context, Error, Result};

/// Marks the copy that the API has of a pod that a node runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What to do with pods that no controller makes again elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// Refuse, naming them: evicting one ends it for good.
    Refuse,
    /// Leave them where they are.
    Leave,
    /// Evict them.
    End,
}

/// Keeps new pods away from a node, or no longer; returns whether that was so before.
///
/// # Errors
/// A node that is not registered, or an API that does not answer.
pub(super) async fn cordon(client: &Client, node: &str, unschedulable: bool) -> Result<bool> {
    let nodes: Api<Node> = Api::all(client.clone());
    let doing = format!("cordoning the node {node}");
    let before = nodes.get(node).await.context(&doing)?;
    let was = before.spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
    if was != unschedulable {
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": unschedulable } }));
        nodes.patch(node, &PatchParams::default(), &patch).await.context(&doing)?;
    }
    Ok(was)
}

/// Evicts the pods of a node and waits until they are gone. Disruption budgets are kept: what one forbids is tried
/// again.
///
/// # Errors
/// Pods that nothing makes again, when they are refused; pods that are still there at `deadline`.
pub(super) async fn evict(client: &Client, node: &str, bare: Bare, deadline: Instant) -> Result<()> {
    let pods: Api<Pod> = Api::all(client.clone());
    let on_node = format!("spec.nodeName={node}");
    let list = pods
        .list(&ListParams::default().fields(&on_node))
        .await
        .context(format!("listing the pods of {node}"))?;
    let mut moving = Vec::new();
    let mut refused = Vec::new();
    for pod in list.items {
        match judge(&pod) {
            Fate::Stays => {}
            Fate::Moves => moving.push(pod),
            Fate::Bare => match bare {
                Bare::Refuse => refused.push(named(&pod)),
                Bare::Leave => {}
                Bare::End => moving.push(pod),
            },
        }
    }
    if !refused.is_empty() {
        return Err(Error::user(format!("{node} has pods that no controller would make again elsewhere"))
            .because(refused.join(", "))
            .hint("delete them first, or give --force to lose them"));
    }
    let each = moving.iter().map(|pod| evict_one(client, pod, deadline));
    futures::future::join_all(each).await.into_iter().collect::<Result<Vec<()>>>()?;
    gone(&pods, &on_node, moving.iter().map(named).collect(), node, deadline).await
}

/// What becomes of a pod when its node is drained.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It belongs to the node.
    Stays,
    /// Its controller makes another one.
    Moves,
    /// Nobody makes another one.
    Bare,
}

fn judge(pod: &Pod) -> Fate {
    if pod.annotations().contains_key(MIRROR) {
        return Fate::Stays;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    match controller {
        Some(owner) if owner.kind == "DaemonSet" => Fate::Stays,
        Some(_) => Fate::Moves,
        None if ended => Fate::Moves,
        None => Fate::Bare,
    }
}

fn named(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

async fn evict_one(client: &Client, pod: &Pod, deadline: Instant) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let left = deadline.saturating_duration_since(Instant::now());
    let what = format!("the eviction of {}", named(pod));
    let attempt = async || match api.evict(&pod.name_any(), &EvictParams::default()).await {
        Ok(_) => Attempt::Done(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Attempt::Done(()),
        // A disruption budget says when: later.
        Err(kube::Error::Api(status)) if status.code == 429 => Attempt::Again(status.message.clone()),
        Err(error) => Attempt::Fatal(error),
    };
    retry::until(&what, left, Backoff::PATIENT, &*clock::system(), &Random::from_os(), attempt).await?;
    Ok(())
}

/// Watches until none of the pods is on the node any more.
async fn gone(
    pods: &Api<Pod>,
    on_node: &str,
    mut left: Vec<String>,
    node: &str,
    deadline: Instant,
) -> Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let watching = async {
        let stream = watcher(pods.clone(), watcher::Config::default().fields(on_node));
        futures::pin_mut!(stream);
        let mut listed = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => listed.push(named(&pod)),
                Ok(watcher::Event::InitDone) => left.retain(|pod| listed.contains(pod)),
                Ok(watcher::Event::Delete(pod)) => left.retain(|other| *other != named(&pod)),
                // A watch that fails is begun again by the watcher.
                Ok(watcher::Event::Apply(_)) | Err(_) => {}
            }
            if left.is_empty() {
                return;
            }
        }
    };
    let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    if tokio::time::timeout(patience, watching).await.is_ok() && left.is_empty() {
        return Ok(());
    }
    Err(Error::user(format!("pods are still on {node}"))
        .because(left.join(", "))
        .hint("`kubectl describe pod` says why; give more time by --wait SECONDS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_of_a_drained_node_have_the_fates_that_kubectl_gives_them() {
        let owned = |kind: &str| {
            pod(json!({ "metadata": { "name": "p", "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "controller": true }] } }))
        };
        assert_eq!(judge(&owned("DaemonSet")), Fate::Stays);
        assert_eq!(judge(&owned("ReplicaSet")), Fate::Moves);
        assert_eq!(judge(&pod(json!({ "metadata": { "name": "p" } }))), Fate::Bare);
        let ended = json!({ "metadata": { "name": "p" }, "status": { "phase": "Succeeded" } });
        assert_eq!(judge(&pod(ended)), Fate::Moves);
        let mirror = json!({ "metadata": { "name": "p", "annotations": { (MIRROR): "x" } } });
        assert_eq!(judge(&pod(mirror)), Fate::Stays);
    }
}
