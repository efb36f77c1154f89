//! Cluster DNS: answers for services and pods (Kubernetes DNS specification 1.1.0), forwards the rest.
//!
//! The node agent makes a [`Zone`] from its informers and sends it through a watch channel; every node
//! answers at the cluster's DNS address itself.

mod zone;

pub use zone::{HeadlessEndpoint, Zone, ZonePort, ZoneService, ZoneServiceKind};

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use machinery::tasks::Tasks;
use tokio::sync::watch;

use crate::{Error, Result};

/// How the DNS server works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where it answers, by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Who is asked for names outside the cluster, in this order; empty refuses them.
    pub upstreams: Vec<SocketAddr>,
    /// How long an upstream may take.
    pub timeout: Duration,
}

/// The cluster's DNS server on this node.
#[derive(Debug)]
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
}

impl DnsServer {
    /// Opens the sockets and answers from the newest zone until `tasks` ends.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start(config: DnsConfig, zone: watch::Receiver<Arc<Zone>>, tasks: &Tasks) -> Result<Self> {
        let (_, _) = (zone, tasks);
        Err(Error::Unsupported(format!("DNS on {:?}", config.listen)))
    }

    /// Returns the addresses that are answered, with the ports that were really bound.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Returns the name servers of a `resolv.conf`, without those in `own` (which would ask themselves).
///
/// # Errors
/// When the file cannot be read; a missing one has no name servers.
pub fn upstreams(resolv_conf: &Path, own: &[Ipv4Addr]) -> Result<Vec<SocketAddr>> {
    Err(Error::Unsupported(format!("{} without {own:?}", resolv_conf.display())))
}

/// Adds `address` to the loopback interface, so that the server can bind it. Repeatable.
///
/// # Errors
/// When the kernel refuses.
pub async fn claim_address(address: Ipv4Addr) -> Result<()> {
    Err(Error::Unsupported(format!("claiming {address}")))
}
