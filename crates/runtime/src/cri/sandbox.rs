//! Sandboxes: made, stopped, removed, listed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};

use super::grpc::{Code, Status};
use super::proto::cri::{
    ById, ListPodSandboxResponse, PodSandboxStatusResponse, RunPodSandboxRequest, VerboseById,
};
use super::{Inner, PATIENCE, blocking, convert, failure, status};
use crate::{Duplex, Error, Result, SandboxConfig, SandboxState, SandboxStatus, Stats, loopback, sysctl};

/// How long making a sandbox may take: the kubelet's figure, twice its time-out of other calls.
const RUN: Duration = Duration::from_secs(240);
/// How many questions are asked at once.
const AT_ONCE: usize = 8;

impl Inner {
    pub(super) async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        sysctl::check(config.host, &config.sysctls)?;
        let (groups, parent, limits) =
            (Arc::clone(&self.groups), config.cgroup_parent.clone(), config.resources.clone());
        blocking(move || groups.create(&parent, &limits)).await?;
        let request = RunPodSandboxRequest {
            config: Some(convert::sandbox(&config, self.groups.name(&config.cgroup_parent))),
        };
        match self.call_run(&request).await {
            Ok(id) => self.sandbox(&id).await,
            Err(error) => {
                self.remove_group(config.cgroup_parent).await;
                Err(error)
            }
        }
    }

    async fn call_run(&self, request: &RunPodSandboxRequest) -> Result<String> {
        let first = match self.call_run_once(request).await {
            Ok(id) => return Ok(id),
            Err(status) => status,
        };
        // containerd 2 does not say beforehand which image its sandboxes are made of.
        if let Some(name) = missing_sandbox_image(&first.message) {
            tracing::info!(
                image = name,
                "the image of sandboxes is neither here nor can it be fetched: making it"
            );
            self.images.make_sandbox_image(name, &self.config.executable).await?;
            return self.call_run_once(request).await.map_err(failure::of("running a sandbox", RUN));
        }
        Err(failure::of("running a sandbox", RUN)(first))
    }

    async fn call_run_once(&self, request: &RunPodSandboxRequest) -> std::result::Result<String, Status> {
        let answer: ById =
            self.channel.call("/runtime.v1.RuntimeService/RunPodSandbox", request, RUN).await?;
        Ok(answer.id)
    }

    /// Returns a sandbox; one that this engine did not make is not found.
    pub(super) async fn sandbox(&self, id: &str) -> Result<SandboxStatus> {
        Ok(self.describe_sandbox(id).await?.0)
    }

    /// Returns a sandbox and the id of its first process.
    async fn describe_sandbox(&self, id: &str) -> Result<(SandboxStatus, Option<i32>)> {
        let request = VerboseById { id: id.to_owned(), verbose: true };
        let answer: PodSandboxStatusResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/PodSandboxStatus", &request, PATIENCE)
            .await
            .map_err(failure::about("sandbox", id, "asking for a sandbox", PATIENCE))?;
        let found = answer.status.unwrap_or_default();
        let ips = status::addresses(&found);
        if !ips.is_empty() {
            self.addresses.lock().insert(id.to_owned(), ips.clone());
        }
        let listed = super::proto::cri::PodSandbox {
            id: found.id,
            metadata: found.metadata,
            state: found.state,
            created_at: found.created_at,
            labels: found.labels,
            annotations: found.annotations,
        };
        let pid = answer.info.get("info").and_then(|info| status::pid(info));
        let sandbox = status::sandbox(&listed, ips).ok_or_else(|| Error::not_found("sandbox", id))?;
        Ok((sandbox, pid))
    }

    pub(super) async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        let answer: ListPodSandboxResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/ListPodSandbox", &(), PATIENCE)
            .await
            .map_err(failure::of("listing sandboxes", PATIENCE))?;
        let there: BTreeSet<&str> = answer.items.iter().map(|item| item.id.as_str()).collect();
        self.addresses.lock().retain(|id, _| there.contains(id.as_str()));
        let found = futures::stream::iter(answer.items)
            .map(|item| {
                async move {
                    let known = self.addresses.lock().get(&item.id).cloned();
                    let ips = match known {
                        Some(ips) => ips,
                        None => self.addresses_of(&item.id).await?,
                    };
                    Ok::<_, Error>(status::sandbox(&item, ips))
                }
                .boxed()
            })
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Asks for a sandbox's addresses. One that has gone meanwhile has none.
    async fn addresses_of(&self, id: &str) -> Result<Vec<IpAddr>> {
        match self.sandbox(id).await {
            Ok(sandbox) => Ok(sandbox.ips),
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.end_sandbox("/runtime.v1.RuntimeService/StopPodSandbox", id, "stopping a sandbox").await
    }

    async fn end_sandbox(&self, method: &str, id: &str, context: &str) -> Result<()> {
        match self.channel.call::<_, ()>(method, &ById { id: id.to_owned() }, PATIENCE).await {
            Ok(()) => Ok(()),
            Err(status) if status.code == Code::NotFound => Ok(()),
            Err(status) => Err(failure::of(context, PATIENCE)(status)),
        }
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id).await {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.stop_sandbox(id).await?;
        self.end_sandbox("/runtime.v1.RuntimeService/RemovePodSandbox", id, "removing a sandbox").await?;
        self.addresses.lock().remove(id);
        self.remove_group(sandbox.config.cgroup_parent).await;
        Ok(())
    }

    /// Removes a pod's control group, unless another sandbox of the pod is still in it.
    async fn remove_group(&self, parent: String) {
        let groups = Arc::clone(&self.groups);
        let removed = blocking(move || {
            groups.remove(&parent);
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "removing a pod's control group");
        }
    }

    pub(super) async fn sandbox_stats(&self, id: &str) -> Result<Stats> {
        let parent = self.sandbox(id).await?.config.cgroup_parent;
        if parent.is_empty() {
            return Err(Error::Invalid(format!("sandbox {id:?} has no control group of its own")));
        }
        Ok(self.groups.sandbox_usage(&parent))
    }

    pub(super) async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>> {
        let (sandbox, pid) = self.describe_sandbox(sandbox_id).await?;
        if sandbox.state != SandboxState::Ready {
            return Err(Error::Invalid(format!("sandbox {sandbox_id:?} is not running")));
        }
        let namespace = match (sandbox.config.host.network, pid) {
            (true, _) => None,
            (false, Some(pid)) => Some(PathBuf::from(format!("/proc/{pid}/ns/net"))),
            (false, None) => {
                return Err(Error::system(
                    "connecting to a sandbox",
                    "the runtime does not tell its process",
                ));
            }
        };
        loopback::open(namespace, port, &sandbox.config.name).await
    }
}

/// Returns the name of the image that a sandbox could not be made without, if that is what this error says.
fn missing_sandbox_image(message: &str) -> Option<&str> {
    let at = ["failed to get sandbox image \"", "failed to pull image \"", "failed to get image \""]
        .iter()
        .find_map(|start| message.find(start).map(|at| at + start.len()))?;
    let name = message[at..].split('"').next()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_sandboxes_lack_is_read_from_the_error() {
        for (message, expect) in [
            (
                "failed to start sandbox \"x\": failed to get sandbox image \"registry.k8s.io/pause:3.10\": failed to pull",
                Some("registry.k8s.io/pause:3.10"),
            ),
            ("failed to pull image \"r.example/pause:1\": no route", Some("r.example/pause:1")),
            ("failed to setup network for sandbox", None),
            ("failed to pull image \"\"", None),
        ] {
            assert_eq!(missing_sandbox_image(message), expect, "{message}");
        }
    }
}
