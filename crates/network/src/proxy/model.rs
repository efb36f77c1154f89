//! Services and endpoints as the proxy sees them.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::Protocol;

/// All services of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// In any order; the proxy sorts.
    pub services: Vec<Service>,
}

/// A service that has a cluster IP. Headless and ExternalName services do not belong here.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster IPs (IPv4).
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// `status.loadBalancer.ingress[].ip` whose mode is VIP.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load-balancer addresses; empty is everybody.
    pub source_ranges: Vec<Ipv4Net>,
    /// Session affinity by client IP: how long a client stays with its endpoint after its last connection.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service and what is behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// Its name; may be empty when it is the only one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the service's addresses.
    pub port: u16,
    /// The port at every node's addresses.
    pub node_port: Option<u16>,
    /// What is behind it, from all endpoint slices, with the port already looked up.
    pub endpoints: Vec<Endpoint>,
}

/// An address and port that serve a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// Takes new connections (`conditions.ready`).
    pub ready: bool,
    /// Still answers (`conditions.serving`); used only where nothing is ready.
    pub serving: bool,
    /// Is on its way out (`conditions.terminating`).
    pub terminating: bool,
    /// Is on this node.
    pub local: bool,
}
