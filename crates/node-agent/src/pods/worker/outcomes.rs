//! What the pod's task makes of jobs that have ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus, SandboxState};

use super::{FIRST_RETRY, MOST_RETRY, Outcome, RETRY, Worker};
use crate::pods::model::Waiting;
use crate::pods::plan::Start;
use crate::pods::start;
use crate::volumes;

impl Worker {
    pub(super) async fn finish(&mut self, outcome: Outcome) {
        let now = self.agent.clock.now();
        match outcome {
            Outcome::Prepared(Ok(prepared)) => {
                let (sandbox, volumes) = *prepared;
                self.preparing = false;
                self.prepare_failures = 0;
                self.memory.sandbox_retry_at = None;
                self.memory.sandbox_attempts += 1;
                self.agent.pods.claim_sandbox(&sandbox.id, &self.uid());
                self.take_addresses(&sandbox);
                if let Some(old) = self.view.sandbox.replace(sandbox) {
                    self.remove_old_sandbox(old.id);
                }
                self.took_volumes(volumes);
                // What was made without knowing the address is made again with it.
                if self.names_pod_ip() {
                    self.refresh_at = Some(now);
                }
            }
            Outcome::Prepared(Err(error)) => {
                self.preparing = false;
                tracing::debug!(pod = self.name(), %error, "the pod cannot be set up");
                self.memory.sandbox_retry_at = Some(now + self.next_retry());
            }
            Outcome::Refreshed(result) => {
                self.refreshing = false;
                match result {
                    Ok(volumes) => {
                        self.prepare_failures = 0;
                        self.took_volumes(volumes);
                    }
                    Err(error) => {
                        tracing::debug!(pod = self.name(), %error, "volumes cannot be brought up to date");
                        self.refresh_at = Some(now + self.next_retry());
                    }
                }
            }
            Outcome::Started(what, result) => self.started(&what, result, now).await,
            Outcome::Stopped(id, result) => {
                if let Err(error) = result {
                    tracing::warn!(pod = self.name(), id, %error, "stopping a container");
                }
                self.memory.stopping.remove(&id);
                self.inspect(&id).await;
            }
            Outcome::Hurried => {}
            Outcome::TakenDown(level, result) => {
                self.taking_down = false;
                match result {
                    Ok(()) => {
                        self.taken_down = level;
                        if let Some(sandbox) = &mut self.view.sandbox {
                            sandbox.state = SandboxState::NotReady;
                        }
                        self.volumes = None;
                        self.agent.pods.forget_tokens(&self.uid());
                    }
                    Err(error) => {
                        tracing::warn!(pod = self.name(), %error, "taking the pod down");
                        self.take_down_retry = Some(now + self.next_retry());
                    }
                }
            }
            Outcome::Patched(result) => {
                self.patching = false;
                match *result {
                    Ok(pod) => {
                        self.patch_failures = 0;
                        self.patch_retry = None;
                        self.take_pod(Arc::new(pod));
                    }
                    Err(kube::Error::Api(status)) if status.code == 404 => self.gone = true,
                    Err(error) => {
                        self.sent = None;
                        tracing::warn!(pod = self.name(), %error, "writing the pod's status");
                        self.patch_failures += 1;
                        let wait = Duration::from_millis(100) * 2u32.pow(self.patch_failures.min(8));
                        self.patch_retry = Some(now + wait);
                    }
                }
            }
            Outcome::Deleted(Ok(())) => {
                self.done = true;
            }
            Outcome::Deleted(Err(error)) => {
                self.deleting = false;
                tracing::warn!(pod = self.name(), %error, "deleting the pod from the API");
            }
        }
    }

    pub(super) fn next_retry(&mut self) -> Duration {
        let wait = (FIRST_RETRY * 2u32.pow(self.prepare_failures.min(10))).min(MOST_RETRY);
        self.prepare_failures += 1;
        wait
    }

    pub(super) fn took_volumes(&mut self, volumes: volumes::SetUp) {
        self.refresh_at = volumes.refresh_at;
        self.volumes = Some(Arc::new(volumes));
    }

    /// Returns whether a volume holds the pod's address.
    pub(super) fn names_pod_ip(&self) -> bool {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes
            .flat_map(|one| {
                let own = one.downward_api.iter().flat_map(|source| source.items.iter().flatten());
                let projected = one
                    .projected
                    .iter()
                    .flat_map(|source| source.sources.iter().flatten())
                    .filter_map(|source| source.downward_api.as_ref())
                    .flat_map(|source| source.items.iter().flatten());
                own.chain(projected)
            })
            .filter_map(|item| item.field_ref.as_ref())
            .any(|field| field.field_path.starts_with("status.podIP"))
    }

    pub(super) fn remove_old_sandbox(&mut self, id: String) {
        let agent = self.agent.clone();
        // Its containers stay in the view as what ended, until they are collected.
        self.jobs.spawn(async move {
            if let Err(error) = agent.runtime.stop_sandbox(&id).await {
                tracing::warn!(id, %error, "stopping an old sandbox");
            }
            Outcome::Hurried
        });
    }

    /// Removes all attempts of a container but the newest two: logs of the previous one can still be asked for.
    pub(super) fn forget_old_attempts(&mut self, name: &str) {
        let keep: Vec<String> = [self.view.latest(name), self.view.previous(name)]
            .into_iter()
            .flatten()
            .map(|one| one.id.clone())
            .collect();
        let old: Vec<ContainerStatus> = self
            .view
            .attempts(name)
            .filter(|one| one.state == ContainerState::Exited && !keep.contains(&one.id))
            .cloned()
            .collect();
        for one in old {
            self.view.containers.retain(|known| known.id != one.id);
            self.memory.messages.remove(&one.id);
            let current = self.view.sandbox.as_ref().is_some_and(|sandbox| sandbox.id == one.sandbox_id);
            let last =
                !current && !self.view.containers.iter().any(|known| known.sandbox_id == one.sandbox_id);
            let (agent, pod) = (self.agent.clone(), self.pod.clone());
            self.jobs.spawn(async move {
                start::forget(&agent, &pod, &one, last).await;
                Outcome::Hurried
            });
        }
    }

    pub(super) async fn started(&mut self, what: &Start, result: Result<String, Waiting>, now: Timestamp) {
        self.memory.starting = None;
        match result {
            Ok(id) => {
                self.inspect(&id).await;
                let known = self.memory.container(&what.name);
                known.failure = None;
                known.retry_at = None;
                known.pull_failed_at = None;
                self.forget_old_attempts(&what.name);
                let status = self.view.containers.iter().find(|one| one.id == id).cloned();
                if let Some(status) = status.filter(|one| one.state == ContainerState::Running) {
                    self.begin_probes(&status, false, false);
                }
            }
            Err(waiting) => {
                let known = self.memory.container(&what.name);
                match waiting.reason.as_str() {
                    "ErrImagePull" => {
                        let failed_at = known.pull_failed_at.unwrap_or(now);
                        known.pulls.next(failed_at, now);
                        known.pull_failed_at = Some(now);
                        known.retry_at = known.pulls.wait(now, now).map(|(until, _)| until);
                    }
                    // The container is there and has ended: its back-off decides.
                    "RunContainerError" | "PostStartHookError" => known.retry_at = None,
                    _ => known.retry_at = Some(now + RETRY),
                }
                known.failure = Some(waiting).filter(|waiting| waiting.reason != "ContainerCreating");
                self.look().await;
            }
        }
    }
}
