//! Reconciles one job. No ended pod is counted twice or not at all: a pod keeps a finalizer until its uid has
//! been written into the status, and leaves that list for the counts only once the finalizer is off.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Delta, EventType, Informer, Key, Recorder};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Selector;
use serde_json::json;

use super::decide::{self, FINALIZER, INDEX, Outcome, Verdict, condition, has_finalizer, set_condition};
use super::{finished, indexes};
use crate::claim;
use crate::frame::{
    self, Context, Error, Next, Result, Written, absent_is_fine, controlled_by, controller_of, error_text,
    is_deleting, name, namespace, uid,
};
use crate::pods;

const JOB_NAME: &str = "batch.kubernetes.io/job-name";

struct Engine {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    recorder: Recorder,
    written: Written<Key>,
    /// Shown by the job cache before the next look: the status is what counts are kept in.
    status_written: Written<Key>,
}

pub(crate) fn start(context: &Context) {
    let engine = Arc::new(Engine {
        context: context.clone(),
        jobs: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder("job-controller"),
        written: Written::default(),
        status_written: Written::default(),
    });
    pods::add_indices(&engine.pods);
    let queue = context.queue();
    frame::enqueue(&engine.jobs, &queue);
    let pod_queue = queue.clone();
    engine.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        for pod in delta.old().into_iter().chain([pod]) {
            if let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == "Job") {
                pod_queue.add(Key::new(namespace(&**pod), &owner.name));
            } else if has_finalizer(pod)
                && let Some(job) = claim::labels(&**pod).get(JOB_NAME)
            {
                pod_queue.add(Key::new(namespace(&**pod), job));
            }
        }
    });
    let ready = {
        let engine = engine.clone();
        async move {
            engine.jobs.wait_synced().await;
            engine.pods.wait_synced().await;
        }
    };
    context.work("jobs", 4, &queue, ready, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(&key).await }
    });
}

impl Engine {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let job = self.jobs.get(key);
        self.free_strays(key, job.as_deref()).await?;
        let Some(job) = job else {
            self.written.forget(key);
            self.status_written.forget(key);
            return Ok(Next::Done);
        };
        let managed_elsewhere = job
            .spec
            .as_ref()
            .and_then(|spec| spec.managed_by.as_deref())
            .is_some_and(|manager| manager != "kubernetes.io/job-controller");
        if managed_elsewhere {
            return Ok(Next::Done);
        }
        if !self.status_written.is_shown(key, self.jobs.version())
            || !self.written.is_shown(key, self.pods.version())
        {
            return Ok(Next::After(Written::<Key>::CATCH_UP));
        }
        let pods = self.claim(key, &job).await?;
        let now = self.context.clock.now();
        let (ended, active): (Vec<_>, Vec<_>) =
            pods.iter().cloned().partition(|pod| decide::outcome(&job, pod).is_some());

        let old = job.status.clone().unwrap_or_default();
        let mut new = old.clone();
        let is_over = finished(&job).is_some();
        if new.start_time.is_none() && !decide::is_suspended(&job) {
            new.start_time = Some(self.context.now());
        }
        count_up(&job, &mut new, &ended, &pods);
        let counted = decide::counted(&job, &new, &ended);
        let mut with_start = (*job).clone();
        with_start.status = Some(new.clone());
        let verdict = if is_over { None } else { decide::verdict(&with_start, &counted, &active, now) };

