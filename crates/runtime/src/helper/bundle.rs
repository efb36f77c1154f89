//! What the engine tells the shim of a container, in `bundle.json` of the container's run directory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::images::ImageConfig;
use crate::{ContainerConfig, HostNamespaces};

/// The name of the file.
pub(crate) const FILE: &str = "bundle.json";
/// The mount point of the root file system, in the container's run directory.
pub(crate) const ROOTFS: &str = "rootfs";
/// Where the container's control groups are found once the node's are hidden, in its run directory.
pub(crate) const CGROUPS: &str = "cgroups";

/// Everything that is needed to start a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bundle {
    /// The container's id.
    pub(crate) id: String,
    /// What it is to be.
    pub(crate) config: ContainerConfig,
    /// What its image says.
    pub(crate) image: ImageConfig,
    /// The root file system.
    pub(crate) rootfs: Rootfs,
    /// The control groups to enter.
    pub(crate) cgroups: Groups,
    /// The pod's namespaces.
    pub(crate) namespaces: Namespaces,
    /// Files of the pod over those of the image: `(source, destination)`.
    pub(crate) pod_files: Vec<(PathBuf, PathBuf)>,
    /// The pod's host name, for the environment.
    pub(crate) hostname: String,
}

/// How the root file system comes to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Rootfs {
    /// An overlay of the `lower` directories within `layers` (the highest first), written to `upper`.
    Overlay { layers: PathBuf, lower: Vec<String>, upper: PathBuf, work: PathBuf },
    /// A directory of its own, where overlays cannot be had.
    Directory(PathBuf),
}

/// The directories of a control group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// One directory with cgroup v2, one a hierarchy with v1.
    pub(crate) directories: Vec<PathBuf>,
    /// They are of cgroup v2.
    pub(crate) unified: bool,
    /// The file that counts what was killed for want of memory.
    pub(crate) out_of_memory: Option<PathBuf>,
}

/// Where the pod's namespaces are pinned.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// Which ones are the node's.
    pub(crate) host: HostNamespaces,
    /// `None` is the node's.
    pub(crate) network: Option<PathBuf>,
    /// `None` is the node's.
    pub(crate) ipc: Option<PathBuf>,
    /// `None` is the node's.
    pub(crate) uts: Option<PathBuf>,
    /// The pod's shared process table; `None` is one of its own, or the node's.
    pub(crate) pid: Option<PathBuf>,
}
