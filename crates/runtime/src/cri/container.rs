//! Containers: made, started, stopped, removed, listed; and commands in them without streams.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};

use super::convert::Note;
use super::grpc::Code;
use super::proto::cri::{
    ById, ContainerStatsResponse, ContainerStatusResponse, CreateContainerRequest, ExecSyncRequest,
    ExecSyncResponse, ListContainersResponse, StopContainerRequest, UpdateContainerResourcesRequest,
    VerboseById,
};
use super::{Inner, PATIENCE, convert, failure, status};
use crate::{
    ContainerConfig, ContainerState, ContainerStatus, Error, ExecOutput, Resources, Result, SandboxState,
    Seccomp, Stats,
};

/// How many questions are asked at once.
const AT_ONCE: usize = 8;
/// How long a command may run that has no time of its own.
const ENDLESS: Duration = Duration::from_secs(24 * 60 * 60);
/// The most of a command's output that is kept.
const OUTPUT: usize = 64 * 1024;

impl Inner {
    pub(super) async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id).await?;
        if sandbox.state != SandboxState::Ready {
            return Err(Error::Invalid(format!("sandbox {sandbox_id:?} is not ready")));
        }
        if let Seccomp::Localhost(path) = &config.security.seccomp
            && let Err(error) = std::fs::metadata(path)
        {
            return Err(Error::system(format!("the seccomp profile {}", path.display()), error));
        }
        let image =
            self.images.find(&config.image).await?.ok_or_else(|| Error::not_found("image", &config.image))?;
        let unified = self.groups.is_unified();
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(convert::container(sandbox_id, &sandbox.config, &config, &image, unified)),
            sandbox_config: Some(convert::sandbox(
                &sandbox.config,
                self.groups.name(&sandbox.config.cgroup_parent),
            )),
        };
        let answer: ById = self
            .channel
            .call("/runtime.v1.RuntimeService/CreateContainer", &request, PATIENCE)
            .await
            .map_err(failure::of("creating a container", PATIENCE))?;
        self.owners.lock().insert(answer.id.clone(), sandbox_id.to_owned());
        Ok(answer.id)
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<()> {
        self.simple("StartContainer", id, "starting a container").await
    }

    /// Calls what takes only the id of a container that is there.
    async fn simple(&self, method: &str, id: &str, context: &str) -> Result<()> {
        self.channel
            .call::<_, ()>(
                &format!("/runtime.v1.RuntimeService/{method}"),
                &ById { id: id.to_owned() },
                PATIENCE,
            )
            .await
            .map_err(failure::about("container", id, context, PATIENCE))
    }

    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds(grace) };
        let deadline = grace.saturating_add(PATIENCE);
        match self.channel.call::<_, ()>("/runtime.v1.RuntimeService/StopContainer", &request, deadline).await
        {
            Ok(()) => Ok(()),
            // Gone is as stopped as can be.
            Err(status) if status.code == Code::NotFound => Ok(()),
            Err(status) => Err(failure::of("stopping a container", deadline)(status)),
        }
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        self.stop_container(id, Duration::ZERO).await?;
        match self.simple("RemoveContainer", id, "removing a container").await {
            Ok(()) | Err(Error::NotFound { .. }) => {
                self.containers.lock().remove(id);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let answer: ListContainersResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/ListContainers", &(), PATIENCE)
            .await
            .map_err(failure::of("listing containers", PATIENCE))?;
        let there: BTreeSet<&str> = answer.containers.iter().map(|one| one.id.as_str()).collect();
        self.containers.lock().retain(|id, _| there.contains(id.as_str()));
        self.owners.lock().retain(|id, _| there.contains(id.as_str()));
        let found = futures::stream::iter(answer.containers)
            .map(|listed| {
                async move {
                    let known = self.containers.lock().get(&listed.id).cloned();
                    match known {
                        // Within one state nothing changes.
                        Some((state, status)) if state == listed.state => Ok(Some(status)),
                        _ => match self.container_status(&listed.id).await {
                            Ok(status) => Ok(Some(status)),
                            Err(Error::NotFound { .. }) => Ok(None),
                            Err(error) => Err(error),
                        },
                    }
                }
                .boxed()
            })
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Returns a container; one that this engine did not make is not found.
    pub(super) async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.describe_container(id).await?.0)
    }

    /// Returns whether a container has a terminal.
    pub(super) async fn has_terminal(&self, id: &str) -> Result<bool> {
        Ok(self.describe_container(id).await?.1.tty)
    }

    async fn describe_container(&self, id: &str) -> Result<(ContainerStatus, Note)> {
        let request = VerboseById { id: id.to_owned(), verbose: true };
        let answer: ContainerStatusResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/ContainerStatus", &request, PATIENCE)
            .await
            .map_err(failure::about("container", id, "asking for a container", PATIENCE))?;
        let found = answer.status.unwrap_or_default();
        let (status, note) = status::container(&found, answer.info.get("info").map(String::as_str))
            .ok_or_else(|| Error::not_found("container", id))?;
        self.containers.lock().insert(id.to_owned(), (found.state, status.clone()));
        self.owners.lock().insert(id.to_owned(), status.sandbox_id.clone());
        Ok((status, note))
    }

    pub(super) async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        if self.container_status(id).await?.state == ContainerState::Exited {
            return Ok(());
        }
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(convert::resources(&resources, self.groups.is_unified())),
        };
        self.channel
            .call::<_, ()>("/runtime.v1.RuntimeService/UpdateContainerResources", &request, PATIENCE)
            .await
            .map_err(failure::about("container", id, "changing a container's limits", PATIENCE))
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<()> {
        self.simple("ReopenContainerLog", id, "reopening a log").await
    }

    pub(super) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout.map_or(0, |timeout| seconds(timeout).max(1)),
        };
        // The runtime kills a command that takes too long; it is given the time for that.
        let deadline = timeout.map_or(ENDLESS, |timeout| timeout + PATIENCE);
        let outcome = self
            .channel
            .call::<_, ExecSyncResponse>("/runtime.v1.RuntimeService/ExecSync", &request, deadline)
            .await;
        match outcome {
            Ok(output) => Ok(ExecOutput {
                exit_code: output.exit_code,
                stdout: cut(output.stdout),
                stderr: cut(output.stderr),
            }),
            Err(status) => match (not_executed(&status.message), timeout) {
                (Some(output), _) => Ok(output),
                (None, Some(timeout)) if status.code == Code::DeadlineExceeded => Err(Error::Timeout {
                    what: format!("command {:?}", command.first().map_or("", String::as_str)),
                    after: timeout,
                }),
                _ => Err(failure::about("container", id, "running a command", deadline)(status)),
            },
        }
    }

    pub(super) async fn container_stats(&self, id: &str) -> Result<Stats> {
        let container = self.container_status(id).await?;
        if container.state != ContainerState::Running {
            return Err(Error::Invalid(format!("container {id:?} is not running")));
        }
        let sandbox = self.sandbox(&container.sandbox_id).await?;
        let mut stats = self.groups.container_usage(&sandbox.config.cgroup_parent, id);
        let answer: ContainerStatsResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/ContainerStats", &ById { id: id.to_owned() }, PATIENCE)
            .await
            .map_err(failure::about("container", id, "asking for a container's use", PATIENCE))?;
        let layer = answer.stats.and_then(|stats| stats.writable_layer);
        stats.writable_layer_bytes = layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        Ok(stats)
    }
}

