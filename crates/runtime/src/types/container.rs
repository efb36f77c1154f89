//! Containers: what they are to be and what they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Resources;

/// What a container is to be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The container's name within its pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// The image, as the id that `pull_image` or `image_status` returned.
    pub image: String,
    /// The image as the user wrote it.
    pub user_image: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_directory: String,
    /// Added to the image's environment, in order; later wins.
    pub env: Vec<(String, String)>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the node, `(host path, container path, permissions)`.
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// Labels of the runtime's own.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the runtime's own.
    pub annotations: BTreeMap<String, String>,
    /// The log file, relative to the sandbox's `log_directory`; in CRI's format.
    pub log_path: PathBuf,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Who it runs as and what it may do.
    pub security: Security,
}

/// A bind mount into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The path on the node.
    pub host_path: PathBuf,
    /// The path in the container.
    pub container_path: PathBuf,
    /// Not writable.
    pub read_only: bool,
    /// How mounts made later travel between node and container.
    pub propagation: Propagation,
}

/// Mount propagation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None at all.
    #[default]
    Private,
    /// From the node into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// Who a container runs as and what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// User id; `None` is the image's user.
    pub run_as_user: Option<i64>,
    /// Group id; `None` is the user's group.
    pub run_as_group: Option<i64>,
    /// Refuse to start as user 0.
    pub run_as_non_root: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// Everything that the node's root may do.
    pub privileged: bool,
    /// The root file system is not writable.
    pub read_only_root: bool,
    /// The process and its children can gain no privileges.
    pub no_new_privileges: bool,
    /// Capabilities beyond the default set, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set; `ALL` is every one.
    pub drop_capabilities: Vec<String>,
    /// The seccomp profile.
    pub seccomp: Seccomp,
    /// Paths that are hidden, and paths that are read-only; `true` leaves `/proc` as it is.
    pub unmasked_proc: bool,
}

/// A seccomp profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's own.
    RuntimeDefault,
    /// An OCI profile in a file of the node.
    Localhost(PathBuf),
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// It ended.
    Exited,
    /// Its state cannot be told.
    Unknown,
}

/// A container as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Its name within its pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// Its state.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its exit code; 128 + n for signal n.
    pub exit_code: i32,
    /// The main process's id on the node while running.
    pub pid: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun` or `StartError`.
    pub reason: String,
    /// More about the reason.
    pub message: String,
    /// The image id.
    pub image_id: String,
    /// The image as the user wrote it.
    pub image: String,
    /// Labels it was made with.
    pub labels: BTreeMap<String, String>,
    /// Annotations it was made with.
    pub annotations: BTreeMap<String, String>,
    /// Its log file, absolute.
    pub log_path: PathBuf,
}
