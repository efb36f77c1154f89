//! The pod network of a node: an address for each pod, a veth pair that is routed (no bridge), routes to
//! the pods of other nodes, host ports, and masquerading of what leaves the cluster.
//!
//! The node agent's runtime calls [`PodNetwork::attach`] and [`PodNetwork::detach`]; its node informer
//! feeds [`PodNetwork::set_peers`].

mod ipam;
mod link;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::links::{Interface, Links, Route, Via};
use crate::nft::Committer;
use crate::{Error, Protocol, Result, sysctl};
use ipam::Ipam;

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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

/// The pod network of this node. All methods may be called at the same time for different pods.
#[derive(Debug)]
pub struct PodNetwork {
    config: PodNetworkConfig,
    interface: Interface,
    links: Links,
    checkpoint: PathBuf,
    /// Held while the checkpoint is written, so that the file never goes back in time.
    ipam: Mutex<Ipam>,
    /// The writer of the nftables table, and what it renders from.
    rules: Mutex<Rules>,
    /// One caller at a time changes the routes to other nodes.
    peers: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Rules {
    committer: Committer,
    nodes: BTreeSet<Ipv4Addr>,
    ports: BTreeMap<String, (Ipv4Addr, Vec<HostPort>)>,
}

impl PodNetwork {
    /// Prepares the node (forwarding, filters, masquerading) and takes up the addresses that an earlier
    /// process of this node gave out.
    ///
    /// # Errors
    /// When the kernel lacks something, no interface has the node's address, or the checkpoint is unreadable.
    pub async fn open(config: PodNetworkConfig) -> Result<Self> {
        if config.pod_cidr.prefix_len() > 29 {
            return Err(Error::Invalid(format!(
                "the node's pod network {} is too small: it needs at least a /29",
                config.pod_cidr
            )));
        }
        sysctl::prepare_forwarding()?;
        // For host ports and node ports at 127.0.0.1; the table keeps the network away from it.
        sysctl::set("net/ipv4/conf/all/route_localnet", "1", "CONFIG_INET")?;
        let links = Links::open()?;
        let interface = links.interface_with(config.node_ip).await?;

        let checkpoint = config.state_directory.join("pod-addresses.json");
        let mut ipam = match fs_err::read(&checkpoint) {
            Ok(bytes) => Ipam::restore(config.pod_cidr, &bytes).map_err(|error| {
                Error::Invalid(format!(
                    "the checkpoint {} is not readable ({error}); move it away and restart: addresses of \
                     running pods are then taken from the kernel",
                    checkpoint.display()
                ))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Ipam::new(config.pod_cidr),
            Err(error) => return Err(Error::io("reading the checkpoint of pod addresses")(error)),
        };
        for (name, _) in links.all().await? {
            if let Some(address) = link::address_of(&name) {
                ipam.add_stray(address);
            }
        }
        // Packets to pods that are not (or not yet) there end here, instead of leaving by the default route.
        for destination in [config.cluster_pod_cidr.trunc(), config.pod_cidr.trunc()] {
            links.set_route(&Route { destination, via: Via::Unreachable }).await?;
        }
        let ports = ipam.pods().iter().filter(|(_, pod)| !pod.ports.is_empty());
        let ports = ports.map(|(id, pod)| (id.clone(), (pod.address, pod.ports.clone()))).collect();
        let network = Self {
            rules: Mutex::new(Rules { committer: Committer::open()?, nodes: BTreeSet::new(), ports }),
            config,
            interface,
            links,
            checkpoint,
            ipam: Mutex::new(ipam),
            peers: tokio::sync::Mutex::new(()),
        };
        network.update_rules(|_| {})?;
        Ok(network)
    }

    /// Connects the network namespace at `netns` under `id` and returns its addresses. Repeatable: a second
    /// call for the same id gives the same addresses and repairs what is missing.
    ///
    /// # Errors
    /// When no address is free, the namespace is gone, or the kernel refuses. The address stays with the id
    /// until [`Self::detach`].
    pub async fn attach(&self, id: &str, netns: &Path, ports: &[HostPort]) -> Result<Vec<IpAddr>> {
        let unknown = {
            let ipam = self.ipam.lock();
            ipam.get(id).is_none() && !ipam.strays().is_empty()
        };
        let found = if unknown { link::address_in(netns).await? } else { None };
        let address = {
            let mut ipam = self.ipam.lock();
            let before = ipam.get(id).cloned();
            let address = ipam.allocate(id, found, ports)?;
            if ipam.get(id) != before.as_ref() {
                self.save(&ipam)?;
            }
            address
        };
        link::connect(&self.links, &self.config, &self.interface, address, netns).await?;
        let had_ports = self.rules.lock().ports.contains_key(id);
        if !ports.is_empty() || had_ports {
            self.update_rules(|rules| {
                if ports.is_empty() {
                    rules.ports.remove(id);
                } else {
                    rules.ports.insert(id.into(), (address, ports.to_vec()));
                }
            })?;
        }
        Ok(vec![address.into()])
    }

    /// Takes the connection away and frees the addresses. Succeeds when there is none.
    ///
    /// # Errors
    /// When the kernel refuses or the checkpoint cannot be written; the addresses are then not freed.
    pub async fn detach(&self, id: &str) -> Result<()> {
        let Some(attachment) = self.ipam.lock().get(id).cloned() else { return Ok(()) };
        if self.rules.lock().ports.contains_key(id) {
            self.update_rules(|rules| {
                rules.ports.remove(id);
            })?;
        }
        link::disconnect(&self.links, attachment.address).await?;
        let mut ipam = self.ipam.lock();
        ipam.release(id);
        self.save(&ipam)
    }

    /// Returns the addresses of `id`; empty when it is not attached.
    #[must_use]
    pub fn addresses(&self, id: &str) -> Vec<IpAddr> {
        self.ipam.lock().get(id).map(|pod| pod.address.into()).into_iter().collect()
    }

    /// Detaches everything but `ids`: what went away while no agent was running.
    ///
    /// # Errors
    /// As [`Self::detach`]; the rest is then still tried.
    pub async fn retain(&self, ids: &BTreeSet<String>) -> Result<()> {
        let (gone, strays): (Vec<String>, Vec<Ipv4Addr>) = {
            let ipam = self.ipam.lock();
            let gone = ipam.pods().keys().filter(|id| !ids.contains(*id)).cloned().collect();
            (gone, ipam.strays().iter().copied().collect())
        };
        let mut outcome = Ok(());
        for id in gone {
            outcome = outcome.and(self.detach(&id).await);
        }
        for address in strays {
            match link::disconnect(&self.links, address).await {
                Ok(()) => self.ipam.lock().release_stray(address),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Makes the routes to other nodes' pods exactly these (this node's own entry is skipped).
    ///
    /// # Errors
    /// When a node is not on this node's network, or the kernel refuses a route; the others are still set.
    pub async fn set_peers(&self, peers: &[NodeRoute]) -> Result<()> {
        let _turn = self.peers.lock().await;
        let mut outcome = Ok(());
        let mut wanted = BTreeSet::from([
            Route { destination: self.config.cluster_pod_cidr.trunc(), via: Via::Unreachable },
            Route { destination: self.config.pod_cidr.trunc(), via: Via::Unreachable },
        ]);
        let others = || peers.iter().filter(|peer| peer.node_ip != self.config.node_ip);
        for peer in others() {
            if !self.interface.network.contains(&peer.node_ip) {
                outcome = outcome.and(Err(Error::Unsupported(format!(
                    "node {} is outside this node's network {}: pods behind it need an overlay",
                    peer.node_ip,
                    self.interface.network.trunc()
                ))));
                continue;
            }
            let via = Via::Gateway(peer.node_ip, self.interface.index, self.config.node_ip);
            wanted.insert(Route { destination: peer.pod_cidr.trunc(), via });
        }
        let held: BTreeSet<Route> = self
            .links
            .routes()
            .await?
            .into_iter()
            // Other routes of this crate lead to pods here, or to services.
            .filter(|route| !matches!(route.via, Via::Link(..) | Via::OnLink(..)))
            .collect();
        // Routes that go are removed first: a pod network may have moved to another node.
        for route in held.difference(&wanted) {
            outcome = outcome.and(self.links.remove_route(route).await);
        }
        for route in wanted.difference(&held) {
            outcome = outcome.and(self.links.set_route(route).await);
        }
        let nodes: BTreeSet<Ipv4Addr> = others().map(|peer| peer.node_ip).collect();
        outcome.and(self.update_rules(|rules| rules.nodes = nodes))
    }

    fn update_rules(&self, change: impl FnOnce(&mut Rules)) -> Result<()> {
        let mut rules = self.rules.lock();
        change(&mut rules);
        let ports = rules
            .ports
            .values()
            .flat_map(|(address, ports)| ports.iter().map(|port| (*port, *address)))
            .collect();
        let table = rules::render(&self.config, &rules.nodes, &ports);
        rules.committer.commit(table).map(|_| ())
    }

    fn save(&self, ipam: &Ipam) -> Result<()> {
        machinery::files::replace(&self.checkpoint, &ipam.checkpoint()?, machinery::files::PRIVATE)
            .map_err(Error::io(format!("writing {}", self.checkpoint.display())))
    }
}
