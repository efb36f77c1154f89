//! The node agent's configuration file, `/etc/kubernetes/node-agent.yaml`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// What the provisioner tells a node agent. Strict: an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The node's name in the API: its address.
    pub node_name: String,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// The network that all nodes are in.
    pub node_network: Ipv4Net,
    /// How to reach the API servers.
    pub kubeconfig: PathBuf,
    /// The API servers, as `https://HOST:PORT`: the first one is asked first, the next one when it does not answer.
    /// Without any it is the one of the kubeconfig.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// Labels that the node registers with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The node registers as unschedulable: a master.
    #[serde(default)]
    pub unschedulable: bool,
    /// The cluster DNS's service address, answered on every node.
    pub dns_address: Ipv4Addr,
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
    /// Where pod addresses come from, for the whole cluster.
    pub pod_network: Ipv4Net,
    /// Where service addresses come from.
    pub service_network: Ipv4Net,
    /// First and last node port.
    pub node_port_range: (u16, u16),
    /// The TCP port of the kubelet API.
    pub port: u16,
    /// Certificates and keys of the kubelet API.
    pub pki: Pki,
    /// Pods, containers and volumes.
    pub data_directory: PathBuf,
    /// The image store.
    pub image_directory: PathBuf,
    /// Sockets and pinned namespaces; gone after a reboot.
    pub run_directory: PathBuf,
    /// The parent of every control group that the agent makes, relative to its own root.
    pub cgroup_root: String,
    /// For each registry the mirrors to ask first, as URLs: `docker.io: [http://172.17.4.1:5000]`.
    #[serde(default)]
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// When images that nothing uses are removed.
    #[serde(default)]
    pub image_collection: ImageCollection,
    /// Which engine runs the containers.
    #[serde(default)]
    pub runtime: RuntimeChoice,
    /// containerd's socket, for the engine `cri`.
    #[serde(default = "containerd", skip_serializing_if = "is_containerd")]
    pub runtime_endpoint: PathBuf,
}

fn containerd() -> PathBuf {
    Config::CONTAINERD.into()
}

fn is_containerd(path: &Path) -> bool {
    path == Path::new(Config::CONTAINERD)
}

impl Config {
    /// Where containerd listens on nearly every node.
    pub const CONTAINERD: &str = "/run/containerd/containerd.sock";
}

/// When images that nothing uses are removed, by how full their file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageCollection {
    /// From here on images are removed. 100: never.
    pub high_threshold_percent: u8,
    /// Down to here.
    pub low_threshold_percent: u8,
}

impl ImageCollection {
    /// For nodes that share a file system with people, who are surprised when images go.
    pub const NEVER: Self = Self { high_threshold_percent: 100, low_threshold_percent: 100 };
}

impl Default for ImageCollection {
    /// The kubelet's figures.
    fn default() -> Self {
        Self { high_threshold_percent: 85, low_threshold_percent: 80 }
    }
}

/// Which engine runs the containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeChoice {
    /// The engine in this executable.
    #[default]
    Builtin,
    /// The node's containerd, over the CRI.
    Cri,
}

/// Where the node agent's certificates and keys are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pki {
    /// The cluster's certificate authority: who may call the kubelet API.
    pub ca_certificate: PathBuf,
    /// The kubelet API's serving certificate.
    pub serving_certificate: PathBuf,
    /// Its key.
    pub serving_key: PathBuf,
}