        let mut again = None;
        let mut failure = None;
        let mut active_count = active.len();
        if is_over || is_deleting(&*job) {
            // Nothing is made or stopped any more.
        } else if let Some(verdict) = &verdict {
            // The rest goes, however the job has ended.
            failure = self.delete(key, &job, &active).await;
            active_count = 0;
            self.judge(&job, &mut new, verdict, &pods);
        } else {
            self.note_suspension(&job, &mut new);
            let plan = decide::plan(&with_start, &counted, &active, &ended, now);
            again = plan.again;
            if plan.delete > 0 {
                let mut least = active.clone();
                pods::least_loss_first(&mut least, &std::collections::HashMap::new(), now);
                least.truncate(plan.delete);
                active_count -= least.len();
                failure = self.delete(key, &job, &least).await;
            } else if plan.create > 0 {
                let (made, problem) = self.create(key, &job, plan.create, &plan.create_indexes).await;
                active_count += made;
                failure = problem;
            }
        }
        let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
        new.active = number(active_count).filter(|count| *count > 0);
        new.ready = number(active.iter().filter(|pod| pods::is_ready(pod)).count());
        new.terminating =
            number(pods.iter().filter(|pod| is_deleting(&***pod) && !pods::is_finished(pod)).count());
        if decide::is_indexed(&job) {
            new.completed_indexes = Some(indexes::format(&counted.completed));
        }
        self.write(key, &job, &old, &new).await?;
        self.free_counted(&new, &pods).await?;
        if let Some(failure) = failure {
            return Err(Error::Other(failure));
        }
        Ok(again.map_or(Next::Done, Next::After))
    }

    async fn claim(&self, key: &Key, job: &Job) -> Result<Vec<Arc<Pod>>> {
        let selector = claim::selector(job.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let mut candidates = self.pods.by_index(pods::BY_CONTROLLER, uid(job));
        let Some(selector) = selector.filter(|selector: &Selector| !selector.selects_all()) else {
            return Ok(candidates);
        };
        candidates.extend(self.pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(&key.namespace)));
        let (jobs, api) = (self.context.api::<Job>(&key.namespace), self.context.api::<Pod>(&key.namespace));
        claim::claim(&jobs, &api, job, &selector, candidates).await
    }

    /// Takes the finalizer off pods whose job is gone, or no longer theirs: nobody will count them.
    async fn free_strays(&self, key: &Key, job: Option<&Job>) -> Result<()> {
        for pod in self.pods.in_namespace(&key.namespace) {
            if !has_finalizer(&pod) {
                continue;
            }
            let stray = match controller_of(&*pod) {
                Some(owner) => {
                    owner.kind == "Job"
                        && *owner.name == *key.name
                        && job.is_none_or(|job| uid(job) != owner.uid)
                }
                None => {
                    claim::labels(&*pod).get(JOB_NAME).is_some_and(|name| **name == *key.name)
                        && job.is_none_or(is_deleting)
                }
            };
            if stray {
                self.free(&pod).await?;
            }
        }
        Ok(())
    }

    async fn free(&self, pod: &Pod) -> Result<()> {
        let patch = json!({ "metadata": {
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        } });
        let api = self.context.api::<Pod>(namespace(pod));
        absent_is_fine(api.patch(name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        Ok(())
    }

    /// Takes the finalizer off the pods that the written status has on its list.
    async fn free_counted(&self, status: &JobStatus, pods: &[Arc<Pod>]) -> Result<()> {
        let Some(waiting) = &status.uncounted_terminated_pods else { return Ok(()) };
        let listed =
            |uid: &str| waiting.succeeded.iter().chain(&waiting.failed).flatten().any(|known| known == uid);
        for pod in pods.iter().filter(|pod| has_finalizer(pod) && listed(uid(&***pod))) {
            self.free(pod).await?;
        }
        Ok(())
    }

    async fn write(&self, key: &Key, job: &Job, old: &JobStatus, new: &JobStatus) -> Result<()> {
        let encode = |status: &JobStatus| {
            serde_json::to_value(status).map_err(|error| Error::Other(format!("encoding a status: {error}")))
        };
        let Some(status) = frame::difference(&encode(old)?, &encode(new)?) else { return Ok(()) };
        let patch = json!({
            "metadata": { "uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version },
            "status": status,
        });
        let api = self.context.api::<Job>(&key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Some(written) = absent_is_fine(written)? {
            self.status_written.note(key, &written);
        }
        Ok(())
    }

    /// Writes down how the job ends; it is over once no pod of it runs.
    fn judge(&self, job: &Job, status: &mut JobStatus, verdict: &Verdict, pods: &[Arc<Pod>]) {
        let now = self.context.now();
        let (first, last) =
            if verdict.succeeded { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        set_condition(status, condition(first, true, verdict.reason, &verdict.message, &now));
        let still_running = pods.iter().any(|pod| !pods::is_finished(pod));
        let still_uncounted = status.uncounted_terminated_pods.as_ref().is_some_and(|waiting| {
            waiting.succeeded.iter().chain(&waiting.failed).any(|list| !list.is_empty())
        });
        if still_running || still_uncounted {
            return;
        }
        set_condition(status, condition(last, true, verdict.reason, &verdict.message, &now));
        if verdict.succeeded {
            status.completion_time = Some(now);
            self.recorder.event(job, EventType::Normal, "Completed", "Job completed");
        } else {
            self.recorder.event(job, EventType::Warning, verdict.reason, verdict.message.clone());
        }
    }

    fn note_suspension(&self, job: &Job, status: &mut JobStatus) {
        let now = self.context.now();
        let known = status.conditions.iter().flatten().any(|one| one.type_ == "Suspended");
        if decide::is_suspended(job) {
            if set_condition(status, condition("Suspended", true, "JobSuspended", "Job suspended", &now)) {
                self.recorder.event(job, EventType::Normal, "Suspended", "Job suspended");
            }
            status.start_time = None;
        } else if known
            && set_condition(status, condition("Suspended", false, "JobResumed", "Job resumed", &now))
        {
            self.recorder.event(job, EventType::Normal, "Resumed", "Job resumed");
            status.start_time = Some(now);
        }
    }

    async fn delete(&self, key: &Key, job: &Job, pods: &[Arc<Pod>]) -> Option<String> {
        let api = self.context.api::<Pod>(&key.namespace);
        let mut failure = None;
        for pod in pods {
            match absent_is_fine(api.delete(name(&**pod), &DeleteParams::default()).await) {
                Ok(deleted) => {
                    if let Some(deleted) = deleted.and_then(|deleted| deleted.left()) {
                        self.written.note(key, &deleted);
                    }
                    let message = format!("Deleted pod: {}", name(&**pod));
                    self.recorder.event(job, EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) => failure = Some(error_text(&error)),
            }
        }
        failure
    }

    async fn create(&self, key: &Key, job: &Job, count: usize, indexes: &[i32]) -> (usize, Option<String>) {
        let api = self.context.api::<Pod>(&key.namespace);
        for made in 0..count {
            let pod = template_of(job, indexes.get(made).copied());
            match api.create(&PostParams::default(), &pod).await {
                Ok(pod) => {
                    self.written.note(key, &pod);
                    let message = format!("Created pod: {}", name(&pod));
                    self.recorder.event(job, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) => {
                    let text = error_text(&error);
                    self.recorder.event(
                        job,
                        EventType::Warning,
                        "FailedCreate",
                        format!("Error creating: {text}"),
                    );
                    return (made, Some(text));
                }
            }
        }
        (count, None)
    }
}

/// Moves ended pods into the list of the uncounted, and those whose finalizer is off into the counts.
fn count_up(job: &Job, status: &mut JobStatus, ended: &[Arc<Pod>], pods: &[Arc<Pod>]) {
    let by_uid: BTreeMap<&str, &Arc<Pod>> = pods.iter().map(|pod| (uid(&**pod), pod)).collect();
    let mut waiting = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let settle = |list: &mut Option<Vec<String>>, count: &mut Option<i32>| {
        let known = list.take().unwrap_or_default();
        let (stay, counted): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|uid| by_uid.get(uid.as_str()).is_some_and(|pod| has_finalizer(pod)));
        let number = count.unwrap_or(0) + i32::try_from(counted.len()).unwrap_or(0);
        *count = (number > 0).then_some(number);
        *list = Some(stay);
    };
    settle(&mut waiting.succeeded, &mut status.succeeded);
    settle(&mut waiting.failed, &mut status.failed);
    let mut completed = status.completed_indexes.as_deref().map(indexes::parse).unwrap_or_default();
    for pod in ended.iter().filter(|pod| has_finalizer(pod)) {
        let uid = uid(&**pod).to_owned();
        let lists = [&waiting.succeeded, &waiting.failed];
        if lists.iter().any(|list| list.iter().flatten().any(|known| *known == uid)) {
            continue;
        }
        match decide::outcome(job, pod) {
            Some(Outcome::Succeeded) => {
                completed.extend(decide::index_of(pod));
                waiting.succeeded.get_or_insert_default().push(uid);
            }
            Some(Outcome::Failed) => waiting.failed.get_or_insert_default().push(uid),
            None => {}
        }
    }
    waiting.succeeded = waiting.succeeded.filter(|list| !list.is_empty());
    waiting.failed = waiting.failed.filter(|list| !list.is_empty());
    status.uncounted_terminated_pods = Some(waiting);
}

fn template_of(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let prefix = index.map_or_else(|| name(job).to_owned(), |index| format!("{}-{index}", name(job)));
    let mut pod = pods::from_template(&template, &prefix, controlled_by(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let Some(index) = index else { return pod };
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.into(), index.to_string());
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname.get_or_insert_with(|| prefix.clone());
        let variable: EnvVar = EnvVar {
            name: "JOB_COMPLETION_INDEX".into(),
            value: None,
            value_from: serde_json::from_value(json!({
                "fieldRef": { "fieldPath": format!("metadata.labels['{INDEX}']") }
            }))
            .ok(),
        };
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let variables = container.env.get_or_insert_default();
            if !variables.iter().any(|known| known.name == variable.name) {
                variables.push(variable.clone());
            }
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_counted_once_whatever_is_seen_in_between() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"},
            "spec": {"template": {"spec": {"containers": []}}}}))
        .unwrap();
        let pod = |finalizer: bool| {
            let finalizers = if finalizer { json!([FINALIZER]) } else { json!(null) };
            Arc::new(
                serde_json::from_value::<Pod>(json!({"metadata": {"uid": "1", "finalizers": finalizers},
                    "status": {"phase": "Succeeded"}}))
                .unwrap(),
            )
        };
        let mut status = JobStatus::default();
        let ended = [pod(true)];
        for _ in 0..2 {
            count_up(&job, &mut status, &ended, &ended);
            assert_eq!(status.succeeded, None);
            let total = decide::counted(&job, &status, &ended);
            assert_eq!(total.succeeded, 1);
        }
        let freed = [pod(false)];
        for _ in 0..2 {
            count_up(&job, &mut status, &freed, &freed);
            assert_eq!(status.succeeded, Some(1));
            assert_eq!(decide::counted(&job, &status, &freed).succeeded, 1);
        }
    }

    #[test]
    fn a_pod_of_an_indexed_job_knows_its_index() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"},
            "spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}))
        .unwrap();
        let pod = template_of(&job, Some(3));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    }
}
