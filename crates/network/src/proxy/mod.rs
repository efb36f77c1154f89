//! The service proxy: cluster IPs, node ports, external and load-balancer addresses, by one nftables table.
//!
//! The node agent hands a whole [`ServiceTable`] to [`ServiceProxy::sync`] whenever services or endpoints
//! changed; the kernel is told the difference, in one transaction.

mod model;
mod render;
mod stale;

pub use model::{Endpoint, Service, ServicePort, ServiceTable};

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use parking_lot::Mutex;

use crate::links::{Links, Route, Via};
use crate::nft::Committer;
use crate::{Error, Result, conntrack, sysctl};
use render::UdpEntries;
use stale::is_stale;

/// What the proxy must know of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where all pods of the cluster get their addresses.
    pub cluster_pod_cidr: Ipv4Net,
    /// Where services get their cluster IPs.
    pub service_cidr: Ipv4Net,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// Cluster IPs that this node answers itself, such as the DNS server's: never translated.
    pub local_addresses: Vec<Ipv4Addr>,
}

/// What a sync did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Changes sent to the kernel; zero when nothing differed.
    pub changes: usize,
    /// Stale connection-tracking entries that were removed.
    pub flushed: usize,
}

/// The proxy of this node.
#[derive(Debug)]
pub struct ServiceProxy {
    config: ProxyConfig,
    // Shared with the blocking thread that talks to the kernel. One sync at a time.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    committer: Committer,
    udp: Option<UdpEntries>,
}

impl ServiceProxy {
    /// Prepares the node. Rules of an earlier process stay in force until the first [`Self::sync`] replaces
    /// them at once.
    ///
    /// # Errors
    /// When the kernel lacks something that is needed, or no interface has the node's address.
    pub async fn open(config: ProxyConfig) -> Result<Self> {
        sysctl::prepare_forwarding()?;
        let links = Links::open()?;
        let interface = links.interface_with(config.node_ip).await?;
        // Packets to services must be routable to get as far as the translation; what is not translated is
        // refused or dropped by the table before it can leave.
        let via = Via::Link(interface.index, config.node_ip);
        links.set_route(&Route { destination: config.service_cidr.trunc(), via }).await?;
        let state = State { committer: Committer::open()?, udp: None };
        Ok(Self { config, state: Arc::new(Mutex::new(state)) })
    }

    /// Makes the kernel's rules those of `table`, in one transaction; an error leaves the old rules in force.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn sync(&self, table: &ServiceTable) -> Result<SyncReport> {
        let rendered = render::render(&self.config, table);
        let udp = render::udp_entries(table);
        let state = self.state.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut state = state.lock();
            let changes = state.committer.commit(rendered)?;
            // At the first sync every entry is looked at: an earlier process may have left some.
            let before = state.udp.replace(udp.clone());
            let flushed = if before.as_ref() == Some(&udp) {
                0
            } else {
                let before = before.unwrap_or_default();
                conntrack::remove(|connection| is_stale(connection, &before, &udp)).unwrap_or_else(|error| {
                    // The rules stand; old UDP clients reach the right endpoint once they pause.
                    tracing::warn!(%error, "stale UDP connections stay until they time out");
                    0
                })
            };
            Ok(SyncReport { changes, flushed })
        });
        work.await.map_err(|error| Error::Kernel {
            context: "changing the rules of services".into(),
            reason: error.to_string(),
        })?
    }
}
