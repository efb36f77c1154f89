//! Gives every node its part of the pod network (`spec.podCIDR`).

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::{Delta, EventType, Informer, Key, Recorder};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::frame::{Context, Error, Next, Result, is_deleting};

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    recorder: Recorder,
    /// What was given out, also before the cache shows it.
    given: parking_lot::Mutex<HashSet<Ipv4Net>>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes: context.informers.of(),
        recorder: context.recorder("cidrAllocator"),
        given: parking_lot::Mutex::default(),
    });
    let queue = context.queue();
    let (seen, node_queue) = (controller.clone(), queue.clone());
    controller.nodes.observe(move |delta: &Delta<Node>| {
        let own = networks(delta.object());
        match delta {
            Delta::Deleted(_) => {
                let mut given = seen.given.lock();
                for network in own {
                    given.remove(&network);
                }
            }
            _ if own.is_empty() => node_queue.add(Key::of(&**delta.object())),
            _ => seen.given.lock().extend(own),
        }
    });
    let ready = {
        let nodes = controller.nodes.clone();
        async move { nodes.wait_synced().await }
    };
    // One worker: two could choose the same network.
    context.work("node networks", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn networks(node: &Node) -> Vec<Ipv4Net> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let mut networks: Vec<Ipv4Net> =
        spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).filter_map(|text| text.parse().ok()).collect();
    networks.dedup();
    networks
}

/// Returns the first part of `network` that is free. A node whose name is an address gets the part with the
/// number of the address's last byte if that is free, so that a cluster made twice is numbered the same.
fn choose(network: Ipv4Net, prefix: u8, node: &str, given: &HashSet<Ipv4Net>) -> Option<Ipv4Net> {
    let prefix = prefix.max(network.prefix_len());
    let is_free = |candidate: &Ipv4Net| !given.contains(candidate);
    let favourite = node
        .parse::<Ipv4Addr>()
        .ok()
        .and_then(|address| network.subnets(prefix).ok()?.nth(usize::from(address.octets()[3])));
    favourite.filter(is_free).or_else(|| network.subnets(prefix).ok()?.find(is_free))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Done) };
        if is_deleting(&*node) || !networks(&node).is_empty() {
            return Ok(Next::Done);
        }
        let config = &self.context.config;
        let chosen = {
            let mut given = self.given.lock();
            let chosen = choose(config.pod_network, config.node_prefix, &key.name, &given);
            given.extend(chosen);
            chosen
        };
        let Some(chosen) = chosen else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&*node, EventType::Normal, "CIDRNotAvailable", message);
            let network = config.pod_network;
            return Err(Error::Other(format!("no part of the pod network {network} is left for node {key}")));
        };
        let patch = json!({
            "metadata": { "uid": node.metadata.uid },
            "spec": { "podCIDR": chosen, "podCIDRs": [chosen] },
        });
        let api = self.context.cluster_api::<Node>();
        if let Err(error) = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            self.given.lock().remove(&chosen);
            return Err(error.into());
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_the_part_with_its_own_number_or_the_first_free_one() {
        let network: Ipv4Net = "10.2.0.0/16".parse().unwrap();
        let given = HashSet::from(["10.2.0.0/24".parse().unwrap(), "10.2.202.0/24".parse().unwrap()]);
        for (node, expect) in [
            ("172.17.4.201", Some("10.2.201.0/24")),
            ("172.17.4.202", Some("10.2.1.0/24")),
            ("worker", Some("10.2.1.0/24")),
        ] {
            assert_eq!(
                choose(network, 24, node, &given).map(|net| net.to_string()).as_deref(),
                expect,
                "{node}"
            );
        }
        let small: Ipv4Net = "10.2.0.0/24".parse().unwrap();
        assert_eq!(choose(small, 24, "worker", &given), None);
    }
}
