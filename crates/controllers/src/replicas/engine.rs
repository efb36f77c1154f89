//! Reconciles one owner: claims its pods, makes or deletes some, and writes what it counted.
//!
//! Nothing is made twice: an owner is not acted for until the pod cache shows every write that was made for it
//! before (`written` holds the version of the last one).

use std::collections::HashMap;
use std::sync::Arc;

use client::{Delta, EventType, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::SelectorExt;
use tokio::task::JoinSet;

use super::decide::{self, Change, Failure};
use super::kinds::Replicated;
use crate::claim::{self, labels};
use crate::frame::{
    self, Context, Next, Result, Written, code, controlled_by, controller_of, error_text, is_deleting, name,
    namespace, seconds, uid,
};
use crate::pods;

/// How many owners are worked on at a time.
const WORKERS: usize = 4;
struct Engine<O> {
    context: Context,
    owners: Informer<O>,
    pods: Informer<Pod>,
    recorder: Recorder,
    written: Written<Key>,
}

/// Starts the controller of kind `O`.
pub(crate) fn start<O: Replicated>(context: &Context, task: &'static str) {
    let owners = context.informers.of::<O>();
    let pods = context.informers.of::<Pod>();
    pods::add_indices(&pods);
    let queue = context.queue();
    frame::enqueue(&owners, &queue);
    watch_pods(&owners, &pods, &queue);
    let engine = Arc::new(Engine {
        context: context.clone(),
        recorder: context.recorder(O::COMPONENT),
        owners: owners.clone(),
        pods: pods.clone(),
        written: Written::default(),
    });
    let ready = async move {
        owners.wait_synced().await;
        pods.wait_synced().await;
    };
    context.work(task, WORKERS, &queue, ready, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(&key).await }
    });
}

/// A change of a pod concerns its controller, the one it had, or whoever might adopt it.
fn watch_pods<O: Replicated>(owners: &Informer<O>, pods: &Informer<Pod>, queue: &WorkQueue<Key>) {
    let (owners, queue) = (owners.clone(), queue.clone());
    pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        let owner_key = |pod: &Pod| {
            controller_of(pod)
                .filter(|owner| owner.kind == O::kind(&()))
                .map(|owner| Key::new(namespace(pod), &owner.name))
        };
        let now = owner_key(pod);
        if let Some(before) = delta.old().and_then(|old| owner_key(old))
            && now.as_ref() != Some(&before)
        {
            queue.add(before);
        }
        if let Some(key) = now {
            queue.add(key);
        } else if controller_of(&**pod).is_none() && !matches!(delta, Delta::Deleted(_)) {
            for owner in owners.in_namespace(namespace(&**pod)) {
                if owner.selector().is_some_and(|selector| selector.matches(labels(&**pod))) {
                    queue.add(Key::of(&*owner));
                }
            }
        }
    });
}

