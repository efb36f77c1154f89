//! Reconciles one cron job.

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Key, Recorder};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::api::{DeleteParams, PostParams};

use super::schedule::{self, Schedule};
use crate::frame::{
    self, Context, Next, Result, Written, absent_is_fine, code, controlled_by, controller_of, error_text,
    is_deleting, name, namespace, until,
};
use crate::job;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed moments than this are told of.
const MANY: usize = 100;

struct Engine {
    context: Context,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: Recorder,
    written: Written<Key>,
    status_written: Written<Key>,
}

pub(crate) fn start(context: &Context) {
    let engine = Arc::new(Engine {
        context: context.clone(),
        cron_jobs: context.informers.of(),
        jobs: context.informers.of(),
        recorder: context.recorder("cronjob-controller"),
        written: Written::default(),
        status_written: Written::default(),
    });
    let queue = context.queue();
    frame::enqueue(&engine.cron_jobs, &queue);
    let job_queue = queue.clone();
    engine.jobs.observe(move |delta: &Delta<Job>| {
        let job = delta.object();
        if let Some(owner) = controller_of(&**job).filter(|owner| owner.kind == "CronJob") {
            job_queue.add(Key::new(namespace(&**job), &owner.name));
        }
    });
    let ready = {
        let engine = engine.clone();
        async move {
            engine.cron_jobs.wait_synced().await;
            engine.jobs.wait_synced().await;
        }
    };
    context.work("cron jobs", 1, &queue, ready, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(&key).await }
    });
}

/// The last moment that was due and not run, how many were missed, and the next one.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    last: Option<Timestamp>,
    missed: usize,
    next: Option<Timestamp>,
}

fn due(schedule: &Schedule, zone: &TimeZone, earliest: Timestamp, now: Timestamp) -> Due {
    let mut due = Due { last: None, missed: 0, next: None };
    let mut at = earliest;
    // Long away, only the latest matter: the search starts a day before now.
    let day_ago = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN);
    if schedule.next(at, zone).is_some_and(|next| next < day_ago)
        && schedule.next(day_ago, zone).is_some_and(|next| next <= now)
    {
        at = day_ago;
        due.missed = MANY;
    }
    while let Some(next) = schedule.next(at, zone) {
        if next > now {
            due.next = Some(next);
            break;
        }
        due.last = Some(next);
        due.missed += 1;
        at = next;
    }
    due
}

