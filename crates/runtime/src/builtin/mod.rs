//! The engine in this executable: namespaces, control groups, overlayfs and libcontainer.
//!
//! What is there is on disk under `data_directory` and in the kernel; the engine's memory is a copy of it that
//! [`Engine::open`] makes again. Each container has a shim, a process of its own that outlives the engine.
//!
//!     data_directory/sandboxes/<id>/sandbox.json        what the sandbox is
//!     data_directory/containers/<id>/container.json     what the container is
//!     data_directory/containers/<id>/exit.json          how it ended, written by its shim
//!     data_directory/containers/<id>/upper, work        what it wrote
//!     run_directory/sandboxes/<id>/                     pinned namespaces, /dev/shm, files of the pod
//!     run_directory/containers/<id>/                    what its shim needs while it runs, and the shim's socket

mod attach;
mod container;
mod exec;
mod forward;
mod namespaces;
mod pull;
mod recover;
mod rootfs;
mod sandbox;
mod shim;
mod signal;
mod state;
mod stats;
mod terminal;

use std::collections::BTreeMap;
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

use crate::cgroup::Cgroups;
use crate::images::Store;
use crate::{
    ContainerConfig, ContainerEvent, ContainerEventKind, ContainerStatus, Duplex, Error, ExecConfig,
    ExecOutput, Image, RegistryAuth, Resources, Result, Runtime, SandboxConfig, SandboxNetwork,
    SandboxStatus, Session, Stats,
};
use state::{Container, Sandbox};

/// How many events a slow reader may be behind.
const EVENTS: usize = 4096;

/// What an engine needs to know.
pub struct EngineConfig {
    /// What must outlive a reboot.
    pub data_directory: PathBuf,
    /// Sockets and pinned namespaces; gone after a reboot.
    pub run_directory: PathBuf,
    /// The image store; several engines may share it.
    pub image_directory: PathBuf,
    /// The parent of every control group that the engine makes, relative to the root that this process sees.
    pub cgroup_root: String,
    /// For each registry the mirrors to ask first, as URLs.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// The executable whose `main` calls [`helper_main`](crate::helper_main); `/proc/self/exe` is this one.
    pub shim_executable: PathBuf,
    /// Connects sandboxes.
    pub network: Arc<dyn SandboxNetwork>,
    /// Tells the time.
    pub clock: SharedClock,
    /// Where ids come from.
    pub random: Random,
}

/// Runs containers by itself. Cloning shares it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What every part of the engine works on.
struct Inner {
    config: EngineConfig,
    store: Store,
    cgroups: Cgroups,
    /// Whether overlays can be mounted over `data_directory`.
    overlays: bool,
    /// Written by the calls of [`Runtime`] that make and remove; the values have locks of their own.
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    events: broadcast::Sender<ContainerEvent>,
    /// What is being fetched, by name and user.
    pulls: Mutex<BTreeMap<(String, String), pull::Pull>>,
    /// The watchers of shims.
    tasks: Tasks,
}

impl Engine {
    /// Opens the engine and finds what earlier ones left: running containers go on, ended ones have their exit
    /// codes, and after a reboot all are found as ended.
    ///
    /// # Errors
    /// A directory cannot be made or read. A single container that cannot be made sense of is logged and skipped.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        for directory in [&config.data_directory, &config.run_directory] {
            for kind in ["sandboxes", "containers"] {
                let path = directory.join(kind);
                std::fs::create_dir_all(&path)
                    .map_err(|error| Error::system(format!("making {}", path.display()), error))?;
            }
        }
        let store = Store::open(&config.image_directory)?;
        let cgroups = Cgroups::detect(&config.cgroup_root)?;
        let overlays = rootfs::overlays_work(&config.data_directory)?;
        if !overlays {
            tracing::warn!(
                directory = %config.data_directory.display(),
                "overlayfs does not work here; every container gets a whole copy of its image"
            );
        }
        let inner = Arc::new(Inner {
            store,
            cgroups,
            overlays,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
            pulls: Mutex::default(),
            tasks: Tasks::new(CancellationToken::new()),
            config,
        });
        inner.recover().await?;
        Ok(Self { inner })
    }

    /// Stops watching. Containers go on running and are found by the next [`Engine::open`].
    pub async fn close(&self) {
        self.inner.tasks.stop().await;
    }

    /// Returns the store that images come from.
    #[must_use]
    pub fn images(&self) -> &Store {
        &self.inner.store
    }
}

impl Inner {
    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.sandboxes.lock().get(id).cloned().ok_or_else(|| Error::not_found("sandbox", id))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.containers.lock().get(id).cloned().ok_or_else(|| Error::not_found("container", id))
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        let containers = self.containers.lock();
        containers.values().filter(|container| container.sandbox_id == sandbox_id).cloned().collect()
    }

    /// Returns a new id in the form that people know from other runtimes.
    fn new_id(&self) -> String {
        use std::fmt::Write as _;
        let mut bytes = [0u8; 32];
        self.config.random.fill(&mut bytes);
        bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
    }

    fn publish(&self, id: &str, sandbox_id: &str, kind: ContainerEventKind) {
        let event = ContainerEvent { id: id.to_owned(), sandbox_id: sandbox_id.to_owned(), kind };
        // Without a reader there is nobody to miss it.
        drop(self.events.send(event));
    }

    /// Prepares for a container that will soon be started.
    fn warm_up(self: &Arc<Self>) {
        let this = Arc::clone(self);
        // Nobody waits for it: when it is late, entering the group takes as long as it would have anyway.
        drop(tokio::task::spawn_blocking(move || this.cgroups.warm_up()));
    }

    /// Runs what blocks (the file system, mostly) where it may.
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(Error::system("running a task", error)),
        }
    }
}

#[async_trait]
impl Runtime for Engine {
    async fn version(&self) -> Result<(String, String)> {
        Ok(("builtin".to_owned(), env!("CARGO_PKG_VERSION").to_owned()))
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        self.inner.run_sandbox(config).await
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.inner.stop_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.inner.remove_sandbox(id).await
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.inner.sandboxes.lock().values().map(|sandbox| sandbox.status()).collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        self.inner.create_container(sandbox_id, config).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        // In a task of its own: a caller that gives up must not leave a container that nobody watches.
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let (done, result) = tokio::sync::oneshot::channel();
        self.inner.tasks.spawn("start container", async move {
            // The receiver goes only when the caller gives up, who then needs no answer.
            drop(done.send(inner.start_container(&id).await));
        });
        result.await.map_err(|error| Error::system("starting a container", error))?
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        match self.inner.container(id) {
            Ok(container) => self.inner.stop_container(&container, grace).await,
            // Gone is as stopped as can be.
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.inner.remove_container(id).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.inner.containers.lock().values().map(|container| container.status()).collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.inner.container(id)?.status())
    }

    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        self.inner.update_resources(id, resources)
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
        self.inner.sandbox_stats(id)
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let store = self.inner.store.clone();
        Inner::blocking(move || store.list()).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let (store, image) = (self.inner.store.clone(), image.to_owned());
        Inner::blocking(move || store.find(&image)).await
    }

    async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<String> {
        self.inner.pull_image(image, auth).await
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let (store, image) = (self.inner.store.clone(), image.to_owned());
        Inner::blocking(move || store.remove(&image)).await
    }

    async fn image_bytes(&self) -> Result<u64> {
        let store = self.inner.store.clone();
        Inner::blocking(move || store.bytes()).await
    }
}
