//! Reconciles one stateful set.

use std::sync::Arc;

use client::{Delta, EventType, Informer, Key, Recorder};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use kube::api::{DeleteParams, PostParams};

use super::decide::{self, Goal};
use crate::claim;
use crate::frame::{
    self, Context, Error, Next, Result, Written, absent_is_fine, code, controlled_by, controller_of,
    error_text, is_deleting, name, namespace, seconds, uid,
};
use crate::history::{self, HASH_LABEL, History};
use crate::pods;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

struct Engine {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    recorder: Recorder,
    written: Written<Key>,
}

pub(crate) fn start(context: &Context) {
    let engine = Arc::new(Engine {
        context: context.clone(),
        sets: context.informers.of(),
        pods: context.informers.of(),
        revisions: context.informers.of(),
        recorder: context.recorder("statefulset-controller"),
        written: Written::default(),
    });
    pods::add_indices(&engine.pods);
    history::add_index(&engine.revisions);
    let queue = context.queue();
    frame::enqueue(&engine.sets, &queue);
    let (sets, pod_queue) = (engine.sets.clone(), queue.clone());
    engine.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        for pod in delta.old().into_iter().chain([pod]) {
            if let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == "StatefulSet") {
                pod_queue.add(Key::new(namespace(&**pod), &owner.name));
            }
        }
        if controller_of(&**pod).is_none() && !matches!(delta, Delta::Deleted(_)) {
            for set in sets.in_namespace(namespace(&**pod)) {
                if decide::ordinal(name(&*set), pod).is_some() {
                    pod_queue.add(Key::of(&*set));
                }
            }
        }
    });
    let ready = {
        let engine = engine.clone();
        async move {
            engine.sets.wait_synced().await;
            engine.pods.wait_synced().await;
            engine.revisions.wait_synced().await;
        }
    };
    context.work("stateful sets", 2, &queue, ready, move |key| {
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
        if is_deleting(&*set) {
            return Ok(Next::Done);
        }
        if !self.written.is_shown(key, self.pods.version()) {
            return Ok(Next::After(Written::<Key>::CATCH_UP));
        }
        let history = history::sync(&self.context, &self.revisions, &*set, &spec.template).await?;
        let update = history::hash(&history.current);
        let mut candidates = self.pods.by_index(pods::BY_CONTROLLER, uid(&*set));
        let orphans = self.pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(&key.namespace));
        candidates.extend(orphans.into_iter().filter(|pod| decide::ordinal(&key.name, pod).is_some()));
        let own = claim::claim(
            &self.context.api::<StatefulSet>(&key.namespace),
            &self.context.api::<Pod>(&key.namespace),
            &*set,
            &selector,
            candidates,
        )
        .await?;
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let rolls = strategy.type_.as_deref() != Some("OnDelete");
        let partition = strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0);
        let goal = Goal {
            name: &key.name,
            replicas: spec.replicas.unwrap_or(1),
            start: spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0),
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            partition: rolls.then_some(partition),
            update: &update,
            min_ready: seconds(spec.min_ready_seconds.unwrap_or(0)),
        };
        let steps = decide::steps(&goal, &own, self.context.clock.now());
        let mut failure = None;
        for pod in &steps.delete {
            failure = self.delete(key, &set, pod).await.or(failure);
        }
        for ordinal in &steps.create {
            failure = self.create(key, &set, &spec, &history, &goal, *ordinal).await.or(failure);
        }
        self.write_status(key, &set, &goal, &own, &history).await?;
        let in_use = |revision: &ControllerRevision| {
            let hash = history::hash(revision);
            own.iter().any(|pod| decide::hash(pod) == hash)
        };
        history::truncate(&self.context, &history, spec.revision_history_limit.unwrap_or(10), in_use).await?;
        if let Some(failure) = failure {
            return Err(Error::Other(failure));
        }
        Ok(steps.again.map_or(Next::Done, Next::After))
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &StatefulSet,
        goal: &Goal<'_>,
        own: &[Arc<Pod>],
        history: &History,
    ) -> Result<()> {
        let old = set.status.clone().unwrap_or_default();
        let now = self.context.clock.now();
        let number = |check: &dyn Fn(&Pod) -> bool| {
            i32::try_from(own.iter().filter(|pod| check(pod)).count()).unwrap_or(i32::MAX)
        };
        let update = name(&*history.current).to_owned();
        let replicas = number(&|_| true);
        let ready = number(&|pod| pods::is_ready(pod) && !is_deleting(pod));
        let updated = number(&|pod| decide::hash(pod) == goal.update && !is_deleting(pod));
        let mut current_revision = old.current_revision.clone().unwrap_or_else(|| update.clone());
        let complete = updated == replicas && ready == replicas && replicas == goal.replicas;
        if complete && goal.partition.is_some() {
            current_revision.clone_from(&update);
        }
        let current_hash = history
            .all
            .iter()
            .find(|revision| name(&***revision) == current_revision)
            .map(|revision| history::hash(revision));
        let current = number(&|pod| Some(decide::hash(pod)) == current_hash.as_deref() && !is_deleting(pod));
        let count = |value: i32| (value != 0).then_some(value);
        let new = StatefulSetStatus {
            replicas,
            ready_replicas: count(ready),
            available_replicas: Some(number(&|pod| {
                pods::is_available(pod, goal.min_ready, now) && !is_deleting(pod)
            })),
            current_replicas: count(current),
            updated_replicas: count(updated),
            current_revision: Some(current_revision),
            update_revision: Some(update),
            observed_generation: set.metadata.generation,
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions.clone(),
        };
        frame::write_status(&self.context.api::<StatefulSet>(&key.namespace), set, &old, &new).await?;
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &StatefulSet, pod: &str) -> Option<String> {
        let api = self.context.api::<Pod>(&key.namespace);
        let (set_name, verb) = (name(set), "delete");
        match absent_is_fine(api.delete(pod, &DeleteParams::default()).await) {
            Ok(deleted) => {
                if let Some(deleted) = deleted.and_then(|deleted| deleted.left()) {
                    self.written.note(key, &deleted);
                }
                let message = format!("{verb} Pod {pod} in StatefulSet {set_name} successful");
                self.recorder.event(set, EventType::Normal, "SuccessfulDelete", message);
                None
            }
            Err(error) => {
                let text = error_text(&error);
                let message = format!("{verb} Pod {pod} in StatefulSet {set_name} failed error: {text}");
                self.recorder.event(set, EventType::Warning, "FailedDelete", message);
                Some(text)
            }
        }
    }

    async fn create(
        &self,
        key: &Key,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        history: &History,
        goal: &Goal<'_>,
        ordinal: i32,
    ) -> Option<String> {
        let revision = version_for(set, history, goal, ordinal);
        let pod = pod_of(set, spec, revision, ordinal);
        let (pod_name, set_name) = (name(&pod).to_owned(), name(set));
        for claim in claims_of(set, spec, ordinal) {
            let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let claim = name(&claim);
                    let message =
                        format!("create Claim {claim} Pod {pod_name} in StatefulSet {set_name} success");
                    self.recorder.event(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if code(&error) == 409 => {}
                Err(error) => return Some(error_text(&error)),
            }
        }
        match self.context.api::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(made) => {
                self.written.note(key, &made);
                let message = format!("create Pod {pod_name} in StatefulSet {set_name} successful");
                self.recorder.event(set, EventType::Normal, "SuccessfulCreate", message);
                None
            }
            Err(error) => {
                let text = error_text(&error);
                let message = format!("create Pod {pod_name} in StatefulSet {set_name} failed error: {text}");
                self.recorder.event(set, EventType::Warning, "FailedCreate", message);
                Some(text)
            }
        }
    }
}

