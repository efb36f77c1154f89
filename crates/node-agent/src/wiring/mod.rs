//! The node's network, fed from the API: pod network, service proxy, cluster DNS, load-balancer addresses.
//! The tables are made by pure functions; each loop makes its table anew after a change, as often as it can.

mod attach;
mod tables;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::{Informer, Informers};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use machinery::retry::Backoff;
use network::dns::{DnsConfig, DnsServer, Zone};
use network::loadbalancer::LoadBalancerAddresses;
use network::pods::{PodNetwork, PodNetworkConfig};
use network::proxy::{ProxyConfig, ServiceProxy};
use tokio::sync::{Notify, watch};

pub(crate) use attach::{NodeNetwork, Opened};

use crate::agent::Agent;
use crate::node::Health;

/// The least time between two tables: a burst of changes becomes one.
const COALESCE: Duration = Duration::from_millis(20);
/// How long an upstream name server may take.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// What the loops read.
#[derive(Clone)]
pub(crate) struct Feeds {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
}

impl Feeds {
    /// Starts the informers.
    pub(crate) fn start(informers: &Informers) -> Self {
        Self {
            services: informers.of(),
            slices: informers.of(),
            nodes: informers.of(),
            namespaces: informers.of(),
        }
    }

    /// Returns the nodes of the cluster.
    pub(crate) fn nodes(&self) -> Informer<Node> {
        self.nodes.clone()
    }
}

/// Returns a bell that rings whenever one of `informer`'s objects changes.
fn ring<K: Send + Sync + 'static>(informer: &Informer<K>, bell: &Arc<Notify>) {
    let bell = bell.clone();
    informer.observe(move |_| bell.notify_one());
}

/// Opens the pod network as soon as the node has its part of the pod addresses, and keeps its routes.
/// The node becomes ready with it.
pub(crate) async fn pod_network(
    agent: Arc<Agent>,
    feeds: Feeds,
    opened: Opened,
    health: watch::Sender<Health>,
) {
    let bell = Arc::new(Notify::new());
    ring(&feeds.nodes, &bell);
    let cidr = loop {
        if let Some(cidr) =
            feeds.nodes.find("", &agent.config.node_name).and_then(|node| tables::pod_cidr(&node))
        {
            break cidr;
        }
        bell.notified().await;
    };
    let mut failures = 0;
    let network = loop {
        match open(&agent, cidr).await {
            Ok(network) => break network,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "opening the pod network");
                health.send_modify(|health| {
                    health.not_ready = Some(format!(
                        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{error:#}"
                    ));
                });
                agent.clock.after(Backoff::PATIENT.delay(failures, &agent.random)).await;
                failures += 1;
            }
        }
    };
    opened.send_replace(Some(network.clone()));
    health.send_modify(|health| health.not_ready = None);
    tracing::info!(%cidr, "the pod network is open");
    let mut last = None;
    let mut failures = 0;
    loop {
        let peers = tables::peers(&feeds.nodes.all(), &agent.config.node_name);
        if last.as_ref() != Some(&peers) {
            match network.set_peers(&peers).await {
                Ok(()) => {
                    last = Some(peers);
                    failures = 0;
                }
                Err(error) => {
                    tracing::warn!(%error, "setting the routes to other nodes' pods");
                    failures += 1;
                }
            }
        }
        pause(&agent, &bell, failures).await;
    }
}

/// Waits for the next change, or for the next try after a failure.
async fn pause(agent: &Agent, bell: &Notify, failures: u32) {
    if failures == 0 {
        bell.notified().await;
        return;
    }
    let wait = Backoff::PATIENT.delay(failures - 1, &agent.random);
    tokio::select! {
        () = bell.notified() => {}
        () = agent.clock.after(wait) => {}
    }
}

async fn open(agent: &Agent, cidr: Ipv4Net) -> anyhow::Result<Arc<PodNetwork>> {
    let network = PodNetwork::open(PodNetworkConfig {
        pod_cidr: cidr,
        cluster_pod_cidr: agent.config.pod_network,
        node_ip: agent.config.node_ip,
        state_directory: agent.config.data_directory.join("network"),
    })
    .await?;
    let sandboxes = agent.runtime.list_sandboxes().await.context("listing sandboxes")?;
    let ids = sandboxes.into_iter().map(|sandbox| sandbox.id).collect();
    network.retain(&ids).await.context("freeing addresses of pods that are gone")?;
    Ok(Arc::new(network))
}

