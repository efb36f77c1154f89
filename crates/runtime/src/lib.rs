//! Containers on one node: a trait shaped like the CRI, and the built-in engine behind it.
//!
//! The node agent speaks only to [`Runtime`]. This crate never talks to the API server and knows pods only
//! as sandboxes with labels.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Why a runtime call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such sandbox, container or image.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// "sandbox", "container" or "image".
        what: &'static str,
        /// The id or reference that was asked for.
        id: String,
    },
    /// The image cannot be had; `reason` is what the registry said.
    #[error("failed to pull image {image:?}: {reason}")]
    Pull {
        /// The reference.
        image: String,
        /// Why.
        reason: String,
    },
    /// The request makes no sense (a bad reference, an empty command, an unknown user).
    #[error("{0}")]
    Invalid(String),
    /// A deadline passed.
    #[error("{what} timed out after {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The kernel or the file system refused.
    #[error("{context}: {reason}")]
    System {
        /// What was being done, to what.
        context: String,
        /// What the system said.
        reason: String,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

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

/// CPU, memory and process limits. Zero or `None` is "not limited".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative CPU weight in cgroup v1 shares (2 to 262144).
    pub cpu_shares: u64,
    /// CPU quota in microseconds a period.
    pub cpu_quota: i64,
    /// The period in microseconds.
    pub cpu_period: u64,
    /// Memory limit in bytes.
    pub memory_limit: i64,
    /// How readily the kernel kills it, from -1000 to 1000. Best effort.
    pub oom_score_adj: i32,
    /// The largest number of processes.
    pub pids_limit: i64,
}

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

/// An image that is on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its id: the digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names, such as `docker.io/library/nginx:latest`.
    pub tags: Vec<String>,
    /// Names by digest, such as `docker.io/library/nginx@sha256:…`.
    pub digests: Vec<String>,
    /// Its size in bytes, layers unpacked.
    pub size: u64,
    /// The user it runs as when none is asked for: a number, a name, or empty for root.
    pub user: String,
    /// Must not be collected.
    pub pinned: bool,
}

/// How to log in to a registry.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a container or a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time used since the start, nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in use, bytes.
    pub memory_usage: u64,
    /// Memory in use that cannot easily be reclaimed, bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Page faults and major page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Bytes written to the writable layer.
    pub writable_layer_bytes: u64,
    /// Processes.
    pub processes: u64,
}

/// Something happened to a container or sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container (or the sandbox, for sandbox events).
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// What happened.
    pub kind: ContainerEventKind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// A container was started.
    Started,
    /// A container ended.
    Stopped,
    /// A sandbox ended by itself.
    SandboxStopped,
}

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A reader that is handed over.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// A writer that is handed over.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Give it a terminal; standard error is then part of standard output.
    pub tty: bool,
    /// Connect standard input.
    pub stdin: bool,
}

/// The ends of a process's streams, and its end. Dropping it does not kill the process.
pub struct Session {
    /// Standard input; dropping it closes the stream.
    pub stdin: Option<Writer>,
    /// Standard output.
    pub stdout: Option<Reader>,
    /// Standard error; none with a terminal.
    pub stderr: Option<Reader>,
    /// Where new terminal sizes go.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Resolves to the exit code when the process has ended.
    pub exit: Pin<Box<dyn Future<Output = Result<i32>> + Send>>,
}

/// What a command that ran to its end said.
#[derive(Debug, Clone, Default)]
pub struct ExecOutput {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output, up to 64 KiB.
    pub stdout: Vec<u8>,
    /// Standard error, up to 64 KiB.
    pub stderr: Vec<u8>,
}

/// How a sandbox gets its network. The node agent gives the built-in engine one that is made from the
/// `network` crate.
#[async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Connects the network namespace at `netns` and returns the pod's addresses. Repeatable: a second call
    /// for the same id gives the same addresses.
    async fn attach(
        &self,
        sandbox_id: &str,
        netns: &std::path::Path,
        config: &SandboxConfig,
    ) -> Result<Vec<IpAddr>>;

    /// Takes the connection away and frees the addresses. Succeeds when there is none.
    async fn detach(&self, sandbox_id: &str) -> Result<()>;
}

/// Containers, sandboxes and images of one node.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Returns the runtime's name and version, such as `("builtin", "0.1.0")`.
    async fn version(&self) -> Result<(String, String)>;

    /// Makes and starts a sandbox; returns its id.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus>;
    /// Kills everything in a sandbox and takes its network away. Repeatable.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a sandbox and its containers, stopping them first. Repeatable.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// Returns every sandbox that is there.
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>>;

    /// Makes a container in a sandbox; returns its id.
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String>;
    /// Starts a container that was made. When this returns the process runs.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Asks a container to end with its image's stop signal, and kills it after `grace`. Repeatable.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes a container, killing it first. Repeatable.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Returns every container that is there.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>>;
    /// Returns one container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    /// Changes a running container's limits.
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()>;
    /// Closes and opens the container's log file again, after it was moved away.
    async fn reopen_log(&self, id: &str) -> Result<()>;

    /// Runs a command in a container to its end.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput>;
    /// Starts a command in a container.
    async fn exec(&self, id: &str, config: ExecConfig) -> Result<Session>;
    /// Connects to the streams of a container's main process.
    async fn attach(&self, id: &str) -> Result<Session>;
    /// Connects to a TCP port on the sandbox's loopback.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>>;

    /// Returns what a container uses.
    async fn container_stats(&self, id: &str) -> Result<Stats>;
    /// Returns what a sandbox's control group uses as a whole.
    async fn sandbox_stats(&self, id: &str) -> Result<Stats>;

    /// Returns a channel on which events arrive. Late readers lose the oldest and must list again.
    fn events(&self) -> tokio::sync::broadcast::Receiver<ContainerEvent>;

    /// Returns every image.
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// Returns the image with this name or id, or `None`.
    async fn image_status(&self, image: &str) -> Result<Option<Image>>;
    /// Fetches an image; returns its id.
    async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<String>;
    /// Removes an image (every name of it). Succeeds when there is none.
    async fn remove_image(&self, image: &str) -> Result<()>;
    /// Returns the bytes that images use.
    async fn image_bytes(&self) -> Result<u64>;
}
