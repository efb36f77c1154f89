//! The horizontal pod autoscaler: sizes a workload by what its pods use.
//!
//! Looks every 15 seconds while there is an autoscaler, since use is no event. Metrics of CPU and memory are
//! read from metrics.k8s.io; for other metrics there is no source in this cluster, and the condition says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Informer, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricStatus, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::frame::{self, Context, Next, Result, error_text, is_deleting, name};
use crate::pods;
use crate::quota::milli;

const PERIOD: Duration = Duration::from_secs(15);
/// How long a recommendation keeps the size from falling below it.
const STABILIZATION: i64 = 300;

struct Controller {
    context: Context,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    recorder: Recorder,
    /// What was recommended lately, and when.
    recommended: Mutex<HashMap<Key, Vec<(Timestamp, i32)>>>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        autoscalers: context.informers.of(),
        recorder: context.recorder("horizontal-pod-autoscaler"),
        recommended: Mutex::default(),
    });
    let queue = context.queue();
    let feed = queue.clone();
    controller.autoscalers.observe(move |delta| {
        // What this controller writes itself does not hurry it.
        if delta.old().is_none_or(|old| old.spec != delta.object().spec) {
            feed.add(Key::of(&**delta.object()));
        }
    });
    let autoscalers = controller.autoscalers.clone();
    context.work("autoscalers", 1, &queue, async move { autoscalers.wait_synced().await }, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// What one pod asks for and uses, in thousandths of the unit.
#[derive(Debug, Clone, Copy)]
struct Use {
    requested: i128,
    used: Option<i128>,
}

/// Returns the size that brings the use to the target, and the use as (percent of the requests, average).
fn recommend(current: i32, metric: &MetricSpec, uses: &[Use]) -> Result<(i32, Option<i32>, i128), String> {
    let resource = metric.resource.as_ref().ok_or("only resource metrics have a source in this cluster")?;
    let known: Vec<_> = uses.iter().filter_map(|one| Some((one.requested, one.used?))).collect();
    let count = i128::try_from(known.len()).unwrap_or(0);
    if count == 0 {
        return Err("no metrics returned from resource metrics API".into());
    }
    let used: i128 = known.iter().map(|(_, used)| used).sum();
    let average = used / count;
    let (level, target, percent) = match (resource.target.average_utilization, &resource.target.average_value)
    {
        (Some(target), _) => {
            let requested: i128 = known.iter().map(|(requested, _)| requested).sum();
            if known.iter().any(|(requested, _)| *requested == 0) {
                return Err(format!("missing request for {}", resource.name));
            }
            let percent = used * 100 / requested.max(1);
            (percent, i128::from(target), i32::try_from(percent).ok())
        }
        (None, Some(target)) => (average, milli(&target.0), None),
        (None, None) => return Err("the metric has no target".into()),
    };
    if target <= 0 {
        return Err("the metric's target is not positive".into());
    }
    // Within a tenth of the target nothing changes.
    if (level - target).abs() * 10 <= target {
        return Ok((current, percent, average));
    }
    // A pod without metrics counts as idle when growing and as on target when shrinking.
    let unknown = i128::try_from(uses.len()).unwrap_or(0) - count;
    let all = if level > target { level * count } else { level * count + target * unknown };
    let size = (all + target - 1) / target;
    Ok((i32::try_from(size).unwrap_or(i32::MAX), percent, average))
}

/// Bounds a recommendation by the limits and by how fast a workload may grow.
fn bound(current: i32, wanted: i32, least: i32, most: i32) -> (i32, Option<&'static str>) {
    let fastest = (current.saturating_mul(2)).max(4);
    if wanted > fastest && fastest < most {
        (fastest, Some("ScaleUpLimit"))
    } else if wanted > most {
        (most, Some("TooManyReplicas"))
    } else if wanted < least {
        (least, Some("TooFewReplicas"))
    } else {
        (wanted, None)
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.recommended.lock().remove(key);
            return Ok(Next::Done);
        };
        if is_deleting(&*autoscaler) {
            return Ok(Next::Done);
        }
        let old = autoscaler.status.clone().unwrap_or_default();
        let mut new = old.clone();
        new.observed_generation = autoscaler.metadata.generation;
        if let Err((condition, reason, message)) = self.size(key, &autoscaler, &mut new).await {
            self.recorder.event(&*autoscaler, EventType::Warning, reason, message.clone());
            set(&mut new, condition, false, reason, &message, &self.context.now());
        }
        let api = self.context.api::<HorizontalPodAutoscaler>(&key.namespace);
        frame::write_status(&api, &*autoscaler, &old, &new).await?;
        Ok(Next::After(PERIOD))
    }

    /// Looks, decides and scales; on failure names the condition that is false, its reason and message.
    async fn size(
        &self,
        key: &Key,
        autoscaler: &HorizontalPodAutoscaler,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<(), (&'static str, &'static str, String)> {
        let now = self.context.now();
        let spec = autoscaler.spec.clone();
        let target = &spec.scale_target_ref;
        let version = target.api_version.clone().unwrap_or("v1".into());
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version.as_str()));
        let resource =
            ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &target.kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &key.namespace, &resource);
        let scale = api.get_scale(&target.name).await.map_err(|error| {
            let text = format!(
                "the HPA controller was unable to get the target's current scale: {}",
                error_text(&error)
            );
            ("AbleToScale", "FailedGetScale", text)
        })?;
        set(
            status,
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
            &now,
        );
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        status.current_replicas = scale.status.as_ref().map(|status| status.replicas);
        if current == 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            return Err(("ScalingActive", "ScalingDisabled", text.into()));
        }
        let selector = scale.status.and_then(|status| status.selector).unwrap_or_default();
        let mut wanted = 0;
        let mut reason = String::new();
        let mut seen = Vec::new();
        for metric in spec.metrics.iter().flatten() {
            let resource = metric.resource.as_ref().map(|one| one.name.clone()).unwrap_or_default();
            let failed = |why: String| {
                (
                    "ScalingActive",
                    "FailedGetResourceMetric",
                    format!(
                        "the HPA was unable to compute the replica count: failed to get {resource} utilization: {why}"
                    ),
                )
            };
            let uses =
                self.uses(key, &selector, &resource).await.map_err(|error| failed(error_text(&error)))?;
            let (size, percent, average) = recommend(current, metric, &uses).map_err(failed)?;
            if size > wanted {
                wanted = size;
                let direction = if size >= current { "above" } else { "below" };
                reason = match percent {
                    Some(_) => {
                        format!("{resource} resource utilization (percentage of request) {direction} target")
                    }
                    None => format!("{resource} resource {direction} target"),
                };
            }
            seen.push(MetricStatus {
                type_: "Resource".into(),
                resource: Some(ResourceMetricStatus {
                    name: resource.clone(),
                    current: MetricValueStatus {
                        average_utilization: percent,
                        average_value: Some(Quantity(format!("{average}m"))),
                        value: None,
                    },
                }),
                ..MetricStatus::default()
            });
        }
        status.current_metrics = Some(seen);
        let text = format!("the HPA was able to successfully calculate a replica count from {reason}");
        set(status, "ScalingActive", true, "ValidMetricFound", &text, &now);
        let window = spec
            .behavior
            .as_ref()
            .and_then(|behavior| behavior.scale_down.as_ref()?.stabilization_window_seconds)
            .map_or(STABILIZATION, i64::from);
        let stable = self.stabilize(key, wanted, window).max(wanted);
        let wanted = if stable > wanted { stable.min(current).max(wanted) } else { wanted };
        let (size, limit) = bound(current, wanted, spec.min_replicas.unwrap_or(1), spec.max_replicas);
        match limit {
            Some(limit) => {
                let text = format!("the desired replica count is limited to {size}");
                set(status, "ScalingLimited", true, limit, &text, &now);
            }
            None => set(
                status,
                "ScalingLimited",
                false,
                "DesiredWithinRange",
                "the desired count is within the acceptable range",
                &now,
            ),
        }
        status.desired_replicas = size;
        if size != current {
            let patch = json!({ "spec": { "replicas": size } });
            api.patch_scale(&target.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(
                |error| {
                    let text = format!(
                        "the HPA controller was unable to update the target scale: {}",
                        error_text(&error)
                    );
                    ("AbleToScale", "FailedUpdateScale", text)
                },
            )?;
            status.last_scale_time = Some(now.clone());
            let text = format!("the HPA controller was able to update the target scale to {size}");
            set(status, "AbleToScale", true, "SucceededRescale", &text, &now);
            let text = format!("New size: {size}; reason: {reason}");
            self.recorder.event(autoscaler, EventType::Normal, "SuccessfulRescale", text);
        }
        Ok(())
    }

    /// Remembers a recommendation and returns the largest of the window.
    fn stabilize(&self, key: &Key, wanted: i32, window: i64) -> i32 {
        let now = self.context.clock.now();
        let mut recommended = self.recommended.lock();
        let list = recommended.entry(key.clone()).or_default();
        list.retain(|(at, _)| now.duration_since(*at).as_secs() < window);
        list.push((now, wanted));
        list.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted)
    }

    async fn uses(&self, key: &Key, selector: &str, resource: &str) -> kube::Result<Vec<Use>> {
        let params = ListParams::default().labels(selector);
        let found = self.context.api::<Pod>(&key.namespace).list(&params).await?;
        let kind = kube::core::GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
        let kind = ApiResource::from_gvk_with_plural(&kind, "pods");
        let metrics: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &key.namespace, &kind);
        let used: HashMap<String, i128> = metrics
            .list(&params)
            .await?
            .items
            .into_iter()
            .map(|pod| (name(&pod).to_owned(), sum(&pod.data["containers"], |one| &one["usage"][resource])))
            .collect();
        Ok(found
            .items
            .iter()
            .filter(|pod| pods::is_active(pod))
            .map(|pod| {
                let containers = pod.spec.as_ref().map(|spec| json!(spec.containers)).unwrap_or_default();
                Use {
                    requested: sum(&containers, |one| &one["resources"]["requests"][resource]),
                    used: used.get(name(pod)).copied().filter(|_| pods::is_ready(pod)),
                }
            })
            .collect())
    }
}