impl Engine {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(cron) = self.cron_jobs.get(key) else {
            self.written.forget(key);
            self.status_written.forget(key);
            return Ok(Next::Done);
        };
        let spec = cron.spec.clone();
        if !self.written.is_shown(key, self.jobs.version())
            || !self.status_written.is_shown(key, self.cron_jobs.version())
        {
            return Ok(Next::After(Written::<Key>::CATCH_UP));
        }
        let own: Vec<Arc<Job>> = self
            .jobs
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|job| {
                controller_of(&**job).is_some_and(|owner| Some(&owner.uid) == cron.metadata.uid.as_ref())
            })
            .collect();
        let old = cron.status.clone().unwrap_or_default();
        let mut new = old.clone();
        self.take_in_jobs(&cron, &own, &mut new);
        self.forget_old(&cron, &spec, &own).await?;
        let next = if is_deleting(&*cron) {
            Next::Done
        } else {
            self.run_due(key, &cron, &spec, &own, &mut new).await?
        };
        self.write(key, &cron, &old, &new).await?;
        Ok(next)
    }

    async fn write(&self, key: &Key, cron: &CronJob, old: &CronJobStatus, new: &CronJobStatus) -> Result<()> {
        let api = self.context.api::<CronJob>(&key.namespace);
        if frame::write_status(&api, cron, old, new).await?
            && let Some(current) = api.get_opt(&key.name).await?
        {
            self.status_written.note(key, &current);
        }
        Ok(())
    }

    fn take_in_jobs(&self, cron: &CronJob, own: &[Arc<Job>], status: &mut CronJobStatus) {
        let mut active = status.active.take().unwrap_or_default();
        for job in own {
            let uid = job.metadata.uid.clone();
            let known = active.iter().position(|one| one.uid == uid);
            match (job::finished(job), known) {
                (Some(end), Some(at)) => {
                    active.remove(at);
                    let message = format!("Saw completed job: {}, condition: {}", name(&**job), end.type_);
                    self.recorder.event(cron, EventType::Normal, "SawCompletedJob", message);
                    let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
                    if end.type_ == "Complete" && completed > status.last_successful_time {
                        status.last_successful_time = completed;
                    }
                }
                (None, None) => {
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {}", name(&**job));
                    self.recorder.event(cron, EventType::Warning, "UnexpectedJob", message);
                }
                _ => {}
            }
        }
        active.retain(|one| own.iter().any(|job| job.metadata.uid == one.uid));
        status.active = (!active.is_empty()).then_some(active);
    }

    async fn forget_old(&self, cron: &CronJob, spec: &CronJobSpec, own: &[Arc<Job>]) -> Result<()> {
        for (kind, limit) in [
            ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let mut ended: Vec<_> = own
                .iter()
                .filter(|job| {
                    job::finished(job).is_some_and(|end| end.type_ == kind) && !is_deleting(&***job)
                })
                .collect();
            ended.sort_by_key(|job| {
                job.status.as_ref().and_then(|status| status.start_time.clone()).map(|time| time.0)
            });
            let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in ended.into_iter().take(excess) {
                self.delete(cron, job).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<()> {
        let api = self.context.api::<Job>(namespace(cron));
        absent_is_fine(api.delete(name(job), &DeleteParams::background()).await)?;
        let message = format!("Deleted job {}", name(job));
        self.recorder.event(cron, EventType::Normal, "SuccessfulDelete", message);
        Ok(())
    }

    async fn run_due(
        &self,
        key: &Key,
        cron: &CronJob,
        spec: &CronJobSpec,
        own: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<Next> {
        let parsed = schedule::parse(&spec.schedule).and_then(|schedule| {
            let zone = match spec.time_zone.as_deref() {
                None => TimeZone::UTC,
                Some(zone) => TimeZone::get(zone).map_err(|error| format!("time zone {zone:?}: {error}"))?,
            };
            Ok((schedule, zone))
        });
        let (schedule, zone) = match parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                let message = format!("unparseable schedule: {}: {why}", spec.schedule);
                self.recorder.event(cron, EventType::Warning, "UnparseableSchedule", message);
                return Ok(Next::Done);
            }
        };
        if spec.suspend == Some(true) {
            return Ok(Next::Done);
        }
        let now = self.context.clock.now();
        let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let mut earliest = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
        let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if let Some(deadline) = deadline
            && let Ok(oldest) = now.checked_sub(deadline)
        {
            earliest = earliest.max(oldest);
        }
        let due = due(&schedule, &zone, earliest, now);
        let again = due.next.map_or(Next::Done, |next| {
            // A little late rather than a little early, so that the moment has come for sure.
            Next::After(until(next, Duration::from_millis(100), now))
        });
        let Some(last) = due.last else { return Ok(again) };
        if due.missed > MANY {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.recorder.event(cron, EventType::Warning, "TooManyMissedTimes", message);
        }
        let running = status.active.clone().unwrap_or_default();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.event(cron, EventType::Normal, "JobAlreadyActive", message);
                return Ok(again);
            }
            Some("Replace") => {
                for job in own.iter().filter(|job| running.iter().any(|one| one.uid == job.metadata.uid)) {
                    self.delete(cron, job).await?;
                }
                status.active = None;
            }
            _ => {}
        }
        let job = job_of(cron, spec, last);
        match self.context.api::<Job>(&key.namespace).create(&PostParams::default(), &job).await {
            Ok(made) => {
                self.written.note(key, &made);
                status.active.get_or_insert_default().push(reference(&made));
                let message = format!("Created job {}", name(&made));
                self.recorder.event(cron, EventType::Normal, "SuccessfulCreate", message);
            }
            // It was made before, and the status was not written then.
            Err(error) if code(&error) == 409 => {
                let name = job.metadata.name.as_deref().unwrap_or_default();
                if let Some(made) = self.context.api::<Job>(&key.namespace).get_opt(name).await?
                    && job::finished(&made).is_none()
                    && controller_of(&made)
                        .is_some_and(|owner| Some(&owner.uid) == cron.metadata.uid.as_ref())
                {
                    status.active.get_or_insert_default().push(reference(&made));
                }
            }
            Err(error) => {
                let message = format!("Error creating job: {}", error_text(&error));
                self.recorder.event(cron, EventType::Warning, "FailedCreate", message);
                return Err(error.into());
            }
        }
        status.last_schedule_time = Some(Time(last));
        Ok(again)
    }
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference { resource_version: job.metadata.resource_version.clone(), ..job.object_ref(&()) }
}

fn job_of(cron: &CronJob, spec: &CronJobSpec, at: Timestamp) -> Job {
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), at.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", name(cron), at.as_second().div_euclid(60))),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controlled_by(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_missed_moment_is_run() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let every_hour = schedule::parse("0 * * * *").unwrap();
        let due = |from: &str, now: &str| super::due(&every_hour, &TimeZone::UTC, at(from), at(now));
        let found = due("2026-01-01T00:10:00Z", "2026-01-01T03:30:00Z");
        assert_eq!((found.last, found.missed), (Some(at("2026-01-01T03:00:00Z")), 3));
        assert_eq!(found.next, Some(at("2026-01-01T04:00:00Z")));
        let long = due("2020-01-01T00:10:00Z", "2026-01-01T03:30:00Z");
        assert_eq!(long.last, Some(at("2026-01-01T03:00:00Z")));
        assert!(long.missed > MANY);
        assert_eq!(due("2026-01-01T00:10:00Z", "2026-01-01T00:30:00Z").last, None);
    }
}
