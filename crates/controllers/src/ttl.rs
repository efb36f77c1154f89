//! Deletes jobs some time after they have ended, when they ask for it.

use std::sync::Arc;

use client::{Informer, Key};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};

use crate::frame::{self, Context, Next, Result, absent_is_fine, is_deleting, seconds, until};
use crate::job;

struct Controller {
    context: Context,
    jobs: Informer<Job>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller { context: context.clone(), jobs: context.informers.of() });
    let queue = context.queue();
    frame::enqueue(&controller.jobs, &queue);
    let jobs = controller.jobs.clone();
    context.work("ended jobs", 1, &queue, async move { jobs.wait_synced().await }, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(job) = self.jobs.get(key) else { return Ok(Next::Done) };
        let limit = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let ended = job::finished(&job).and_then(|end| end.last_transition_time.as_ref());
        let (Some(limit), Some(ended)) = (limit, ended) else { return Ok(Next::Done) };
        if is_deleting(&*job) {
            return Ok(Next::Done);
        }
        let wait = until(ended.0, seconds(limit), self.context.clock.now());
        if !wait.is_zero() {
            return Ok(Next::After(wait));
        }
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        absent_is_fine(self.context.api::<Job>(&key.namespace).delete(&key.name, &params).await)?;
        Ok(Next::Done)
    }
}
