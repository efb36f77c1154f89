//! What the controllers are told about the cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// The cluster's parameters, as far as the controllers need them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where pod addresses come from.
    pub pod_network: Ipv4Net,
    /// The prefix length of a node's part of the pod network.
    pub node_prefix: u8,
    /// The cluster DNS's service address.
    pub dns_address: Ipv4Addr,
    /// First and last address that services of type LoadBalancer are given.
    pub load_balancer_range: (Ipv4Addr, Ipv4Addr),
    /// The cluster's certificate authority as PEM; every namespace gets a copy of it.
    pub ca_certificate: String,
    /// Its key; without it no certificate is signed.
    pub ca_key: Option<PathBuf>,
}
