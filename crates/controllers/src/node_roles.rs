//! Marks the nodes that serve the API with the role label `node-role.kubernetes.io/control-plane`.
//!
//! A node may not give itself a role (NodeRestriction), and nobody needs to: a node is a master when its
//! address is among the endpoints of the service `default/kubernetes`.

use std::sync::Arc;

use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{Endpoints, Node};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::frame::{Context, Next, Result, is_deleting};

const LABEL: &str = "node-role.kubernetes.io/control-plane";

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    endpoints: Informer<Endpoints>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes: context.informers.of(),
        endpoints: context.informers.of(),
    });
    let queue = context.queue();
    let node_queue = queue.clone();
    controller.nodes.observe(move |delta: &Delta<Node>| {
        if !matches!(delta, Delta::Deleted(_)) && !is_marked(delta.object()) {
            node_queue.add(Key::of(&**delta.object()));
        }
    });
    let (seen, node_queue) = (controller.clone(), queue.clone());
    controller.endpoints.observe(move |delta: &Delta<Endpoints>| {
        let key = Key::of(&**delta.object());
        if key == Key::new("default", "kubernetes") {
            for node in seen.nodes.all() {
                node_queue.add(Key::of(&*node));
            }
        }
    });
    let ready = {
        let (nodes, endpoints) = (controller.nodes.clone(), controller.endpoints.clone());
        async move {
            nodes.wait_synced().await;
            endpoints.wait_synced().await;
        }
    };
    context.work("node roles", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn is_marked(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL))
}

/// Whether one of the node's internal addresses is an address of the API's own endpoints.
fn serves_the_api(node: &Node, endpoints: &Endpoints) -> bool {
    let own = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal =
        own.filter(|address| address.type_ == "InternalIP").map(|address| address.address.as_str());
    let serving: Vec<&str> = endpoints
        .subsets
        .iter()
        .flatten()
        .flat_map(|subset| subset.addresses.iter().flatten())
        .map(|address| address.ip.as_str())
        .collect();
    internal.into_iter().any(|address| serving.contains(&address))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Done) };
        let Some(endpoints) = self.endpoints.get(&Key::new("default", "kubernetes")) else {
            return Ok(Next::Done);
        };
        if is_deleting(&*node) || is_marked(&node) || !serves_the_api(&node, &endpoints) {
            return Ok(Next::Done);
        }
        let patch = json!({ "metadata": { "uid": node.metadata.uid, "labels": { LABEL: "" } } });
        let api = self.context.cluster_api::<Node>();
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_master_when_the_api_is_at_its_address() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "subsets": [{"addresses": [{"ip": "172.17.4.101"}, {"ip": "172.17.4.102"}]}],
        }))
        .unwrap();
        for (address, kind, expected) in [
            ("172.17.4.102", "InternalIP", true),
            ("172.17.4.102", "ExternalIP", false),
            ("172.17.4.201", "InternalIP", false),
        ] {
            let node = serde_json::from_value(json!({
                "status": {"addresses": [{"type": kind, "address": address}]},
            }));
            assert_eq!(serves_the_api(&node.unwrap(), &endpoints), expected, "{address} {kind}");
        }
    }
}
