//! Reconciles one daemon set.

use std::sync::Arc;

use client::{Delta, EventType, Informer, Key, Recorder};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, PostParams};

use super::decide::{self, Rollout};
use crate::claim::{self, labels};
use crate::deployment::resolve;
use crate::frame::{
    self, Context, Error, Next, Result, Written, absent_is_fine, controlled_by, controller_of, error_text,
    is_deleting, name, namespace, seconds, uid,
};
use crate::history::{self, HASH_LABEL};
use crate::pods;

struct Engine {
    context: Context,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    recorder: Recorder,
    written: Written<Key>,
}

pub(crate) fn start(context: &Context) {
    let engine = Arc::new(Engine {
        context: context.clone(),
        sets: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        revisions: context.informers.of(),
        recorder: context.recorder("daemonset-controller"),
        written: Written::default(),
    });
    pods::add_indices(&engine.pods);
    history::add_index(&engine.revisions);
    let queue = context.queue();
    frame::enqueue(&engine.sets, &queue);
    let pod_queue = queue.clone();
    let sets = engine.sets.clone();
    engine.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        for pod in delta.old().into_iter().chain([pod]) {
            if let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == "DaemonSet") {
                pod_queue.add(Key::new(namespace(&**pod), &owner.name));
            }
        }
        if controller_of(&**pod).is_none() && !matches!(delta, Delta::Deleted(_)) {
            for set in sets.in_namespace(namespace(&**pod)) {
                let selector = claim::selector(set.spec.as_ref().map(|spec| &spec.selector));
                if selector
                    .is_some_and(|selector| kube::core::SelectorExt::matches(&selector, labels(&**pod)))
                {
                    pod_queue.add(Key::of(&*set));
                }
            }
        }
    });
    let (sets, node_queue) = (engine.sets.clone(), queue.clone());
    engine.nodes.observe(move |delta: &Delta<Node>| {
        let view = |node: &Node| {
            (node.metadata.labels.clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone()))
        };
        if delta.old().is_none_or(|old| view(old) != view(delta.object())) {
            sets.keys().into_iter().for_each(|key| node_queue.add(key));
        }
    });
    let ready = {
        let engine = engine.clone();
        async move {
            engine.sets.wait_synced().await;
            engine.pods.wait_synced().await;
            engine.nodes.wait_synced().await;
            engine.revisions.wait_synced().await;
        }
    };
    context.work("daemon sets", 2, &queue, ready, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(&key).await }
    });
}

