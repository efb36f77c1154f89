//! What the engine knows of sandboxes and containers, and how it is kept on disk.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::helper::protocol::Exit;
use crate::images::{ImageConfig, InUse};
use crate::{
    ContainerConfig, ContainerState, ContainerStatus, Error, Result, SandboxConfig, SandboxState,
    SandboxStatus,
};

/// A sandbox in memory.
pub(super) struct Sandbox {
    pub(super) id: String,
    /// Where its record is kept.
    pub(super) data: PathBuf,
    /// Where its namespaces are pinned.
    pub(super) run: PathBuf,
    record: Mutex<SandboxRecord>,
}

/// A sandbox on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) config: SandboxConfig,
    pub(super) created_at: Timestamp,
    pub(super) ips: Vec<IpAddr>,
    /// All of it was made, and it was not stopped.
    pub(super) ready: bool,
    /// The first process of the shared process table.
    pub(super) pause: Option<i32>,
}

impl Sandbox {
    pub(super) const FILE: &str = "sandbox.json";

    pub(super) fn new(id: String, data: PathBuf, run: PathBuf, record: SandboxRecord) -> Self {
        Self { id, data, run, record: Mutex::new(record) }
    }

    pub(super) fn record(&self) -> SandboxRecord {
        self.record.lock().clone()
    }

    /// Changes the record, in memory and on disk.
    pub(super) fn change(&self, edit: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut record = self.record.lock();
        edit(&mut record);
        write(&self.data.join(Self::FILE), &*record)
    }

    pub(super) fn status(&self) -> SandboxStatus {
        let record = self.record.lock();
        SandboxStatus {
            id: self.id.clone(),
            config: record.config.clone(),
            state: if record.ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: record.created_at,
            ips: record.ips.clone(),
        }
    }
}

/// Where a container is in its life, as the engine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Only its files are there.
    Created,
    /// Its shim is at it.
    Starting,
    /// Its shim says it runs, with this first process.
    Running(i32),
    /// It ended, or could not be started.
    Exited,
}

/// A container in memory.
pub(super) struct Container {
    pub(super) id: String,
    pub(super) sandbox_id: String,
    pub(super) data: PathBuf,
    pub(super) run: PathBuf,
    record: Mutex<ContainerRecord>,
    /// Written by whoever starts it and by the watcher of its shim.
    pub(super) phase: watch::Sender<Phase>,
    /// Keeps the image until the shim has taken that over.
    pub(super) image_lock: Mutex<Option<InUse>>,
}

/// A container on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) sandbox_id: String,
    pub(super) config: ContainerConfig,
    pub(super) image_id: String,
    pub(super) image: ImageConfig,
    pub(super) layers: Vec<String>,
    pub(super) log_path: PathBuf,
    pub(super) cgroup: String,
    pub(super) created_at: Timestamp,
    pub(super) started_at: Option<Timestamp>,
    pub(super) end: Option<End>,
}

/// How a container ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) finished_at: Timestamp,
    pub(super) exit_code: i32,
    pub(super) reason: String,
    pub(super) message: String,
}

impl From<Exit> for End {
    fn from(exit: Exit) -> Self {
        let reason = match (exit.out_of_memory, exit.code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        Self {
            finished_at: exit.finished_at,
            exit_code: exit.code,
            reason: reason.to_owned(),
            message: String::new(),
        }
    }
}

impl Container {
    pub(super) const FILE: &str = "container.json";
    /// What the shim writes when the container has ended.
    pub(super) const EXIT_FILE: &str = "exit.json";

    pub(super) fn new(
        id: String,
        data: PathBuf,
        run: PathBuf,
        record: ContainerRecord,
        phase: Phase,
    ) -> Self {
        Self {
            sandbox_id: record.sandbox_id.clone(),
            id,
            data,
            run,
            record: Mutex::new(record),
            phase: watch::Sender::new(phase),
            image_lock: Mutex::new(None),
        }
    }

    pub(super) fn record(&self) -> ContainerRecord {
        self.record.lock().clone()
    }

    /// Changes the record, in memory and on disk.
    pub(super) fn change(&self, edit: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let mut record = self.record.lock();
        edit(&mut record);
        write(&self.data.join(Self::FILE), &*record)
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Completes when the container has ended.
    pub(super) async fn ended(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        drop(self.phase.subscribe().wait_for(|phase| *phase == Phase::Exited).await);
    }

    pub(super) fn status(&self) -> ContainerStatus {
        let record = self.record.lock();
        let (state, pid) = match self.phase() {
            Phase::Created | Phase::Starting => (ContainerState::Created, None),
            Phase::Running(pid) => (ContainerState::Running, Some(pid)),
            Phase::Exited => (ContainerState::Exited, None),
        };
        let end = record.end.as_ref();
        ContainerStatus {
            id: self.id.clone(),
            sandbox_id: self.sandbox_id.clone(),
            name: record.config.name.clone(),
            attempt: record.config.attempt,
            state,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: end.map(|end| end.finished_at),
            exit_code: end.map_or(0, |end| end.exit_code),
            pid,
            reason: end.map(|end| end.reason.clone()).unwrap_or_default(),
            message: end.map(|end| end.message.clone()).unwrap_or_default(),
            image_id: record.image_id.clone(),
            image: record.config.user_image.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            log_path: record.log_path.clone(),
        }
    }
}

pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let context = || format!("writing {}", path.display());
    let bytes = serde_json::to_vec(value).map_err(|error| Error::system(context(), error))?;
    machinery::files::replace(path, &bytes, machinery::files::PRIVATE)
        .map_err(|error| Error::system(context(), error))
}

/// Reads a file of JSON; `None` when there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let context = || format!("reading {}", path.display());
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::system(context(), error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::system(context(), error)),
    }
}

/// Removes a directory with everything in it. Succeeds when there is none.
pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::system(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