impl<O: Replicated> Engine<O> {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(owner) = self.owners.get(key) else {
            self.written.forget(key);
            return Ok(Next::Done);
        };
        let Some(selector) = owner.selector() else { return Ok(Next::Done) };
        let caught_up = self.written.is_shown(key, self.pods.version());
        let namespace = &*key.namespace;
        let (owners, pod_api) = (self.context.api::<O>(namespace), self.context.api::<Pod>(namespace));
        let mut candidates = self.pods.by_index(pods::BY_CONTROLLER, uid(&*owner));
        candidates.extend(self.pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(namespace)));
        let terminating =
            candidates.iter().filter(|pod| is_deleting(&***pod) && !pods::is_finished(pod)).count();
        candidates.retain(|pod| pods::is_active(pod));
        let active = claim::claim(&owners, &pod_api, &*owner, &selector, candidates).await?;

        let mut failure = None;
        if caught_up && !is_deleting(&*owner) {
            failure = match decide::change(owner.replicas(), active.len()) {
                Change::None => None,
                Change::Create(count) => self.create(key, &owner, count).await,
                Change::Delete(count) => self.delete(key, &owner, active.clone(), count).await,
            };
        }

        let min_ready = seconds(owner.min_ready_seconds());
        let now = self.context.clock.now();
        let tally = decide::tally(&active, terminating, owner.template(), min_ready, now);
        let old = owner.status();
        let new = decide::status(
            &old,
            &tally,
            owner.meta().generation.unwrap_or(0),
            O::COUNTS_TERMINATING,
            failure.as_ref(),
            &self.context.now(),
        );
        frame::absent_is_fine(match frame::write_status(&owners, &*owner, &old, &new).await {
            Err(frame::Error::Api(error)) => Err(error),
            Err(other) => return Err(other),
            Ok(_) => Ok(()),
        })?;
        if let Some(failure) = failure {
            return Err(frame::Error::Other(failure.message));
        }
        Ok(match tally.next {
            _ if !caught_up => Next::After(Written::<Key>::CATCH_UP),
            Some(wait) => Next::After(wait),
            None => Next::Done,
        })
    }

    /// Makes pods in batches of 1, 2, 4, …, so that a mistake in the template costs one request, not hundreds.
    async fn create(&self, key: &Key, owner: &Arc<O>, count: usize) -> Option<Failure> {
        let template = owner.template()?;
        let pod = Arc::new(pods::from_template(template, name(&**owner), controlled_by(&**owner)));
        let api = self.context.api::<Pod>(&key.namespace);
        let (mut made, mut batch, mut failure) = (0, 1, None);
        while made < count && failure.is_none() {
            let mut requests = JoinSet::new();
            for _ in 0..batch.min(count - made) {
                let (api, pod) = (api.clone(), pod.clone());
                requests.spawn(async move { api.create(&PostParams::default(), &pod).await });
            }
            while let Some(result) = requests.join_next().await {
                match result {
                    Ok(Ok(pod)) => {
                        made += 1;
                        self.written.note(key, &pod);
                        let message = format!("Created pod: {}", name(&pod));
                        self.recorder.event(&**owner, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Ok(Err(error)) => {
                        let message = error_text(&error);
                        // In a namespace that is ending nothing can be made, and nobody needs to hear of it.
                        if !is_ending_namespace(&error) {
                            let text = format!("Error creating: {message}");
                            self.recorder.event(&**owner, EventType::Warning, "FailedCreate", text);
                        }
                        failure = Some(Failure { reason: "FailedCreate", message });
                    }
                    Err(error) => {
                        failure = Some(Failure { reason: "FailedCreate", message: error.to_string() });
                    }
                }
            }
            batch *= 2;
        }
        failure
    }

    async fn delete(
        &self,
        key: &Key,
        owner: &Arc<O>,
        mut active: Vec<Arc<Pod>>,
        count: usize,
    ) -> Option<Failure> {
        if count < active.len() {
            let related = self.related_by_node(owner, &active);
            pods::least_loss_first(&mut active, &related, self.context.clock.now());
        }
        let api = self.context.api::<Pod>(&key.namespace);
        let mut requests = JoinSet::new();
        for pod in active.into_iter().take(count) {
            let api = api.clone();
            requests.spawn(async move {
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: pod.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                let result = api.delete(name(&*pod), &params).await;
                (pod, result)
            });
        }
        let mut failure = None;
        while let Some(result) = requests.join_next().await {
            match result {
                Ok((pod, Ok(deleted))) => {
                    if let Some(deleted) = deleted.left() {
                        self.written.note(key, &deleted);
                    }
                    let message = format!("Deleted pod: {}", name(&*pod));
                    self.recorder.event(&**owner, EventType::Normal, "SuccessfulDelete", message);
                }
                Ok((_, Err(error))) if matches!(code(&error), 404 | 409) => {}
                Ok((_, Err(error))) => {
                    let message = error_text(&error);
                    let text = format!("Error deleting: {message}");
                    self.recorder.event(&**owner, EventType::Warning, "FailedDelete", text);
                    failure = Some(Failure { reason: "FailedDelete", message });
                }
                Err(error) => {
                    failure = Some(Failure { reason: "FailedDelete", message: error.to_string() });
                }
            }
        }
        failure
    }

    /// Counts, for each node, the pods of this owner and of the others with the same controller (the replica
    /// sets of one deployment).
    fn related_by_node(&self, owner: &Arc<O>, active: &[Arc<Pod>]) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        let mut count = |pod: &Pod| {
            if let Some(node) = pods::node(pod) {
                *counts.entry(node.to_owned()).or_insert(0) += 1;
            }
        };
        match controller_of(&**owner) {
            None => active.iter().for_each(|pod| count(pod)),
            Some(parent) => {
                for sibling in self.owners.in_namespace(namespace(&**owner)) {
                    if controller_of(&*sibling).is_some_and(|other| other.uid == parent.uid) {
                        for pod in self.pods.by_index(pods::BY_CONTROLLER, uid(&*sibling)) {
                            if pods::is_active(&pod) {
                                count(&pod);
                            }
                        }
                    }
                }
            }
        }
        counts
    }
}

fn is_ending_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status
        .details
        .as_ref()
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
        || status.message.contains("because it is being terminated")
}
