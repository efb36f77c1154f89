//! The decisions about a job, as functions of the job, its pods and the time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes;
use crate::frame::{is_deleting, seconds, until};
use crate::pods;

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The wait after a first failed pod; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);

/// How a pod of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
}

pub(crate) fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

pub(crate) fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub(crate) fn index_of(pod: &Pod) -> Option<i32> {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|map| map.get(INDEX)).and_then(|text| text.parse().ok())
}

/// Tells how a pod ended, if it did. One that is being deleted counts as failed, unless the job waits for its end.
pub(crate) fn outcome(job: &Job, pod: &Pod) -> Option<Outcome> {
    let only_failed =
        job.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed");
    match pods::phase(pod) {
        "Succeeded" => Some(Outcome::Succeeded),
        "Failed" => Some(Outcome::Failed),
        _ if is_deleting(pod) && !only_failed => Some(Outcome::Failed),
        _ => None,
    }
}

/// What is to be done about a job.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: usize,
    /// The indexes of the pods to make, in an indexed job.
    pub(crate) create_indexes: Vec<i32>,
    /// How many running pods to delete.
    pub(crate) delete: usize,
    /// To look again after this time.
    pub(crate) again: Option<Duration>,
}

/// Why a job is over: condition type (without tense), reason, message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) succeeded: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What has been counted of a job.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Counted {
    pub(crate) succeeded: i32,
    pub(crate) failed: i32,
    pub(crate) completed: BTreeSet<i32>,
}

pub(crate) fn verdict(job: &Job, counted: &Counted, active: &[Arc<Pod>], now: Timestamp) -> Option<Verdict> {
    let spec = job.spec.as_ref()?;
    let failed = |reason, message: &str| Some(Verdict { succeeded: false, reason, message: message.into() });
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = active.iter().map(|pod| restarts(pod)).sum();
    let on_failure =
        spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
    if counted.failed > limit || (on_failure && restarts > 0 && restarts >= limit.max(1)) {
        return failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline_in(job, now).is_some_and(|wait| wait.is_zero()) {
        return failed("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let done = match spec.completions {
        Some(completions) if is_indexed(job) => {
            counted.completed.iter().filter(|index| **index < completions).count()
                >= usize::try_from(completions).unwrap_or(0)
        }
        Some(completions) => counted.succeeded >= completions,
        None => counted.succeeded > 0 && active.is_empty(),
    };
    done.then(|| Verdict {
        succeeded: true,
        reason: "CompletionsReached",
        message: "Reached expected number of succeeded pods".into(),
    })
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

/// Returns how long the job may still run.
pub(crate) fn deadline_in(job: &Job, now: Timestamp) -> Option<Duration> {
    let deadline = job.spec.as_ref()?.active_deadline_seconds?;
    let start = job.status.as_ref()?.start_time.as_ref()?;
    Some(until(start.0, seconds(deadline), now))
}

pub(crate) fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true))
}

/// Decides how many pods to make or delete while the job goes on.
pub(crate) fn plan(
    job: &Job,
    counted: &Counted,
    active: &[Arc<Pod>],
    ended: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let Some(spec) = &job.spec else { return Plan::default() };
    let parallelism =
        if is_suspended(job) { 0 } else { usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0) };
    let mut plan = Plan { again: deadline_in(job, now), ..Plan::default() };
    let wanted = match spec.completions {
        None if counted.succeeded > 0 => active.len().min(parallelism),
        None => parallelism,
        Some(completions) => {
            let done = if is_indexed(job) {
                counted.completed.len()
            } else {
                usize::try_from(counted.succeeded).unwrap_or(0)
            };
            usize::try_from(completions).unwrap_or(0).saturating_sub(done).min(parallelism)
        }
    };
    if active.len() > wanted {
        plan.delete = active.len() - wanted;
        return plan;
    }
    let missing = wanted - active.len();
    if missing == 0 {
        return plan;
    }
    if let Some(wait) = backoff(job, ended, now) {
        plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
        return plan;
    }
    if is_indexed(job) {
        let running: BTreeSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
        plan.create_indexes = (0..spec.completions.unwrap_or(0))
            .filter(|index| !running.contains(index) && !counted.completed.contains(index))
            .take(missing)
            .collect();
        plan.create = plan.create_indexes.len();
    } else {
        plan.create = missing;
    }
    plan
}

