//! Sandboxes: what a pod's containers share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Resources;

/// What a sandbox is to be. Labels carry the pod's identity, so that a restarted agent finds its pods.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// How often this pod's sandbox was made before.
    pub attempt: u32,
    /// The pod's host name; empty means the node's.
    pub hostname: String,
    /// The resolver's configuration; `None` leaves the node's.
    pub dns: Option<DnsConfig>,
    /// Where container logs go; each container's path is relative to it.
    pub log_directory: PathBuf,
    /// Labels of the runtime's own, not of the pod.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the runtime's own.
    pub annotations: BTreeMap<String, String>,
    /// Which namespaces the pod shares with its node.
    pub host: HostNamespaces,
    /// The containers of the pod see one process table.
    pub share_processes: bool,
    /// The parent control group, such as `/kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the pod as a whole.
    pub resources: Resources,
    /// A container of the pod may be privileged; some runtimes refuse such a container elsewhere.
    #[serde(default)]
    pub privileged: bool,
}

/// Which of its node's namespaces a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNamespaces {
    /// The node's network.
    pub network: bool,
    /// The node's process table.
    pub pid: bool,
    /// The node's IPC objects.
    pub ipc: bool,
}

/// The contents of a pod's `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options, such as `ndots:5`.
    pub options: Vec<String>,
}

/// Whether a sandbox can hold running containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// It can.
    Ready,
    /// It was stopped, or its namespaces are gone.
    NotReady,
}

/// A sandbox as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its id.
    pub id: String,
    /// What it was made from.
    pub config: SandboxConfig,
    /// Its state.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses, the primary one first; empty in the host network.
    pub ips: Vec<IpAddr>,
}