/// Keeps the service proxy current.
pub(crate) async fn proxy(agent: Arc<Agent>, feeds: Feeds) {
    let config = ProxyConfig {
        cluster_pod_cidr: agent.config.pod_network,
        service_cidr: agent.config.service_network,
        node_ip: agent.config.node_ip,
        local_addresses: vec![agent.config.dns_address],
    };
    let mut failures = 0;
    let proxy = loop {
        match ServiceProxy::open(config.clone()).await {
            Ok(proxy) => break proxy,
            Err(error) => failed(&agent, "opening the service proxy", &error, &mut failures).await,
        }
    };
    feeds.services.wait_synced().await;
    feeds.slices.wait_synced().await;
    let bell = Arc::new(Notify::new());
    ring(&feeds.services, &bell);
    ring(&feeds.slices, &bell);
    let mut failures = 0;
    loop {
        let table = tables::services(&feeds.services.all(), &feeds.slices.all(), &agent.config.node_name);
        match proxy.sync(&table).await {
            Ok(report) => {
                failures = 0;
                if report.changes > 0 {
                    tracing::debug!(services = table.services.len(), ?report, "the service proxy was told");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "telling the service proxy");
                failures += 1;
            }
        }
        agent.clock.after(COALESCE).await;
        pause(&agent, &bell, failures).await;
    }
}

/// Keeps cluster DNS current.
pub(crate) async fn dns(agent: Arc<Agent>, feeds: Feeds) {
    let address = agent.config.dns_address;
    let upstreams = match network::dns::upstreams(Path::new("/etc/resolv.conf"), &[address]) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "no upstream name servers");
            Vec::new()
        }
    };
    let config = DnsConfig { listen: vec![SocketAddr::from((address, 53))], upstreams, timeout: DNS_TIMEOUT };
    let (zones, zone) = watch::channel(Arc::new(Zone::default()));
    let bell = Arc::new(Notify::new());
    feeds.services.wait_synced().await;
    feeds.slices.wait_synced().await;
    feeds.namespaces.wait_synced().await;
    ring(&feeds.services, &bell);
    ring(&feeds.slices, &bell);
    ring(&feeds.namespaces, &bell);
    let build = || {
        let mut zone = tables::zone(
            &feeds.services.all(),
            &feeds.slices.all(),
            &feeds.namespaces.all(),
            &agent.config.cluster_domain,
            address,
        );
        zone.networks = vec![agent.config.pod_network, agent.config.service_network];
        zone
    };
    zones.send_replace(Arc::new(build()));
    let mut failures = 0;
    let server = loop {
        let started = match network::dns::claim_address(address).await {
            Ok(()) => DnsServer::start(config.clone(), zone.clone(), &agent.tasks).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(server) => break server,
            Err(error) => failed(&agent, "starting cluster DNS", &error, &mut failures).await,
        }
    };
    tracing::info!(addresses = ?server.addresses(), "cluster DNS answers");
    loop {
        bell.notified().await;
        let next = build();
        zones.send_if_modified(|zone| {
            let changed = **zone != next;
            if changed {
                *zone = Arc::new(next);
            }
            changed
        });
        agent.clock.after(COALESCE).await;
    }
}

/// Keeps the load-balancer addresses that this node answers for current.
pub(crate) async fn load_balancer(agent: Arc<Agent>, feeds: Feeds) {
    let node_ip = agent.config.node_ip;
    let mut failures = 0;
    let addresses = loop {
        match LoadBalancerAddresses::open(node_ip).await {
            Ok(addresses) => break addresses,
            Err(error) => failed(&agent, "finding the node's interface", &error, &mut failures).await,
        }
    };
    feeds.services.wait_synced().await;
    feeds.slices.wait_synced().await;
    feeds.nodes.wait_synced().await;
    let bell = Arc::new(Notify::new());
    ring(&feeds.services, &bell);
    ring(&feeds.nodes, &bell);
    ring(&feeds.slices, &bell);
    let mut last = None;
    let mut failures = 0;
    loop {
        let claims = tables::claims(
            &feeds.services.all(),
            &feeds.slices.all(),
            &feeds.nodes.all(),
            &agent.config.node_name,
        );
        if last.as_ref() != Some(&claims) {
            match addresses.set(&claims).await {
                Ok(()) => {
                    failures = 0;
                    last = Some(claims);
                }
                Err(error) => {
                    tracing::warn!(%error, "claiming load-balancer addresses");
                    failures += 1;
                }
            }
        }
        agent.clock.after(COALESCE).await;
        pause(&agent, &bell, failures).await;
    }
}

/// Says why something did not work and waits before it is tried again.
async fn failed(agent: &Agent, what: &str, error: &network::Error, failures: &mut u32) {
    tracing::error!(%error, "{what}");
    agent.clock.after(Backoff::PATIENT.delay(*failures, &agent.random)).await;
    *failures += 1;
}
