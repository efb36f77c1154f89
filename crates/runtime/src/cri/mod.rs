//! The engine that has the containerd of its node run the containers, through the CRI.
//!
//! What is there, containerd knows; this engine keeps nothing on disk. A sandbox's annotations have what it was
//! made from, so a restarted agent finds its pods. What the CRI has no call for goes through containerd's own
//! services on the same socket: events ([`events`]) and importing images ([`import`]). Sandboxes get their
//! network by CNI: containerd runs this executable as plugin, which asks the agent ([`cni`]).

pub(crate) mod cni;
mod container;
mod convert;
mod events;
mod failure;
mod groups;
mod grpc;
mod images;
mod import;
mod node;
mod proto;
mod sandbox;
mod status;
mod stream;
mod systemd;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    ContainerConfig, ContainerEvent, ContainerStatus, Duplex, Error, ExecConfig, ExecOutput, Image,
    RegistryAuth, Resources, Result, Runtime, SandboxConfig, SandboxNetwork, SandboxStatus, Session, Stats,
};
use groups::Groups;
use grpc::Channel;
pub use images::Images;
use node::Node;

/// How many events a slow reader may be behind.
const EVENTS: usize = 4096;
/// How long a call may take that does little.
const PATIENCE: Duration = Duration::from_secs(120);

/// What an engine needs to know.
pub struct EngineConfig {
    /// containerd's socket.
    pub socket: PathBuf,
    /// Where images are while they are imported.
    pub data_directory: PathBuf,
    /// Where the socket of the CNI plugin is.
    pub run_directory: PathBuf,
    /// The parent of every pod's control group, such as `/kubepods`; with systemd the slice of that name.
    pub cgroup_root: String,
    /// For each registry the mirrors to ask first, as URLs.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// The static executable whose `main` calls [`helper_main`](crate::helper_main): it becomes the CNI plugin
    /// and the first process of sandboxes.
    pub executable: PathBuf,
    /// Connects sandboxes.
    pub network: Arc<dyn SandboxNetwork>,
    /// Tells the time.
    pub clock: SharedClock,
    /// Where names come from.
    pub random: Random,
}

/// Has containerd run the containers. Cloning shares it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What every part of the engine works on.
struct Inner {
    config: EngineConfig,
    channel: Arc<Channel>,
    images: Images,
    /// What containerd says of itself.
    node: Node,
    groups: Arc<Groups>,
    /// Addresses of sandboxes; they never change.
    addresses: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Containers as they were last seen; one is asked for again when its state is another.
    containers: Mutex<HashMap<String, (i32, ContainerStatus)>>,
    /// The sandboxes of containers, also of those that were removed before their end was told.
    owners: Mutex<HashMap<String, String>>,
    events: broadcast::Sender<ContainerEvent>,
    tasks: Tasks,
}

impl Engine {
    /// Connects to containerd, waiting for it if it is about to start, and prepares the node: the CNI plugin with
    /// its configuration, registry mirrors and the sandboxes' image.
    ///
    /// # Errors
    /// containerd is not there or cannot be used as it is configured; the error says what to change.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let tasks = Tasks::new(CancellationToken::new());
        let channel = Arc::new(Channel::new(config.socket.clone(), tasks.clone(), config.clock.clone()));
        let node = Node::read(&channel, config.clock.as_ref(), &config.random).await?;
        let groups = Arc::new(Groups::detect(&config.cgroup_root, node.systemd)?);
        let images = Images {
            channel: Arc::clone(&channel),
            sandbox_image: node.sandbox_image.clone(),
            scratch: config.data_directory.clone(),
            clock: config.clock.clone(),
            random: config.random.clone(),
        };
        let inner = Arc::new(Inner {
            channel,
            images,
            node,
            groups,
            addresses: Mutex::default(),
            containers: Mutex::default(),
            owners: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
            tasks,
            config,
        });
        cni::start(&inner).await?;
        inner.write_mirrors()?;
        inner.images.ensure_sandbox_image(&inner.config.executable).await?;
        events::start(&inner).await?;
        Ok(Self { inner })
    }

    /// Returns the images.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// Stops watching. Containers go on running and are found by the next [`Engine::open`].
    pub async fn close(&self) {
        self.inner.tasks.stop().await;
    }
}

impl Inner {
    /// Runs what must not be left half done when its caller gives up.
    async fn whole<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = tokio::sync::oneshot::channel();
        self.tasks.spawn(name, async move {
            // The receiver goes only when the caller gives up, who then needs no answer.
            drop(done.send(work.await));
        });
        result.await.map_err(|error| Error::system(name, error))?
    }
}

/// Runs what blocks (the file system, mostly) where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::system("running a task", error)),
    }
}

#[async_trait]
impl Runtime for Engine {
    async fn version(&self) -> Result<(String, String)> {
        Ok((self.inner.node.name.clone(), self.inner.node.version.clone()))
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        let inner = Arc::clone(&self.inner);
        self.inner.whole("running a sandbox", async move { inner.run_sandbox(config).await }).await
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.inner.stop_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.inner.remove_sandbox(id).await
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        self.inner.list_sandboxes().await
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let (inner, sandbox_id) = (Arc::clone(&self.inner), sandbox_id.to_owned());
        let work = async move { inner.create_container(&sandbox_id, config).await };
        self.inner.whole("creating a container", work).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        self.inner.whole("starting a container", async move { inner.start_container(&id).await }).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.inner.stop_container(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.inner.remove_container(id).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        self.inner.list_containers().await
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.inner.container_status(id).await
    }

    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        self.inner.update_resources(id, resources).await
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        self.inner.reopen_log(id).await
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput> {
        self.inner.exec_sync(id, command, timeout).await
    }

    async fn exec(&self, id: &str, config: ExecConfig) -> Result<Session> {
        self.inner.exec(id, config).await
    }

    async fn attach(&self, id: &str) -> Result<Session> {
        self.inner.attach(id).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>> {
        self.inner.port_forward(sandbox_id, port).await
    }

    async fn container_stats(&self, id: &str) -> Result<Stats> {
        self.inner.container_stats(id).await
    }

    async fn sandbox_stats(&self, id: &str) -> Result<Stats> {
        self.inner.sandbox_stats(id).await
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        self.inner.images.list().await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        self.inner.images.find(image).await
    }

    async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<String> {
        self.inner.images.pull(image, auth).await
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.inner.images.remove(image).await
    }

    async fn image_bytes(&self) -> Result<u64> {
        self.inner.images.bytes().await
    }
}
