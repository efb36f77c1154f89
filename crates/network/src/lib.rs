//! The network of one node: pod links and routes, the service proxy, cluster DNS, load-balancer addresses,
//! network policy.
//!
//! This crate talks to the kernel and never to the API server: it takes plain values, which the node agent
//! makes from its informers. Everything happens in the network namespace of the calling thread (the node's),
//! so sockets must be opened, and `/proc/sys` be written, by threads that live in it.

#[cfg(target_os = "linux")]
mod arp;
#[cfg(target_os = "linux")]
mod conntrack;
#[cfg(target_os = "linux")]
pub mod dns;
mod error;
#[cfg(target_os = "linux")]
pub mod gateway;
#[cfg(target_os = "linux")]
mod links;
#[cfg(target_os = "linux")]
pub mod loadbalancer;
#[cfg(target_os = "linux")]
mod namespace;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
mod nft;
#[cfg(target_os = "linux")]
pub mod pods;
#[cfg(target_os = "linux")]
pub mod policy;
#[cfg(target_os = "linux")]
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod shared;
#[cfg(target_os = "linux")]
mod sysctl;

pub use error::{Error, Result};

use serde::{Deserialize, Serialize};

/// A transport protocol that services and host ports know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Returns the protocol's number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;

    /// Reads the names that the API uses, in any case; an empty text is TCP.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_uppercase().as_str() {
            "TCP" | "" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(Error::Invalid(format!("protocol {text:?} is not TCP, UDP or SCTP"))),
        }
    }
}
