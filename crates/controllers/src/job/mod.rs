//! Jobs: pods that run until enough of them have succeeded.

mod decide;
mod engine;
pub(crate) mod indexes;

pub(crate) use engine::start;

use k8s_openapi::api::batch::v1::{Job, JobCondition};

/// Returns the condition that says that the job is over: `Complete` or `Failed`.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")
}
