//! The traits between the node agent and whatever runs its containers.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use crate::types::{
    ContainerConfig, ContainerEvent, ContainerStatus, Duplex, ExecConfig, ExecOutput, Image, RegistryAuth,
    Resources, Result, SandboxConfig, SandboxStatus, Session, Stats,
};

/// How a sandbox gets its network. The node agent gives the built-in engine one that is made from the
/// `network` crate.
#[async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Connects the network namespace at `netns` and returns the pod's addresses. Repeatable: a second call
    /// for the same id gives the same addresses.
    async fn attach(&self, sandbox_id: &str, netns: &Path, config: &SandboxConfig) -> Result<Vec<IpAddr>>;

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