/// Returns how long to wait before a failed pod is replaced.
fn backoff(job: &Job, ended: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let mut ends: Vec<(Timestamp, Outcome)> =
        ended.iter().filter_map(|pod| Some((ended_at(pod)?, outcome(job, pod)?))).collect();
    ends.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let failures = ends.iter().take_while(|(_, outcome)| *outcome == Outcome::Failed).count();
    let last = ends.first().filter(|_| failures > 0)?.0;
    let doubled = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let wait = until(last, FIRST_BACKOFF.saturating_mul(1 << doubled).min(LONGEST_BACKOFF), now);
    (!wait.is_zero()).then_some(wait)
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ends = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max();
    ends.or_else(|| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
}

pub(crate) fn condition(kind: &str, status: bool, reason: &str, message: &str, now: &Time) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

/// Sets a condition; one that says the same already stays. Returns whether it changed.
pub(crate) fn set_condition(status: &mut JobStatus, new: JobCondition) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|known| known.type_ == new.type_) {
        Some(known) if known.status == new.status && known.reason == new.reason => false,
        Some(known) => {
            *known = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// Returns what has been counted so far, with those that wait to be.
pub(crate) fn counted(job: &Job, status: &JobStatus, ended: &[Arc<Pod>]) -> Counted {
    let waiting = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let number = |list: &Option<Vec<String>>| {
        list.as_ref().map_or(0, |list| i32::try_from(list.len()).unwrap_or(i32::MAX))
    };
    let mut completed = status.completed_indexes.as_deref().map(indexes::parse).unwrap_or_default();
    completed.extend(
        ended
            .iter()
            .filter(|pod| outcome(job, pod) == Some(Outcome::Succeeded))
            .filter_map(|pod| index_of(pod)),
    );
    Counted {
        succeeded: status.succeeded.unwrap_or(0) + number(&waiting.succeeded),
        failed: status.failed.unwrap_or(0) + number(&waiting.failed),
        completed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value, status: Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({"spec": {"containers": [], "restartPolicy": "Never"}});
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec, "status": status})).unwrap()
    }

    fn pod(phase: &str, ended: i64) -> Arc<Pod> {
        let ended = Timestamp::from_second(ended).unwrap().to_string();
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": phase}, "status": {"phase": phase, "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0, "finishedAt": ended}}}]}}),
            )
            .unwrap(),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn as_many_pods_run_as_are_still_needed() {
        let done = |succeeded| Counted { succeeded, ..Counted::default() };
        let running = [pod("Running", 0), pod("Running", 0)];
        for (spec, succeeded, active, expect) in [
            (json!({"completions": 1, "parallelism": 1}), 0, 0, (1, 0)),
            (json!({"completions": 5, "parallelism": 3}), 0, 0, (3, 0)),
            (json!({"completions": 5, "parallelism": 3}), 4, 0, (1, 0)),
            (json!({"completions": 5, "parallelism": 3}), 4, 2, (0, 1)),
            (json!({"parallelism": 3}), 0, 2, (1, 0)),
            (json!({"parallelism": 3}), 1, 2, (0, 0)),
            (json!({"completions": 5, "parallelism": 3, "suspend": true}), 0, 2, (0, 2)),
        ] {
            let plan = plan(&job(spec.clone(), json!({})), &done(succeeded), &running[..active], &[], at(0));
            assert_eq!((plan.create, plan.delete), expect, "{spec} {succeeded} {active}");
        }
    }

    #[test]
    fn a_failed_pod_is_replaced_after_a_growing_wait() {
        let job = job(json!({"completions": 1}), json!({}));
        let counted = Counted::default();
        for (ended, now, wait) in [
            (vec![pod("Failed", 100)], 100, Some(10)),
            (vec![pod("Failed", 100), pod("Failed", 120)], 120, Some(20)),
            (vec![pod("Failed", 100), pod("Succeeded", 120)], 121, None),
            (vec![pod("Failed", 100)], 110, None),
        ] {
            let plan = plan(&job, &counted, &[], &ended, at(now));
            assert_eq!(plan.again, wait.map(Duration::from_secs));
            assert_eq!(plan.create, usize::from(wait.is_none()));
        }
    }

    #[test]
    fn a_job_ends_by_success_by_too_many_failures_or_by_its_deadline() {
        let of = |succeeded, failed| Counted { succeeded, failed, ..Counted::default() };
        let started = json!({"startTime": "1970-01-01T00:00:00Z"});
        for (spec, status, counted, expect) in [
            (json!({"completions": 2}), json!({}), of(1, 0), None),
            (json!({"completions": 2}), json!({}), of(2, 0), Some("CompletionsReached")),
            (json!({"completions": 2, "backoffLimit": 1}), json!({}), of(1, 2), Some("BackoffLimitExceeded")),
            (
                json!({"completions": 2, "activeDeadlineSeconds": 5}),
                started,
                of(0, 0),
                Some("DeadlineExceeded"),
            ),
            (json!({"parallelism": 2}), json!({}), of(1, 0), Some("CompletionsReached")),
        ] {
            let verdict = verdict(&job(spec.clone(), status), &counted, &[], at(5));
            assert_eq!(verdict.map(|verdict| verdict.reason), expect, "{spec}");
        }
    }

    #[test]
    fn an_indexed_job_makes_the_lowest_indexes_that_are_missing() {
        let job = job(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}), json!({}));
        let counted = Counted { completed: [0, 2].into(), succeeded: 2, ..Counted::default() };
        assert_eq!(plan(&job, &counted, &[], &[], at(0)).create_indexes, [1, 3]);
    }
}
