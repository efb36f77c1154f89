//! The control plane's configuration file, `/etc/kubernetes/control-plane.yaml`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// What the provisioner tells a control plane. Strict: an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The cluster's name.
    pub cluster_name: String,
    /// The address that clients and nodes reach this API server at; also the one it listens on.
    pub advertise_address: IpAddr,
    /// The TCP port of the API.
    pub port: u16,
    /// An address of the node network that moves between the masters: it is where one of them serves the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_address: Option<Ipv4Addr>,
    /// Where service addresses come from; the first one is the API's own.
    pub service_network: Ipv4Net,
    /// The cluster DNS's service address.
    pub dns_address: Ipv4Addr,
    /// The DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// Where pod addresses come from; each node gets a part of `node_prefix` bits.
    pub pod_network: Ipv4Net,
    /// The prefix length of a node's part of the pod network.
    pub node_prefix: u8,
    /// First and last address that services of type LoadBalancer are given.
    pub load_balancer_range: (Ipv4Addr, Ipv4Addr),
    /// First and last node port.
    pub node_port_range: (u16, u16),
    /// Where the store lives; with etcd, what this master remembers of it.
    pub data_directory: PathBuf,
    /// Which store there is.
    #[serde(default)]
    pub store: StoreConfig,
    /// Certificates and keys.
    pub pki: Pki,
    /// The audit log; nothing is written down without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// A file of bearer tokens, as upstream's `--token-auth-file`: `token,user,uid,"group,group"` on each line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Audit {
    /// The file that events are written to, one JSON object a line.
    pub log_path: PathBuf,
    /// A policy of `audit.k8s.io/v1`, YAML; without one changes are written down with what was sent, reads and
    /// everything about secrets without.
    #[serde(default)]
    pub policy_file: Option<PathBuf>,
    /// How large the file may grow before it is put aside, in mebibytes.
    #[serde(default = "default_audit_megabytes")]
    pub max_megabytes: u64,
    /// How many older files are kept.
    #[serde(default = "default_audit_backups")]
    pub max_backups: usize,
}

fn default_audit_megabytes() -> u64 {
    100
}

fn default_audit_backups() -> usize {
    5
}

/// The store of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreConfig {
    /// In `dataDirectory`, for this master alone.
    #[default]
    Embedded,
    /// In etcd, for several masters.
    Etcd(Etcd),
}

/// How to reach etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Etcd {
    /// The members, as `https://HOST:PORT`; the first is asked first.
    pub endpoints: Vec<String>,
    /// The authority that has signed the members' certificates, PEM.
    pub ca: PathBuf,
    /// The certificate that is shown to the members, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// What every key begins with, such as `/my-cluster`.
    pub prefix: String,
}

/// Where the control plane's certificates and keys are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pki {
    /// The cluster's certificate authority.
    pub ca_certificate: PathBuf,
    /// Its key: signs what the certificates API is asked for.
    pub ca_key: PathBuf,
    /// The API server's serving certificate.
    pub serving_certificate: PathBuf,
    /// Its key.
    pub serving_key: PathBuf,
    /// The certificate that the API server shows to node agents.
    pub kubelet_client_certificate: PathBuf,
    /// Its key.
    pub kubelet_client_key: PathBuf,
    /// The P-256 key (PKCS #8 PEM) that signs service account tokens.
    pub service_account_key: PathBuf,
    /// How aggregated API servers know the API servers of this cluster. Without it each process makes its own,
    /// so several masters need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_proxy: Option<FrontProxy>,
}

/// What an API server shows to aggregated ones, the same on all masters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontProxy {
    /// The authority that has signed the certificate, PEM.
    pub ca_certificate: PathBuf,
    /// The certificate of `front-proxy-client`, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(text: &str) -> Result<StoreConfig, String> {
        #[derive(Deserialize)]
        struct Only {
            #[serde(default)]
            store: StoreConfig,
        }
        serde_yaml::from_str::<Only>(text).map(|only| only.store).map_err(|error| error.to_string())
    }

    #[test]
    fn the_store_is_embedded_unless_etcd_is_named() {
        assert_eq!(store("other: 1"), Ok(StoreConfig::Embedded));
        assert_eq!(store("store: embedded"), Ok(StoreConfig::Embedded));
        let etcd =
            "store: {etcd: {endpoints: ['https://a:2379'], ca: /ca, cert: /cert, key: /key, prefix: /c}}";
        let Ok(StoreConfig::Etcd(etcd)) = store(etcd) else { panic!("not read") };
        assert_eq!((&*etcd.endpoints[0], &*etcd.prefix), ("https://a:2379", "/c"));
        for wrong in ["store: redis", "store: {etcd: {}}", "store: {etcd: {endpoint: x}}"] {
            assert!(store(wrong).is_err(), "{wrong}");
        }
    }
}
