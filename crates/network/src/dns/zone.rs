//! The names of a cluster as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::Protocol;

/// Everything that cluster DNS knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// The cluster's domain without a dot at its end, such as `cluster.local`.
    pub domain: String,
    /// The address of the DNS service itself, for the zone's name server record.
    pub dns_address: Option<Ipv4Addr>,
    /// Namespaces that exist: pod records are answered in them only.
    pub namespaces: BTreeSet<String>,
    /// The networks of services and pods: reverse names in them are answered here and never forwarded.
    pub networks: Vec<Ipv4Net>,
    /// Grows with each change of the zone; shown in the SOA record.
    pub serial: u32,
    /// Services by namespace and name.
    pub services: BTreeMap<(String, String), ZoneService>,
}

/// A service's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneService {
    /// Where its name leads.
    pub kind: ZoneServiceKind,
}

/// Where a service's name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneServiceKind {
    /// To its cluster IPs.
    ClusterIp {
        /// The addresses.
        addresses: Vec<Ipv4Addr>,
        /// The service's ports, for SRV records.
        ports: Vec<ZonePort>,
    },
    /// To its endpoints.
    Headless {
        /// The endpoints: ready ones, or all of them with `publishNotReadyAddresses`.
        endpoints: Vec<HeadlessEndpoint>,
    },
    /// To another name (`spec.externalName`).
    ExternalName(String),
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZonePort {
    /// Its name; an unnamed port has no SRV record of its own name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// An endpoint of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadlessEndpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its host name (`hostname` in the slice); without one its address with dashes stands in.
    pub hostname: Option<String>,
    /// The ports of its slice.
    pub ports: Vec<ZonePort>,
}