/// Below the partition a pod comes back as it was.
fn version_for<'a>(
    set: &StatefulSet,
    history: &'a History,
    goal: &Goal<'_>,
    ordinal: i32,
) -> &'a ControllerRevision {
    let below = goal.partition.is_some_and(|partition| ordinal < goal.start.saturating_add(partition));
    let current = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let old = history.all.iter().find(|revision| current == Some(name(&***revision)));
    match old {
        Some(old) if below => old,
        _ => &history.current,
    }
}

fn claim_name(claim: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", name(claim), name(set))
}

fn claims_of(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    spec.volume_claim_templates
        .iter()
        .flatten()
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(template, set, ordinal));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            claim
        })
        .collect()
}

fn pod_of(set: &StatefulSet, spec: &StatefulSetSpec, revision: &ControllerRevision, ordinal: i32) -> Pod {
    let template = history::template(revision).unwrap_or_else(|| spec.template.clone());
    let mut pod = pods::from_template(&template, name(set), controlled_by(set));
    let own_name = format!("{}-{ordinal}", name(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(own_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), own_name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(HASH_LABEL.into(), history::hash(revision));
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(own_name);
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let claims = spec.volume_claim_templates.iter().flatten();
    let volumes = pod_spec.volumes.get_or_insert_default();
    for template in claims {
        volumes.retain(|volume| volume.name != name(template));
        volumes.push(Volume {
            name: name(template).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set, ordinal),
                read_only: Some(false),
            }),
            ..Volume::default()
        });
    }
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_has_its_name_its_host_name_and_its_own_claims() {
        let set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"serviceName": "nginx", "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a"}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}}))
            .unwrap();
        let spec = set.spec.clone().unwrap();
        let revision = ControllerRevision::default();
        let pod = pod_of(&set, &spec, &revision, 2);
        assert_eq!(name(&pod), "web-2");
        let pod_spec = pod.spec.unwrap();
        assert_eq!(
            (pod_spec.hostname.as_deref(), pod_spec.subdomain.as_deref()),
            (Some("web-2"), Some("nginx"))
        );
        let claim = pod_spec.volumes.unwrap()[0].persistent_volume_claim.clone().unwrap();
        assert_eq!(claim.claim_name, "data-web-2");
        assert_eq!(name(&claims_of(&set, &spec, 2)[0]), "data-web-2");
    }
}
