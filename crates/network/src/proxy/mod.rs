//! The service proxy: cluster IPs, node ports, external and load-balancer addresses, by one nftables table.
//!
//! The node agent hands a whole [`ServiceTable`] to [`ServiceProxy::sync`] whenever services or endpoints
//! changed; the kernel is told the difference, in one transaction.

mod model;

pub use model::{Endpoint, Service, ServicePort, ServiceTable};

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{Error, Result};

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
}

impl ServiceProxy {
    /// Prepares the node. Rules of an earlier process stay in force until the first [`Self::sync`] replaces
    /// them at once.
    ///
    /// # Errors
    /// When the kernel lacks something that is needed.
    pub async fn open(config: ProxyConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// Makes the kernel's rules those of `table`, in one transaction; an error leaves the old rules in force.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn sync(&self, table: &ServiceTable) -> Result<SyncReport> {
        Err(Error::Unsupported(format!("{} services on {}", table.services.len(), self.config.node_ip)))
    }
}