impl Engine {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(set) = self.sets.get(key) else {
            self.written.forget(key);
            return Ok(Next::Done);
        };
        let Some(spec) = set.spec.clone() else { return Ok(Next::Done) };
        let Some(selector) = claim::selector(Some(&spec.selector)) else { return Ok(Next::Done) };
        if is_deleting(&*set) || selector.selects_all() {
            return Ok(Next::Done);
        }
        if !self.written.is_shown(key, self.pods.version()) {
            return Ok(Next::After(Written::<Key>::CATCH_UP));
        }
        let history = history::sync(&self.context, &self.revisions, &*set, &spec.template).await?;
        let hash = history::hash(&history.current);
        let mut candidates = self.pods.by_index(pods::BY_CONTROLLER, uid(&*set));
        candidates.extend(self.pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(&key.namespace)));
        let own = claim::claim(
            &self.context.api::<DaemonSet>(&key.namespace),
            &self.context.api::<Pod>(&key.namespace),
            &*set,
            &selector,
            candidates,
        )
        .await?;
        let mut pod_spec = spec.template.spec.clone().unwrap_or_default();
        decide::tolerate(&mut pod_spec);
        let nodes = self.nodes.all();
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let rolls = strategy.type_.as_deref() != Some("OnDelete");
        let desired = nodes.iter().filter(|node| decide::fits(&pod_spec, node).0).count();
        let unavailable = rolls.then(|| {
            let limit = strategy.rolling_update.as_ref().and_then(|rolling| rolling.max_unavailable.clone());
            let limit = limit.unwrap_or(IntOrString::Int(1));
            let limit = resolve(&limit, i32::try_from(desired).unwrap_or(i32::MAX), true);
            // An update that may not take anything away could not make progress here: nothing is made beside.
            usize::try_from(limit).unwrap_or(0).max(1)
        });
        let min_ready = seconds(spec.min_ready_seconds.unwrap_or(0));
        let rollout = Rollout { hash: &hash, unavailable };
        let plan = decide::plan(&pod_spec, &nodes, &own, rollout, min_ready, self.context.clock.now());

        let mut failure = None;
        for pod in &plan.failed {
            let node = decide::node_of(pod).unwrap_or_default();
            let message =
                format!("Found failed daemon pod {} on node {node}, will try to kill it", Key::of(&**pod));
            self.recorder.event(&*set, EventType::Warning, "FailedDaemonPod", message);
        }
        for pod in &plan.delete {
            failure = self.delete(key, &set, pod).await.or(failure);
        }
        for node in &plan.create {
            failure = self.create(key, &set, &spec.template, &hash, node).await.or(failure);
        }
        let old = set.status.clone().unwrap_or_default();
        let count = |value: i32| (value != 0).then_some(value);
        let new = DaemonSetStatus {
            desired_number_scheduled: plan.desired,
            current_number_scheduled: plan.current,
            number_misscheduled: plan.misscheduled,
            number_ready: plan.ready,
            number_available: count(plan.available),
            number_unavailable: count(plan.desired - plan.available),
            updated_number_scheduled: count(plan.updated),
            observed_generation: set.metadata.generation,
            ..old.clone()
        };
        frame::write_status(&self.context.api::<DaemonSet>(&key.namespace), &*set, &old, &new).await?;
        let in_use = |revision: &ControllerRevision| {
            let hash = history::hash(revision);
            own.iter().any(|pod| labels(&**pod).get(HASH_LABEL) == Some(&hash))
        };
        history::truncate(&self.context, &history, spec.revision_history_limit.unwrap_or(10), in_use).await?;
        if let Some(failure) = failure {
            return Err(Error::Other(failure));
        }
        Ok(plan.again.map_or(Next::Done, Next::After))
    }

    async fn delete(&self, key: &Key, set: &DaemonSet, pod: &Pod) -> Option<String> {
        let api = self.context.api::<Pod>(&key.namespace);
        match absent_is_fine(api.delete(name(pod), &DeleteParams::default()).await) {
            Ok(deleted) => {
                if let Some(deleted) = deleted.and_then(|deleted| deleted.left()) {
                    self.written.note(key, &deleted);
                }
                let message = format!("Deleted pod: {}", name(pod));
                self.recorder.event(set, EventType::Normal, "SuccessfulDelete", message);
                None
            }
            Err(error) => Some(error_text(&error)),
        }
    }

    async fn create(
        &self,
        key: &Key,
        set: &DaemonSet,
        template: &PodTemplateSpec,
        hash: &str,
        node: &str,
    ) -> Option<String> {
        let mut pod = pods::from_template(template, name(set), controlled_by(set));
        let generation = set.metadata.generation.unwrap_or(1).to_string();
        let own_labels = pod.metadata.labels.get_or_insert_default();
        own_labels.insert(HASH_LABEL.into(), hash.to_owned());
        own_labels.insert("pod-template-generation".into(), generation);
        let spec = pod.spec.get_or_insert_default();
        decide::tolerate(spec);
        decide::pin(spec, node);
        match self.context.api::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(made) => {
                self.written.note(key, &made);
                let message = format!("Created pod: {}", name(&made));
                self.recorder.event(set, EventType::Normal, "SuccessfulCreate", message);
                None
            }
            Err(error) => {
                let text = error_text(&error);
                self.recorder.event(
                    set,
                    EventType::Warning,
                    "FailedCreate",
                    format!("Error creating: {text}"),
                );
                Some(text)
            }
        }
    }
}
