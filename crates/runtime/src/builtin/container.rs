//! Containers: made, started, stopped, removed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use machinery::retry::Backoff;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::shim::{self, Connection};
use super::state::{self, Container, ContainerRecord, End, Phase, Sandbox};
use super::{Inner, namespaces, rootfs, signal};
use crate::helper::bundle::{self, Bundle, Groups};
use crate::helper::protocol::Kind;
use crate::helper::spec;
use crate::{ContainerConfig, ContainerEventKind, Error, Resources, Result};

/// The exit code of a container that could not be started, as upstream has it.
const NOT_STARTED: i32 = 128;
/// How long the kernel may take to let a killed process go.
const LET_GO: Duration = Duration::from_secs(10);
/// How often a control group is tried to be removed: for about ten seconds in all.
const MOST_TRIES: u32 = 20;

impl Inner {
    pub(super) async fn create_container(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String> {
        self.warm_up();
        let sandbox = self.sandbox(sandbox_id)?;
        let pod = sandbox.record();
        if !pod.ready {
            return Err(Error::Invalid(format!("sandbox {sandbox_id:?} is not ready")));
        }
        let (store, image) = (self.store.clone(), config.image.clone());
        let (image_id, image, lock) = Self::blocking(move || store.hold(&image)).await?;
        let id = self.new_id();
        let log_path = if config.log_path.as_os_str().is_empty() {
            config.log_path.clone()
        } else {
            pod.config.log_directory.join(&config.log_path)
        };
        let record = ContainerRecord {
            sandbox_id: sandbox_id.to_owned(),
            image_id,
            image: image.config,
            layers: image.layers,
            log_path,
            cgroup: format!("{}/{id}", pod.config.cgroup_parent),
            created_at: self.config.clock.now(),
            started_at: None,
            end: None,
            config,
        };
        let data = self.config.data_directory.join("containers").join(&id);
        let run = self.config.run_directory.join("containers").join(&id);
        let container = Arc::new(Container::new(id.clone(), data, run, record, Phase::Created));
        if spec::arguments(&self.bundle(&sandbox, &container, Groups::default(), None)).is_empty() {
            return Err(Error::Invalid("no command specified".to_owned()));
        }
        std::fs::create_dir_all(&container.data)
            .map_err(|error| Error::system(format!("making {}", container.data.display()), error))?;
        container.change(|_| {})?;
        *container.image_lock.lock() = Some(lock);
        self.containers.lock().insert(id.clone(), container);
        Ok(id)
    }

    /// Describes the container for its shim; without `rootfs` only as far as its command goes.
    fn bundle(
        &self,
        sandbox: &Sandbox,
        container: &Container,
        cgroups: Groups,
        rootfs: Option<bundle::Rootfs>,
    ) -> Bundle {
        let (pod, record) = (sandbox.record(), container.record());
        let hostname = std::fs::read_to_string(sandbox.run.join("hostname")).unwrap_or_default();
        Bundle {
            id: container.id.clone(),
            config: record.config,
            image: record.image,
            rootfs: rootfs.unwrap_or_else(|| bundle::Rootfs::Directory(container.data.clone())),
            cgroups,
            namespaces: namespaces::pinned(&sandbox.run, pod.config.host, pod.config.share_processes),
            pod_files: Self::pod_files(sandbox),
            hostname: hostname.trim().to_owned(),
        }
    }

    pub(super) async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.sandbox_id)?;
        if !sandbox.record().ready {
            return Err(Error::Invalid(format!("sandbox {:?} is not ready", sandbox.id)));
        }
        let may = container.phase.send_if_modified(|phase| {
            let may = *phase == Phase::Created;
            if may {
                *phase = Phase::Starting;
            }
            may
        });
        if !may {
            return Err(Error::Invalid(format!("container {id:?} is not in the state \"created\"")));
        }
        match self.launch(&sandbox, &container).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let end = End {
                    finished_at: self.config.clock.now(),
                    exit_code: NOT_STARTED,
                    reason: "StartError".to_owned(),
                    message: error.to_string(),
                };
                self.ended(&container, end);
                self.clean_up(&container).await;
                Err(error)
            }
        }
    }

    async fn launch(self: &Arc<Self>, sandbox: &Arc<Sandbox>, container: &Arc<Container>) -> Result<()> {
        let this = Arc::clone(self);
        let (sandbox, prepared) = (Arc::clone(sandbox), Arc::clone(container));
        let groups = Self::blocking(move || this.prepare(&sandbox, &prepared)).await?;
        let lock = match container.image_lock.lock().take() {
            Some(lock) => lock,
            None => self.store.hold(&container.record().image_id)?.2,
        };
        let events = groups.out_of_memory.as_deref().unwrap_or(Path::new(""));
        let (mut connection, child) = self.spawn_shim(container, lock.lock, events)?;
        let pid = match connection.receive().await? {
            Some((Kind::Started, payload)) => <[u8; 4]>::try_from(payload.as_slice()).ok(),
            Some((Kind::Failed, why)) => {
                return Err(Error::system("failed to start container", String::from_utf8_lossy(&why)));
            }
            Some(_) => None,
            None => {
                let log = std::fs::read_to_string(container.run.join("shim.log")).unwrap_or_default();
                return Err(Error::system("failed to start container: the shim ended", log));
            }
        };
        let pid = pid.ok_or_else(|| Error::system("failed to start container", "bad word from the shim"))?;
        container.phase.send_replace(Phase::Running(i32::from_le_bytes(pid)));
        self.publish(&container.id, &container.sandbox_id, ContainerEventKind::Started);
        let watch = Arc::clone(self).watch(Arc::clone(container), connection, Some(child));
        self.tasks.spawn("container", watch);
        Ok(())
    }

    /// Makes everything on disk and in the kernel that the shim finds ready.
    fn prepare(&self, sandbox: &Sandbox, container: &Container) -> Result<Groups> {
        let record = container.record();
        let system = |doing: &str, path: &Path, error: std::io::Error| {
            Error::system(format!("{doing} {}", path.display()), error)
        };
        let root = container.run.join(bundle::ROOTFS);
        std::fs::create_dir_all(&root).map_err(|error| system("making", &root, error))?;
        if let Some(directory) = record.log_path.parent()
            && !directory.as_os_str().is_empty()
        {
            std::fs::create_dir_all(directory).map_err(|error| system("making", directory, error))?;
        }
        for mount in &record.config.mounts {
            // As containerd does; what must be there is for the caller to check.
            if !mount.host_path.exists() {
                std::fs::create_dir_all(&mount.host_path)
                    .map_err(|error| system("making", &mount.host_path, error))?;
            }
        }
        let groups = self.cgroups.create(&record.cgroup, &record.config.resources)?;
        if !record.config.security.privileged {
            let devices: Vec<String> = record.config.devices.iter().filter_map(device_rule).collect();
            self.cgroups.restrict_devices(&record.cgroup, &devices);
        }
        let rootfs = rootfs::prepare(&self.store, &record.layers, &container.data, self.overlays)?;
        let bundle = self.bundle(sandbox, container, groups.clone(), Some(rootfs));
        let path = container.run.join(bundle::FILE);
        let json = serde_json::to_vec(&bundle)
            .map_err(|error| Error::system(format!("writing {}", path.display()), error))?;
        std::fs::write(&path, json).map_err(|error| system("writing", &path, error))?;
        container.change(|record| record.started_at = Some(self.config.clock.now()))?;
        Ok(groups)
    }

    pub(super) async fn stop_container(&self, container: &Arc<Container>, grace: Duration) -> Result<()> {
        loop {
            match container.phase() {
                Phase::Exited => return Ok(()),
                Phase::Created => {
                    // It never ran, and will not.
                    let stopped = container.phase.send_if_modified(|phase| {
                        let was = *phase == Phase::Created;
                        if was {
                            *phase = Phase::Exited;
                        }
                        was
                    });
                    if stopped {
                        let end = End {
                            finished_at: self.config.clock.now(),
                            exit_code: NOT_STARTED,
                            reason: "Error".to_owned(),
                            message: "stopped before it was started".to_owned(),
                        };
                        self.ended(container, end);
                        return Ok(());
                    }
                }
                Phase::Starting => {
                    let mut phases = container.phase.subscribe();
                    // The sender lives as long as `container`, so this cannot fail.
                    drop(phases.wait_for(|phase| *phase != Phase::Starting).await);
                }
                Phase::Running(_) => break,
            }
        }
        if !grace.is_zero() {
            let stop = signal::parse(&container.record().image.stop_signal);
            self.signal(container, stop).await?;
            tokio::select! {
                () = container.ended() => return Ok(()),
                () = self.config.clock.after(grace) => {}
            }
        }
        self.signal(container, libc::SIGKILL).await?;
        tokio::select! {
            () = container.ended() => Ok(()),
            () = self.config.clock.after(LET_GO) => {
                Err(Error::Timeout { what: format!("killing container {:?}", container.id), after: LET_GO })
            }
        }
    }

    async fn signal(&self, container: &Container, number: i32) -> Result<()> {
        match shim::ask(&container.run, Kind::Signal, &number.to_le_bytes()).await {
            // It may have ended in between, and its shim with it; then there is nothing left to be told.
            Err(_) if !Connection::is_there(&container.run).await => Ok(()),
            other => other,
        }
    }

    /// Takes away what a container that has ended has in the kernel and in its run directory. Repeatable.
    pub(super) async fn clean_up(&self, container: &Container) {
        let cgroup = container.record().cgroup;
        let backoff = Backoff { first: Duration::from_millis(2), ..Backoff::QUICK };
        let mut failures = 0;
        while !self.cgroups.remove(&cgroup) {
            // Only a container that shares a process table can leave processes behind.
            let left = self.cgroups.processes(&cgroup);
            if failures == MOST_TRIES {
                tracing::warn!(container = %container.id, ?left, "a control group stays behind");
                break;
            }
            for pid in left {
                if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL)
                    && error != nix::errno::Errno::ESRCH
                {
                    tracing::warn!(container = %container.id, pid, %error, "a process stays behind");
                }
            }
            self.config.clock.after(backoff.delay(failures, &self.config.random)).await;
            failures += 1;
        }
        if let Err(error) = state::remove_directory(&container.run) {
            tracing::warn!(container = %container.id, %error, "a run directory stays behind");
        }
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.stop_container(&container, Duration::ZERO).await?;
        self.clean_up(&container).await;
        let data = container.data.clone();
        Self::blocking(move || state::remove_directory(&data)).await?;
        self.containers.lock().remove(id);
        Ok(())
    }

    pub(super) fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let container = self.container(id)?;
        if container.phase() != Phase::Exited {
            self.cgroups.limit(&container.record().cgroup, &resources);
        }
        container.change(|record| record.config.resources = resources)
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        match container.phase() {
            Phase::Running(_) => shim::ask(&container.run, Kind::ReopenLog, b"").await,
            _ => Err(Error::Invalid(format!("container {id:?} is not running"))),
        }
    }
}

/// Returns what lets a container use a device, as cgroup v1 writes it.
fn device_rule(device: &(std::path::PathBuf, std::path::PathBuf, String)) -> Option<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (host, _, permissions) = device;
    let metadata = std::fs::metadata(host).ok()?;
    let kind = if metadata.file_type().is_block_device() { 'b' } else { 'c' };
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    Some(format!("{kind} {major}:{minor} {permissions}"))
}
