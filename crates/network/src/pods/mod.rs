//! The pod network of a node: an address for each pod, a veth pair that is routed (no bridge), routes to
//! the pods of other nodes, host ports, and masquerading of what leaves the cluster.
//!
//! The node agent's runtime calls [`PodNetwork::attach`] and [`PodNetwork::detach`]; its node informer
//! feeds [`PodNetwork::set_peers`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{Error, Protocol, Result};

/// What the pod network of a node is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkConfig {
    /// Where this node's pods get their addresses (`spec.podCIDR`).
    pub pod_cidr: Ipv4Net,
    /// Where all pods of the cluster get theirs.
    pub cluster_pod_cidr: Ipv4Net,
    /// The node's address; the interface that has it carries traffic to other nodes.
    pub node_ip: Ipv4Addr,
    /// Where the checkpoint of given addresses is kept.
    pub state_directory: PathBuf,
}

/// Another node and the pods behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeRoute {
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// Its pod network.
    pub pod_cidr: Ipv4Net,
}

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The node's address it is limited to; `None` is every one of its addresses.
    pub host_ip: Option<Ipv4Addr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// The pod network of this node.
#[derive(Debug)]
pub struct PodNetwork {
    config: PodNetworkConfig,
}

impl PodNetwork {
    /// Prepares the node (forwarding, filters, masquerading) and takes up the addresses that an earlier
    /// process of this node gave out.
    ///
    /// # Errors
    /// When the kernel lacks something, no interface has the node's address, or the checkpoint is unreadable.
    pub async fn open(config: PodNetworkConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// Connects the network namespace at `netns` under `id` and returns its addresses. Repeatable: a second
    /// call for the same id gives the same addresses and repairs what is missing.
    ///
    /// # Errors
    /// When no address is free, the namespace is gone, or the kernel refuses.
    pub async fn attach(&self, id: &str, netns: &Path, ports: &[HostPort]) -> Result<Vec<IpAddr>> {
        Err(Error::Unsupported(format!("attaching {id} at {} with {} ports", netns.display(), ports.len())))
    }

    /// Takes the connection away and frees the addresses. Succeeds when there is none.
    ///
    /// # Errors
    /// When the kernel refuses or the checkpoint cannot be written; the addresses are then not freed.
    pub async fn detach(&self, id: &str) -> Result<()> {
        Err(Error::Unsupported(format!("detaching {id}")))
    }

    /// Returns the addresses of `id`; empty when it is not attached.
    #[must_use]
    pub fn addresses(&self, _id: &str) -> Vec<IpAddr> {
        Vec::new()
    }

    /// Detaches everything but `ids`: what went away while no agent was running.
    ///
    /// # Errors
    /// As [`Self::detach`]; the rest is then still tried.
    pub async fn retain(&self, ids: &BTreeSet<String>) -> Result<()> {
        Err(Error::Unsupported(format!("keeping {} pods", ids.len())))
    }

    /// Makes the routes to other nodes' pods exactly these (this node's own entry is skipped).
    ///
    /// # Errors
    /// When a node is not on this node's network, or the kernel refuses a route.
    pub async fn set_peers(&self, peers: &[NodeRoute]) -> Result<()> {
        Err(Error::Unsupported(format!("{} routes beside {}", peers.len(), self.config.node_ip)))
    }
}
