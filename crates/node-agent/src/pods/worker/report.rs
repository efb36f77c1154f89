//! Telling the API: the pod's status, and that the pod is gone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

use super::{Outcome, REMOVED, Worker};
use crate::pods::status::{self, Weight};

/// How long a change that nobody waits for is held back.
const HOLD: Duration = Duration::from_millis(200);

impl Worker {
    /// Sends the status when it differs; returns whether the API has it.
    pub(super) fn report(&mut self, status: &PodStatus, now: Timestamp, wake: &mut Vec<Timestamp>) -> bool {
        if self.gone {
            return true;
        }
        if self.patching {
            return false;
        }
        let old = self.pod.status.clone().unwrap_or_default();
        if self.sent.as_ref() == Some(status) {
            return true;
        }
        let Some(patch) = status::patch(&self.uid(), &old, status) else { return true };
        if let Some(at) = self.patch_retry
            && now < at
        {
            wake.push(at);
            return false;
        }
        match status::weigh(&old, status, self.deleted()) {
            Weight::Now => self.held_until = None,
            // The pod is about to go: its last status will carry this.
            Weight::Never => return true,
            Weight::Later => {
                let until = *self.held_until.get_or_insert(now + HOLD);
                if now < until {
                    wake.push(until);
                    return false;
                }
                self.held_until = None;
            }
        }
        // The end of the last container is known a moment before the end of the job that stopped it.
        let stopped = self.view.running().next().is_none() && !self.memory.stopping.is_empty();
        if self.deleted() && stopped {
            return false;
        }
        self.patching = true;
        self.sent = Some(status.clone());
        let (api, name) = (self.api(), self.pod.metadata.name.clone().unwrap_or_default());
        self.jobs.spawn(async move {
            let patch = Patch::Strategic(patch);
            Outcome::Patched(Box::new(api.patch_status(&name, &PatchParams::default(), &patch).await))
        });
        false
    }

    pub(super) fn finish_deletion(&mut self, clean: bool) {
        if !self.deleted() || self.taken_down < REMOVED || self.patching || self.deleting {
            return;
        }
        if self.gone {
            self.done = true;
            return;
        }
        if !clean {
            return;
        }
        self.deleting = true;
        let (api, name, clock) =
            (self.api(), self.pod.metadata.name.clone().unwrap_or_default(), self.agent.clock.clone());
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        self.jobs.spawn(async move {
            Outcome::Deleted(match api.delete(&name, &parameters).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
                Err(error) => {
                    clock.after(Duration::from_secs(1)).await;
                    Err(error.to_string())
                }
            })
        });
    }
}
