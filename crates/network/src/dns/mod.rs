//! Cluster DNS: answers for services and pods (Kubernetes DNS specification 1.1.0), forwards the rest.
//!
//! The node agent makes a [`Zone`] from its informers and sends it through a watch channel; every node
//! answers at the cluster's DNS address itself.

mod forward;
mod lookup;
mod server;
mod zone;

pub use zone::{HeadlessEndpoint, Zone, ZonePort, ZoneService, ZoneServiceKind};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hickory_server::Server;
use machinery::names::Random;
use machinery::tasks::Tasks;
use rtnetlink::packet_route::address::AddressScope;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::links::Links;
use crate::{Error, Result};
use forward::Forwarder;
use server::Answerer;

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
        let forwarder =
            Forwarder::new(config.upstreams, config.timeout, Random::from_os(), machinery::clock::system());
        let mut server = Server::new(Answerer { zone, forwarder, turn: AtomicUsize::new(0) });
        let mut addresses = Vec::new();
        for wanted in config.listen {
            let bind = |what| format!("listening for DNS by {what} at {wanted}");
            let udp = UdpSocket::bind(wanted).await.map_err(Error::io(bind("UDP")))?;
            // With port 0 both must get the same one.
            let address = udp.local_addr().map_err(Error::io(bind("UDP")))?;
            let tcp = TcpListener::bind(address).await.map_err(Error::io(bind("TCP")))?;
            server.register_socket(udp);
            server.register_listener(tcp, IDLE, RESPONSES);
            addresses.push(address);
        }
        tasks.spawn("dns", async move {
            if let Err(error) = server.block_until_done().await {
                // The task group goes on: pods keep running without names, and the log says why.
                tracing::error!(%error, "the DNS server ended");
            }
        });
        Ok(Self { addresses })
    }

    /// Returns the addresses that are answered, with the ports that were really bound.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How many answers may wait for a slow TCP client.
const RESPONSES: usize = 32;

/// Returns the name servers of a `resolv.conf`, without those in `own` (which would ask themselves).
///
/// # Errors
/// When the file cannot be read; a missing one has no name servers.
pub fn upstreams(resolv_conf: &Path, own: &[Ipv4Addr]) -> Result<Vec<SocketAddr>> {
    match fs_err::read_to_string(resolv_conf) {
        Ok(text) => Ok(name_servers(&text, own)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("reading the node's name servers")(error)),
    }
}

fn name_servers(text: &str, own: &[Ipv4Addr]) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        let server = SocketAddr::new(address, 53);
        if !servers.contains(&server) && !own.iter().any(|own| IpAddr::from(*own) == address) {
            servers.push(server);
        }
    }
    servers
}

/// Adds `address` to the loopback interface, so that the server can bind it. Repeatable.
///
/// # Errors
/// When the kernel refuses.
pub async fn claim_address(address: Ipv4Addr) -> Result<()> {
    const LOOPBACK: u32 = 1;
    let links = Links::open()?;
    links.set_up(LOOPBACK).await?;
    // Scope host: the kernel must never choose it as a source address by itself.
    links.add_address(LOOPBACK, address, AddressScope::Host, None).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order_without_our_own() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 10.3.0.10\nnameserver\t192.0.2.1 \n\
                    nameserver 192.0.2.1\nnameserver nonsense\nnameserver 2001:db8::1\noptions ndots:5\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text, &[Ipv4Addr::new(10, 3, 0, 10)]), expected);
        assert_eq!(upstreams(Path::new("/nonexistent/resolv.conf"), &[]).unwrap(), []);
    }
}
