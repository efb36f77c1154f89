//! Reconciles one deployment.

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::SelectorExt;
use serde_json::json;

use super::revision::{self, DESIRED, HASH_LABEL, MAX, REVISION};
use super::rolling::{self, Bounds, Set};
use super::status::{self, replicas};
use crate::claim::{self, labels};
use crate::frame::error_text;
use crate::frame::{
    self, Context, Error, Next, Result, absent_is_fine, code, controlled_by, controller_of, is_deleting,
    name, namespace, uid,
};
use crate::pods;

const WORKERS: usize = 4;
const COMPONENT: &str = "deployment-controller";

struct Engine {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    pods::add_indices(&pods);
    let queue = context.queue();
    frame::enqueue(&deployments, &queue);
    watch_sets(&deployments, &sets, &queue);
    watch_pods(&deployments, &sets, &pods, &queue);
    let engine = Arc::new(Engine {
        context: context.clone(),
        recorder: context.recorder(COMPONENT),
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    });
    let ready = async move {
        deployments.wait_synced().await;
        sets.wait_synced().await;
        pods.wait_synced().await;
    };
    context.work("deployment controller", WORKERS, &queue, ready, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(&key).await }
    });
}

fn owner_key(set: &ReplicaSet) -> Option<Key> {
    controller_of(set)
        .filter(|owner| owner.kind == "Deployment")
        .map(|owner| Key::new(namespace(set), &owner.name))
}

fn watch_sets(deployments: &Informer<Deployment>, sets: &Informer<ReplicaSet>, queue: &WorkQueue<Key>) {
    let (deployments, queue) = (deployments.clone(), queue.clone());
    sets.observe(move |delta: &Delta<ReplicaSet>| {
        let set = delta.object();
        if let Some(before) = delta.old().and_then(|old| owner_key(old)) {
            queue.add(before);
        }
        if let Some(key) = owner_key(set) {
            queue.add(key);
        } else if controller_of(&**set).is_none() && !matches!(delta, Delta::Deleted(_)) {
            for deployment in deployments.in_namespace(namespace(&**set)) {
                let selector = claim::selector(deployment.spec.as_ref().map(|spec| &spec.selector));
                if selector.is_some_and(|selector| selector.matches(labels(&**set))) {
                    queue.add(Key::of(&*deployment));
                }
            }
        }
    });
}

/// A deployment that recreates waits for the last pod of the old version to go.
fn watch_pods(
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
    pods: &Informer<Pod>,
    queue: &WorkQueue<Key>,
) {
    let (deployments, sets, queue) = (deployments.clone(), sets.clone(), queue.clone());
    pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        let ended = matches!(delta, Delta::Deleted(_))
            || delta.old().is_some_and(|old| !pods::is_finished(old) && pods::is_finished(pod));
        if !ended {
            return;
        }
        let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == "ReplicaSet") else { return };
        let key = sets.find(namespace(&**pod), &owner.name).and_then(|set| owner_key(&set));
        if let Some(key) = key
            && deployments.get(&key).is_some_and(|deployment| !rolling::is_rolling(&deployment))
        {
            queue.add(key);
        }
    });
}

/// The replica sets of a deployment while it is worked on.
struct Sets {
    new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    fn replace(&mut self, set: Arc<ReplicaSet>) {
        let slot = self.old.iter_mut().chain(&mut self.new).find(|known| uid(&***known) == uid(&*set));
        if let Some(slot) = slot {
            *slot = set;
        }
    }
}

fn model(set: &ReplicaSet) -> Set {
    let max =
        set.metadata.annotations.as_ref().and_then(|map| map.get(MAX)).and_then(|text| text.parse().ok());
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    Set { replicas: replicas(set), available, max_before: max }
}