fn sum(containers: &Value, of: impl Fn(&Value) -> &Value) -> i128 {
    let each = containers.as_array().into_iter().flatten();
    each.map(|one| of(one).as_str().map_or(0, milli)).sum()
}

fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    is: bool,
    reason: &str,
    message: &str,
    now: &Time,
) {
    let conditions = status.conditions.get_or_insert_default();
    let mut new = HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: if is { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(now.clone()),
    };
    match conditions.iter_mut().find(|known| known.type_ == kind) {
        Some(known) => {
            if known.status == new.status {
                new.last_transition_time = known.last_transition_time.clone();
            }
            *known = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_follows_the_use_and_small_deviations_do_not_matter() {
        let metric = |target: Value| -> MetricSpec {
            serde_json::from_value(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}))
                .unwrap()
        };
        let half = || metric(json!({"type": "Utilization", "averageUtilization": 50}));
        let uses = |used: &[i128]| {
            used.iter().map(|used| Use { requested: 100, used: Some(*used) }).collect::<Vec<_>>()
        };
        for (metric, uses, expect) in [
            (half(), uses(&[50, 50]), 2),
            (half(), uses(&[54, 52]), 2),
            (half(), uses(&[100, 100]), 4),
            (half(), uses(&[10, 10]), 1),
            (half(), vec![Use { requested: 100, used: Some(100) }, Use { requested: 100, used: None }], 2),
            (metric(json!({"type": "AverageValue", "averageValue": "20m"})), uses(&[50, 50]), 5),
        ] {
            assert_eq!(recommend(2, &metric, &uses).unwrap().0, expect, "{uses:?}");
        }
        let none = [Use { requested: 0, used: Some(5) }];
        assert_eq!(recommend(1, &half(), &none).unwrap_err(), "missing request for cpu");
    }

    #[test]
    fn growth_is_bounded_by_speed_and_limits() {
        for (current, wanted, expect) in [(1, 100, 4), (10, 100, 20), (40, 100, 50), (5, 0, 2), (5, 7, 7)] {
            assert_eq!(bound(current, wanted, 2, 50).0, expect);
        }
    }
}
