//! What an API server must know of its cluster.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use machinery::tls::Identity;
use rustls::pki_types::CertificateDer;

/// The settings of an API server.
#[derive(Debug)]
pub struct Config {
    /// The address at which clients and nodes reach this API server.
    pub advertise_address: IpAddr,
    /// The TCP port of the API.
    pub port: u16,
    /// Where service addresses come from; the first one is the API's own.
    pub service_network: Ipv4Net,
    /// The cluster DNS's service address: given only to a service that asks for it.
    pub dns_address: Ipv4Addr,
    /// The DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// Where node ports come from.
    pub node_ports: RangeInclusive<u16>,
    /// Whether other API servers work on the same store.
    pub several_masters: bool,
    /// Certificates and keys.
    pub pki: Pki,
    /// What is written into the audit log; `None` for no log.
    pub audit: Option<crate::audit::Settings>,
    /// Bearer tokens that are good as long as the server runs.
    pub static_tokens: crate::access::StaticTokens,
}

/// The certificates and keys that an API server works with, beside those of its listener.
#[derive(Debug)]
pub struct Pki {
    /// The cluster's certificate authorities, PEM: published to pods and clients.
    pub ca_certificate: String,
    /// The P-256 key (PKCS #8 PEM) that signs service account tokens.
    pub service_account_key: String,
    /// What to trust of node agents, and the certificate to show them; `None` where there are no nodes.
    pub kubelet_client: Option<KubeletClient>,
    /// How other servers know this one when it passes requests on; `None` makes one for this process alone.
    pub front_proxy: Option<FrontProxy>,
}

/// The identity that aggregated API servers believe, the same for all API servers of a cluster.
#[derive(Debug)]
pub struct FrontProxy {
    /// The certificate of who signed the identity, PEM: other servers find it in a config map.
    pub authority: String,
    /// The certificate to show them, of the common name `front-proxy-client`.
    pub identity: Identity,
}

/// How this API server connects to node agents.
#[derive(Debug)]
pub struct KubeletClient {
    /// Who signs the node agents' serving certificates.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The certificate to show them.
    pub identity: Identity,
}

impl Config {
    /// The service address of the API itself: the first of the service network.
    #[must_use]
    pub fn api_service_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_network.network()).saturating_add(1))
    }
}