impl Engine {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(cached) = self.deployments.get(key) else { return Ok(Next::Done) };
        let mut deployment = (*cached).clone();
        let Some(spec) = deployment.spec.clone() else { return Ok(Next::Done) };
        let Some(selector) = claim::selector(Some(&spec.selector)) else { return Ok(Next::Done) };
        if selector.selects_all() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&deployment, EventType::Warning, "SelectingAll", message);
            return Ok(Next::Done);
        }
        let sets = claim::claim(
            &self.context.api::<Deployment>(&key.namespace),
            &self.context.api::<ReplicaSet>(&key.namespace),
            &deployment,
            &selector,
            self.sets.in_namespace(&key.namespace),
        )
        .await?;
        if is_deleting(&deployment) {
            let sets = self.split(&deployment, &sets);
            return self
                .write(
                    &deployment,
                    status::calculate(&deployment, &sets.all(), sets.new.as_ref(), &self.context.now()),
                )
                .await;
        }
        self.mark_paused(&mut deployment).await?;
        let paused = spec.paused == Some(true);
        if paused || is_scaling(&deployment, &sets) {
            return self.scale(&deployment, sets, paused).await;
        }
        if rolling::is_rolling(&deployment) {
            self.roll(&deployment, sets).await
        } else {
            self.recreate(&deployment, sets).await
        }
    }

    fn split(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Sets {
        let new = revision::find_new(deployment, sets).cloned();
        let mut old: Vec<_> = sets
            .iter()
            .filter(|set| new.as_ref().is_none_or(|new| uid(&**new) != uid(&***set)))
            .cloned()
            .collect();
        old.sort_by_key(|set| revision::age_key(set));
        Sets { new, old }
    }

    async fn mark_paused(&self, deployment: &mut Deployment) -> Result<()> {
        if status::deadline(deployment).is_none() {
            return Ok(());
        }
        let old = deployment.status.clone().unwrap_or_default();
        let current = status::condition(&old, "Progressing");
        if current.is_some_and(|current| current.reason.as_deref() == Some("ProgressDeadlineExceeded")) {
            return Ok(());
        }
        let was = current.is_some_and(|current| current.reason.as_deref() == Some("DeploymentPaused"));
        let is = deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true));
        let (reason, message) = match (was, is) {
            (false, true) => ("DeploymentPaused", "Deployment is paused"),
            (true, false) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return Ok(()),
        };
        let condition =
            status::new_condition("Progressing", "Unknown", reason, message.into(), &self.context.now());
        self.add_condition(deployment, condition).await
    }

    /// Writes a condition at once, and into the copy that is worked with.
    async fn add_condition(
        &self,
        deployment: &mut Deployment,
        condition: k8s_openapi::api::apps::v1::DeploymentCondition,
    ) -> Result<()> {
        let old = deployment.status.clone().unwrap_or_default();
        let mut new = old.clone();
        status::set_condition(&mut new, condition);
        let api = self.context.api::<Deployment>(namespace(deployment));
        frame::write_status(&api, deployment, &old, &new).await?;
        deployment.status = Some(new);
        Ok(())
    }

    async fn write(&self, deployment: &Deployment, new: DeploymentStatus) -> Result<Next> {
        let old = deployment.status.clone().unwrap_or_default();
        let api = self.context.api::<Deployment>(namespace(deployment));
        frame::write_status(&api, deployment, &old, &new).await?;
        Ok(match status::stuck_in(deployment, &new, self.context.clock.now()) {
            Some(wait) => Next::After(wait.max(Duration::from_secs(1))),
            None => Next::Done,
        })
    }

    async fn write_rollout(&self, deployment: &Deployment, sets: &Sets) -> Result<Next> {
        let new = status::rollout(deployment, &sets.all(), sets.new.as_ref(), &self.context.now());
        self.write(deployment, new).await
    }

    /// Finds the current version's set and keeps its annotations; makes it if there is none.
    async fn with_new(
        &self,
        deployment: &mut Deployment,
        sets: &[Arc<ReplicaSet>],
        make: bool,
    ) -> Result<Sets> {
        let mut split = self.split(deployment, sets);
        let next_revision = split.old.iter().map(|set| revision::revision_of(set)).max().unwrap_or(0) + 1;
        if let Some(new) = split.new.clone() {
            let annotations =
                revision::set_annotations(deployment, new.metadata.annotations.as_ref(), next_revision, None);
            let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
            let own_min_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
            if Some(&annotations) != new.metadata.annotations.as_ref()
                || min_ready.unwrap_or(0) != own_min_ready.unwrap_or(0)
            {
                let mut changed = (*new).clone();
                changed.metadata.annotations = Some(annotations);
                if let Some(spec) = &mut changed.spec {
                    spec.min_ready_seconds = min_ready;
                }
                split.replace(Arc::new(self.put(&changed).await?));
            }
            if status::deadline(deployment).is_some()
                && status::condition(&deployment.status.clone().unwrap_or_default(), "Progressing").is_none()
            {
                let message = format!("Found new replica set {:?}", name(&*new));
                let condition = status::new_condition(
                    "Progressing",
                    "True",
                    "FoundNewReplicaSet",
                    message,
                    &self.context.now(),
                );
                self.add_condition(deployment, condition).await?;
            }
        } else if make {
            split.new = Some(Arc::new(self.make_new(deployment, &split, next_revision).await?));
        }
        if let Some(new) = &split.new {
            self.set_revision(deployment, new).await?;
        }
        Ok(split)
    }

    async fn put(&self, set: &ReplicaSet) -> Result<ReplicaSet> {
        let api = self.context.api::<ReplicaSet>(namespace(set));
        Ok(api.replace(name(set), &PostParams::default(), set).await?)
    }

    async fn set_revision(&self, deployment: &mut Deployment, new: &ReplicaSet) -> Result<()> {
        let Some(revision) = new.metadata.annotations.as_ref().and_then(|map| map.get(REVISION)) else {
            return Ok(());
        };
        let annotations = deployment.metadata.annotations.get_or_insert_default();
        if annotations.get(REVISION) == Some(revision) {
            return Ok(());
        }
        annotations.insert(REVISION.into(), revision.clone());
        let patch =
            json!({ "metadata": { "uid": deployment.metadata.uid, "annotations": { REVISION: revision } } });
        let api = self.context.api::<Deployment>(namespace(deployment));
        api.patch(name(deployment), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn make_new(
        &self,
        deployment: &mut Deployment,
        sets: &Sets,
        next_revision: i64,
    ) -> Result<ReplicaSet> {
        let spec = deployment.spec.clone().unwrap_or_default();
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = revision::template_hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let set_labels = meta.labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let bounds = Bounds::of(deployment);
        let sum = sets.old.iter().map(|set| replicas(set)).sum();
        let size = rolling::new_set_replicas(bounds, rolling::is_rolling(deployment), 0, sum);
        let limits = Some((bounds.replicas, bounds.max()));
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", name(deployment))),
                namespace: deployment.metadata.namespace.clone(),
                labels: set_labels,
                annotations: Some(revision::set_annotations(deployment, None, next_revision, limits)),
                owner_references: Some(vec![controlled_by(deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let api = self.context.api::<ReplicaSet>(namespace(deployment));
        let made = match api.create(&PostParams::default(), &set).await {
            Ok(made) => made,
            Err(error) if code(&error) == 409 => return self.resolve_collision(deployment, &set).await,
            Err(error) => {
                let message =
                    format!("Failed to create new replica set {:?}: {}", name(&set), error_text(&error));
                if status::deadline(deployment).is_some() {
                    let now = self.context.now();
                    let condition = status::new_condition(
                        "Progressing",
                        "False",
                        "ReplicaSetCreateError",
                        message.clone(),
                        &now,
                    );
                    self.add_condition(deployment, condition).await?;
                }
                self.recorder.event(deployment, EventType::Warning, "ReplicaSetCreateError", message);
                return Err(Error::Api(error));
            }
        };
        if size > 0 {
            let message = format!("Scaled up replica set {} from 0 to {size}", name(&made));
            self.recorder.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
        }
        if status::deadline(deployment).is_some() {
            let message = format!("Created new replica set {:?}", name(&made));
            let now = self.context.now();
            let condition =
                status::new_condition("Progressing", "True", "NewReplicaSetCreated", message, &now);
            self.add_condition(deployment, condition).await?;
        }
        Ok(made)
    }

    /// The name is taken: by this very set, which the cache does not show yet, or by another template.
    async fn resolve_collision(&self, deployment: &Deployment, wanted: &ReplicaSet) -> Result<ReplicaSet> {
        let found = self.context.api::<ReplicaSet>(namespace(deployment)).get(name(wanted)).await?;
        let template =
            |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let is_own = controller_of(&found).is_some_and(|owner| owner.uid == uid(deployment));
        if is_own && revision::same_template(&template(&found), &template(wanted)) {
            return Ok(found);
        }
        let old = deployment.status.clone().unwrap_or_default();
        let mut new = old.clone();
        new.collision_count = Some(old.collision_count.unwrap_or(0) + 1);
        let api = self.context.api::<Deployment>(namespace(deployment));
        frame::write_status(&api, deployment, &old, &new).await?;
        Err(Error::Other(format!("the name {} is taken by another template; choosing another", name(wanted))))
    }

    /// Sets the size of `set` and the limits that it remembers; tells whether the size changed.
    async fn resize(
        &self,
        deployment: &Deployment,
        sets: &mut Sets,
        set: &Arc<ReplicaSet>,
        size: i32,
    ) -> Result<bool> {
        let bounds = Bounds::of(deployment);
        let (desired, max) = (bounds.replicas.to_string(), bounds.max().to_string());
        let annotation = |key: &str| set.metadata.annotations.as_ref().and_then(|map| map.get(key));
        let before = replicas(set);
        if before == size && annotation(DESIRED) == Some(&desired) && annotation(MAX) == Some(&max) {
            return Ok(false);
        }
        let mut changed = (**set).clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED.into(), desired);
        annotations.insert(MAX.into(), max);
        if let Some(spec) = &mut changed.spec {
            spec.replicas = Some(size);
        }
        sets.replace(Arc::new(self.put(&changed).await?));
        if before != size {
            let direction = if size > before { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {before} to {size}", name(&**set));
            self.recorder.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
        }
        Ok(before != size)
    }

    async fn roll(&self, deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Result<Next> {
        let mut deployment = deployment.clone();
        let mut sets = self.with_new(&mut deployment, &sets, true).await?;
        let bounds = Bounds::of(&deployment);
        if let Some(new) = sets.new.clone() {
            let sum = sets.all().iter().map(|set| replicas(set)).sum();
            let size = rolling::new_set_replicas(bounds, true, replicas(&new), sum);
            if size != replicas(&new) {
                self.resize(&deployment, &mut sets, &new, size).await?;
                return self.write_rollout(&deployment, &sets).await;
            }
        }
        let mut old: Vec<Set> = sets.old.iter().map(|set| model(set)).collect();
        let new = sets.new.as_ref().map(|set| model(set));
        if rolling::shrink_old(bounds, new.as_ref(), &mut old) {
            for (set, wanted) in sets.old.clone().iter().zip(&old) {
                if replicas(set) != wanted.replicas {
                    self.resize(&deployment, &mut sets, set, wanted.replicas).await?;
                }
            }
            return self.write_rollout(&deployment, &sets).await;
        }
        if status::is_complete(&deployment, &deployment.status.clone().unwrap_or_default()) {
            self.forget_old(&deployment, &sets).await?;
        }
        self.write_rollout(&deployment, &sets).await
    }

    async fn recreate(&self, deployment: &Deployment, all: Vec<Arc<ReplicaSet>>) -> Result<Next> {
        let mut deployment = deployment.clone();
        let mut sets = self.with_new(&mut deployment, &all, false).await?;
        let mut shrunk = false;
        for set in sets.old.clone() {
            if replicas(&set) > 0 {
                shrunk |= self.resize(&deployment, &mut sets, &set, 0).await?;
            }
        }
        let still_running = sets.old.iter().any(|set| {
            let pods = self.pods.by_index(pods::BY_CONTROLLER, uid(&**set));
            pods.iter().any(|pod| !pods::is_finished(pod))
        });
        if shrunk || still_running {
            return self.write_rollout(&deployment, &sets).await;
        }
        if sets.new.is_none() {
            sets = self.with_new(&mut deployment, &sets.all(), true).await?;
        }
        if let Some(new) = sets.new.clone() {
            let size = Bounds::of(&deployment).replicas;
            self.resize(&deployment, &mut sets, &new, size).await?;
        }
        if status::is_complete(&deployment, &deployment.status.clone().unwrap_or_default()) {
            self.forget_old(&deployment, &sets).await?;
        }
        self.write_rollout(&deployment, &sets).await
    }

    /// Only the size changed, or the deployment is paused: no version is begun.
    async fn scale(&self, deployment: &Deployment, all: Vec<Arc<ReplicaSet>>, paused: bool) -> Result<Next> {
        let mut deployment = deployment.clone();
        let mut sets = self.with_new(&mut deployment, &all, false).await?;
        let bounds = Bounds::of(&deployment);
        let active: Vec<_> = sets.all().into_iter().filter(|set| replicas(set) > 0).collect();
        let only = match active.as_slice() {
            [] => sets.new.clone().or_else(|| sets.old.last().cloned()),
            [one] => Some(one.clone()),
            _ => None,
        };
        let is_saturated = sets.new.as_ref().is_some_and(|new| {
            let available = new.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            replicas(new) == bounds.replicas && available == bounds.replicas
        });
        if let Some(only) = only {
            self.resize(&deployment, &mut sets, &only, bounds.replicas).await?;
        } else if is_saturated {
            for set in sets.old.clone() {
                if replicas(&set) > 0 {
                    self.resize(&deployment, &mut sets, &set, 0).await?;
                }
            }
        } else if rolling::is_rolling(&deployment) {
            let mut wanted: Vec<Set> = active.iter().map(|set| model(set)).collect();
            let known = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
            rolling::scale_proportionally(bounds, &mut wanted, known);
            for (set, wanted) in active.iter().zip(&wanted) {
                self.resize(&deployment, &mut sets, set, wanted.replicas).await?;
            }
        }
        if paused {
            self.forget_old(&deployment, &sets).await?;
        }
        let new = status::calculate(&deployment, &sets.all(), sets.new.as_ref(), &self.context.now());
        self.write(&deployment, new).await
    }

    /// Deletes the oldest versions beyond the history limit.
    async fn forget_old(&self, deployment: &Deployment, sets: &Sets) -> Result<()> {
        let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return Ok(()) };
        let mut old: Vec<_> = sets.old.iter().filter(|set| !is_deleting(&***set)).collect();
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| (revision::revision_of(set), revision::age_key(set)));
        let api = self.context.api::<ReplicaSet>(namespace(deployment));
        for set in old.into_iter().take(excess) {
            let status = set.status.clone().unwrap_or_default();
            let is_behind = set.metadata.generation > status.observed_generation;
            if replicas(set) == 0 && status.replicas == 0 && !is_behind {
                absent_is_fine(api.delete(name(&**set), &DeleteParams::background()).await)?;
            }
        }
        Ok(())
    }
}

/// Tells whether the size of the deployment is another than when its sets were last scaled.
fn is_scaling(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    let wanted = Bounds::of(deployment).replicas;
    sets.iter().filter(|set| replicas(set) > 0).any(|set| {
        let annotations = set.metadata.annotations.as_ref();
        annotations
            .and_then(|map| map.get(DESIRED))
            .and_then(|text| text.parse::<i32>().ok())
            .is_some_and(|desired| desired != wanted)
    })
}