/// Returns whole seconds, the next larger ones.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_add(i64::from(duration.subsec_nanos() > 0))
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(OUTPUT);
    bytes
}

/// Returns the output of a command that could not be executed, as a shell would tell it, if that is what this
/// error says.
pub(super) fn not_executed(message: &str) -> Option<ExecOutput> {
    let text = &message[message.find("OCI runtime exec failed")?..];
    let text = failure::tidy(text);
    let exit_code =
        if ["not found", "no such file"].iter().any(|why| text.contains(why)) { 127 } else { 126 };
    Some(ExecOutput { exit_code, stdout: Vec::new(), stderr: format!("{text}\n").into_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_never_too_few() {
        for (milliseconds, expect) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(seconds(Duration::from_millis(milliseconds)), expect);
        }
    }

    #[test]
    fn a_command_that_is_not_there_ends_as_in_a_shell() {
        let error = |why: &str| {
            format!(
                "failed to exec in container: failed to start exec \"1\": OCI runtime exec failed: exec failed: {why}: unknown"
            )
        };
        for (why, code) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("exec: \"/x\": stat /x: no such file or directory", 127),
            ("exec: \"/etc/passwd\": permission denied", 126),
        ] {
            let output = not_executed(&error(why)).unwrap();
            assert_eq!(output.exit_code, code);
            assert_eq!(
                String::from_utf8(output.stderr).unwrap(),
                format!("OCI runtime exec failed: exec failed: {why}\n")
            );
        }
        assert!(not_executed("container is not running").is_none());
    }
}
