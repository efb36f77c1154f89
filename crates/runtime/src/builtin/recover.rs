//! What earlier engines left, found again when one is opened.

use std::path::Path;
use std::sync::Arc;

use super::shim::Connection;
use super::state::{self, Container, ContainerRecord, Phase, Sandbox, SandboxRecord};
use super::{Inner, namespaces};
use crate::helper::protocol::{Exit, Kind};
use crate::{Error, Result};

impl Inner {
    /// Reads everything from disk and connects to the shims that still run.
    pub(super) async fn recover(self: &Arc<Self>) -> Result<()> {
        for id in entries(&self.config.data_directory.join("sandboxes"))? {
            if let Err(error) = self.recover_sandbox(&id) {
                tracing::warn!(sandbox = %id, %error, "a sandbox could not be made sense of");
            }
        }
        let containers = entries(&self.config.data_directory.join("containers"))?;
        // Every shim is asked at once, since a shim that is slow must not hold up the others.
        let all = containers.iter().map(|id| async move { (id, self.recover_container(id).await) });
        for (id, result) in futures::future::join_all(all).await {
            if let Err(error) = result {
                tracing::warn!(container = %id, %error, "a container could not be made sense of");
            }
        }
        self.sweep().await
    }

    /// Removes what belongs to nothing: the rest of a removal that was cut short.
    async fn sweep(&self) -> Result<()> {
        let directory = self.config.run_directory.join("containers");
        for id in entries(&directory)? {
            let run = directory.join(&id);
            let known = self.containers.lock().contains_key(&id);
            if !known && !Connection::is_there(&run).await {
                state::remove_directory(&run)?;
            }
        }
        let directory = self.config.run_directory.join("sandboxes");
        for id in entries(&directory)? {
            let run = directory.join(&id);
            let known = self.sandboxes.lock().contains_key(&id);
            if !known {
                namespaces::unpin(&run)?;
                state::remove_directory(&run)?;
            }
        }
        Ok(())
    }

    fn recover_sandbox(&self, id: &str) -> Result<()> {
        let data = self.config.data_directory.join("sandboxes").join(id);
        let run = self.config.run_directory.join("sandboxes").join(id);
        let Some(record) = state::read::<SandboxRecord>(&data.join(Sandbox::FILE))? else {
            // Its making was cut short before anything else was done.
            return state::remove_directory(&data);
        };
        let pinned = namespaces::pinned(&run, record.config.host, record.config.share_processes);
        let lost = record.ready && !(run.exists() && namespaces::are_pinned(&pinned));
        let sandbox = Sandbox::new(id.to_owned(), data, run, record);
        if lost {
            sandbox.change(|record| record.ready = false)?;
        }
        self.sandboxes.lock().insert(id.to_owned(), Arc::new(sandbox));
        Ok(())
    }

    async fn recover_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let data = self.config.data_directory.join("containers").join(id);
        let run = self.config.run_directory.join("containers").join(id);
        let Some(record) = state::read::<ContainerRecord>(&data.join(Container::FILE))? else {
            return state::remove_directory(&data);
        };
        if !self.sandboxes.lock().contains_key(&record.sandbox_id) {
            return Err(Error::not_found("sandbox", &record.sandbox_id));
        }
        let (ended, started) = (record.end.is_some(), record.started_at.is_some());
        let first = match (ended, started) {
            (true, _) => Phase::Exited,
            (false, true) => Phase::Starting,
            (false, false) => Phase::Created,
        };
        let container = Arc::new(Container::new(id.to_owned(), data, run, record, first));
        self.containers.lock().insert(id.to_owned(), Arc::clone(&container));
        match first {
            Phase::Created => {
                let image = container.record().image_id;
                match self.store.hold(&image) {
                    Ok((_, _, lock)) => *container.image_lock.lock() = Some(lock),
                    Err(error) => tracing::warn!(container = %id, %error, "its image has gone"),
                }
            }
            Phase::Exited => {
                if container.run.exists() {
                    self.clean_up(&container).await;
                }
            }
            _ => self.recover_running(&container).await?,
        }
        Ok(())
    }

    async fn recover_running(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let written = state::read::<Exit>(&container.data.join(Container::EXIT_FILE))?;
        if let (None, Ok(mut connection)) = (&written, Connection::open(&container.run).await)
            && connection.send(Kind::Watch, b"").await.is_ok()
            // A shim that is still starting its container answers when it has.
            && let Ok(Some((Kind::Started, payload))) = connection.receive().await
            && let Ok(pid) = <[u8; 4]>::try_from(payload.as_slice())
        {
            container.phase.send_replace(Phase::Running(i32::from_le_bytes(pid)));
            let watch = Arc::clone(self).watch(Arc::clone(container), connection, None);
            self.tasks.spawn("container", watch);
            return Ok(());
        }
        let end = self.lost(container);
        self.ended(container, end);
        self.clean_up(container).await;
        Ok(())
    }
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let context = || format!("reading {}", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| Error::system(context(), error))? {
        let entry = entry.map_err(|error| Error::system(context(), error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
