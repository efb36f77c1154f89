//! Says how many pods of a disruption budget may be taken away now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::SelectorExt;

use crate::claim::{self, labels};
use crate::deployment::resolve;
use crate::frame::{self, Context, Next, Result, controller_of, is_deleting, name, namespace, uid, until};
use crate::pods;

/// How long an eviction that was allowed may take until the pod is seen to go.
const DISRUPTION: Duration = Duration::from_secs(120);

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    recorder: Recorder,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        budgets: context.informers.of(),
        pods: context.informers.of(),
        sets: context.informers.of(),
        deployments: context.informers.of(),
        stateful: context.informers.of(),
        controllers: context.informers.of(),
        recorder: context.recorder("controllermanager"),
    });
    let queue = context.queue();
    frame::enqueue(&controller.budgets, &queue);
    let (budgets, pod_queue) = (controller.budgets.clone(), queue.clone());
    controller.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        let view =
            |pod: &Pod| (pods::is_ready(pod), is_deleting(pod), pods::is_finished(pod), labels(pod).clone());
        if delta.old().is_some_and(|old| view(old) == view(pod)) && !matches!(delta, Delta::Deleted(_)) {
            return;
        }
        for budget in budgets.in_namespace(namespace(&**pod)) {
            let old = delta.old();
            if selects(&budget, pod) || old.is_some_and(|old| selects(&budget, old)) {
                pod_queue.add(Key::of(&*budget));
            }
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.budgets.wait_synced().await;
            controller.pods.wait_synced().await;
            controller.sets.wait_synced().await;
            controller.deployments.wait_synced().await;
            controller.stateful.wait_synced().await;
            controller.controllers.wait_synced().await;
        }
    };
    context.work("disruption budgets", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = claim::selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
    selector.is_some_and(|selector| selector.matches(labels(pod)))
}

/// Returns how many pods there should be and how many have to be healthy. `scale` is what the pods'
/// controllers ask for together; unknown when a pod has none.
fn desired(
    budget: &PodDisruptionBudget,
    count: i32,
    scale: impl FnOnce() -> Result<i32, String>,
) -> Result<(i32, i32), String> {
    let spec = budget.spec.clone().unwrap_or_default();
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(limit), _) => {
            let expected = scale()?;
            Ok((expected, (expected - resolve(limit, expected, true)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((count, *least)),
        (None, Some(share)) => {
            let expected = scale()?;
            Ok((expected, resolve(share, expected, true)))
        }
        (None, None) => Ok((count, 1)),
    }
}

impl Controller {
    /// Returns what the controllers of these pods ask for together.
    fn scale(&self, own: &[Arc<Pod>]) -> Result<i32, String> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        for pod in own {
            let Some(owner) = controller_of(&**pod) else {
                return Err(format!("found no controller ref for pod {:?}", name(&**pod)));
            };
            let space = namespace(&**pod);
            let found = match owner.kind.as_str() {
                "ReplicationController" => self.controllers.find(space, &owner.name).map(|found| {
                    (owner.uid.clone(), found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                }),
                "StatefulSet" => self.stateful.find(space, &owner.name).map(|found| {
                    (owner.uid.clone(), found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                }),
                "ReplicaSet" => self.sets.find(space, &owner.name).map(|set| {
                    let parent = controller_of(&*set)
                        .filter(|parent| parent.kind == "Deployment")
                        .and_then(|parent| self.deployments.find(space, &parent.name));
                    match parent {
                        Some(parent) => {
                            let replicas = parent.spec.as_ref().and_then(|spec| spec.replicas);
                            (uid(&*parent).to_owned(), replicas.unwrap_or(1))
                        }
                        None => {
                            (owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                        }
                    }
                }),
                _ => None,
            };
            let Some((owner_uid, replicas)) = found else {
                return Err(format!("found no controllers for pod {:?}", name(&**pod)));
            };
            scales.insert(owner_uid, replicas);
        }
        Ok(scales.values().sum())
    }

    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Done) };
        let now = self.context.clock.now();
        let own: Vec<_> = self
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| selects(&budget, pod) && !pods::is_finished(pod))
            .collect();
        let old = budget.status.clone().unwrap_or_default();
        let (disrupted, again) = still_disrupted(&old, &own, now);
        let healthy = own
            .iter()
            .filter(|pod| {
                !is_deleting(&***pod) && pods::is_ready(pod) && !disrupted.contains_key(name(&***pod))
            })
            .count();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let (expected, wanted) = match desired(&budget, number(own.len()), || self.scale(&own)) {
            Ok(found) => found,
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.event(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                (0, 0)
            }
        };
        let healthy = number(healthy);
        let allowed = if expected <= 0 { 0 } else { (healthy - wanted).max(0) };
        let new = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(wanted),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            observed_generation: budget.metadata.generation,
            conditions: Some(conditions(&old, allowed, budget.metadata.generation, &self.context.now())),
        };
        let api = self.context.api::<PodDisruptionBudget>(&key.namespace);
        frame::write_status(&api, &*budget, &old, &new).await?;
        Ok(again.map_or(Next::Done, Next::After))
    }
}

/// Returns the pods whose eviction was allowed and has not been seen yet.
fn still_disrupted(
    status: &PodDisruptionBudgetStatus,
    own: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut again: Option<Duration> = None;
    let mut still = BTreeMap::new();
    for (pod, since) in status.disrupted_pods.iter().flatten() {
        let wait = until(since.0, DISRUPTION, now);
        let is_there = own.iter().any(|one| name(&**one) == pod && !is_deleting(&**one));
        if is_there && !wait.is_zero() {
            again = Some(again.map_or(wait, |again| again.min(wait)));
            still.insert(pod.clone(), since.clone());
        }
    }
    (still, again)
}

fn conditions(
    old: &PodDisruptionBudgetStatus,
    allowed: i32,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let known = old.conditions.iter().flatten().find(|one| one.type_ == "DisruptionAllowed");
    let since = known.filter(|known| known.status == status).map(|known| known.last_transition_time.clone());
    vec![Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| now.clone()),
    }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_is_a_number_or_a_share_of_what_should_be_there() {
        for (spec, count, expect) in [
            (json!({"minAvailable": 2}), 3, (3, 2)),
            (json!({"minAvailable": "50%"}), 3, (5, 3)),
            (json!({"maxUnavailable": 1}), 3, (5, 4)),
            (json!({"maxUnavailable": "30%"}), 3, (5, 3)),
            (json!({}), 3, (3, 1)),
        ] {
            let budget: PodDisruptionBudget = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(desired(&budget, count, || Ok(5)), Ok(expect), "{spec}");
        }
    }
}
