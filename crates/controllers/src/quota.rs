//! Keeps `status.used` of resource quotas true: admission counts up what is made, this counts again what goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;

use crate::discover::{self, Resource};
use crate::frame::{self, Context, Next, Result, is_deleting, namespace};
use crate::pods;

/// When objects that are not watched here are counted again while a quota limits them.
const RECOUNT: Duration = Duration::from_secs(60);

struct Controller {
    context: Context,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        quotas: context.informers.of(),
        pods: context.informers.of(),
        services: context.informers.of(),
    });
    let queue = context.queue();
    frame::enqueue(&controller.quotas, &queue);
    let (quotas, pod_queue) = (controller.quotas.clone(), queue.clone());
    controller.pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        let counts = |pod: &Pod| !pods::is_finished(pod);
        if delta.old().is_none_or(|old| counts(old) != counts(pod)) {
            for quota in quotas.in_namespace(namespace(&**pod)) {
                pod_queue.add_after(Key::of(&*quota), Duration::from_millis(50));
            }
        }
    });
    let (quotas, service_queue) = (controller.quotas.clone(), queue.clone());
    controller.services.observe(move |delta: &Delta<Service>| {
        for quota in quotas.in_namespace(namespace(&**delta.object())) {
            service_queue.add_after(Key::of(&*quota), Duration::from_millis(50));
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.quotas.wait_synced().await;
            controller.pods.wait_synced().await;
            controller.services.wait_synced().await;
        }
    };
    context.work("resource quotas", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Returns whether a pod falls under the scopes of a quota.
fn in_scopes(quota: &ResourceQuota, pod: &Pod) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let best_effort = spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(|container| {
        container.resources.as_ref().is_none_or(|resources| {
            let none =
                |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().is_none_or(BTreeMap::is_empty);
            none(&resources.requests) && none(&resources.limits)
        })
    });
    let terminating = spec.active_deadline_seconds.is_some();
    let holds = |scope: &str| match scope {
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        _ => true,
    };
    let quota_spec = quota.spec.clone().unwrap_or_default();
    let plain = quota_spec.scopes.unwrap_or_default();
    let selected =
        quota_spec.scope_selector.and_then(|selector| selector.match_expressions).unwrap_or_default();
    plain.iter().all(|scope| holds(scope))
        && selected.iter().all(|one| match one.scope_name.as_str() {
            "PriorityClass" => {
                let class = spec.priority_class_name.clone().unwrap_or_default();
                let values = one.values.clone().unwrap_or_default();
                match one.operator.as_str() {
                    "In" => values.contains(&class),
                    "NotIn" => !values.contains(&class),
                    "Exists" => !class.is_empty(),
                    _ => class.is_empty(),
                }
            }
            scope => holds(scope),
        })
}

/// Sums what the pods ask for or are limited to; CPU in thousandths, the rest in whole units.
fn pod_sum(own: &[Arc<Pod>], resource: &str) -> Option<Quantity> {
    let (limits, name) = match resource.strip_prefix("limits.") {
        Some(name) => (true, name),
        None => (false, resource.strip_prefix("requests.").unwrap_or(resource)),
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && resource.strip_prefix("requests.").is_none()
    {
        return None;
    }
    let mut sum = 0i128;
    for pod in own {
        let Some(spec) = &pod.spec else { continue };
        let of = |container: &k8s_openapi::api::core::v1::Container| {
            let resources = container.resources.as_ref();
            let list =
                resources.and_then(|one| if limits { one.limits.as_ref() } else { one.requests.as_ref() });
            list.and_then(|list| list.get(name)).map_or(0, |quantity| milli(&quantity.0))
        };
        let together: i128 = spec.containers.iter().map(of).sum();
        let first = spec.init_containers.iter().flatten().map(of).max().unwrap_or(0);
        sum += together.max(first);
    }
    Some(Quantity(if sum % 1000 == 0 { (sum / 1000).to_string() } else { format!("{sum}m") }))
}

/// Reads a quantity in thousandths; what cannot be read counts as nothing.
pub(crate) fn milli(text: &str) -> i128 {
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: i128 = match suffix {
        "" => 1000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return 0,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = whole.parse().unwrap_or(0);
    let digits = u32::try_from(fraction.len().min(9)).unwrap_or(0);
    let part: i128 = fraction.get(..digits as usize).and_then(|text| text.parse().ok()).unwrap_or(0);
    whole * factor + part * factor / 10i128.pow(digits)
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(quota) = self.quotas.get(key) else { return Ok(Next::Done) };
        if is_deleting(&*quota) {
            return Ok(Next::Done);
        }
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let own: Vec<_> = self
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| !pods::is_finished(pod) && in_scopes(&quota, pod))
            .collect();
        let services = self.services.in_namespace(&key.namespace);
        let kind =
            |service: &Service| service.spec.as_ref().and_then(|spec| spec.type_.clone()).unwrap_or_default();
        let mut used = BTreeMap::new();
        let mut resources: Option<Vec<Resource>> = None;
        let mut recount = false;
        for name in hard.keys() {
            let count = |number: usize| Some(Quantity(number.to_string()));
            let value = match name.as_str() {
                "pods" | "count/pods" => count(own.len()),
                "services" | "count/services" => count(services.len()),
                "services.loadbalancers" => {
                    count(services.iter().filter(|service| kind(service) == "LoadBalancer").count())
                }
                "services.nodeports" => count(
                    services
                        .iter()
                        .filter(|service| matches!(kind(service).as_str(), "NodePort" | "LoadBalancer"))
                        .map(|service| {
                            service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).map_or(0, Vec::len)
                        })
                        .sum(),
                ),
                other => match pod_sum(&own, other) {
                    Some(sum) => Some(sum),
                    None => {
                        if resources.is_none() {
                            resources = Some(discover::resources(&self.context.client).await?);
                        }
                        recount = true;
                        self.count(other, &key.namespace, resources.as_deref().unwrap_or_default()).await?
                    }
                },
            };
            if let Some(value) = value {
                used.insert(name.clone(), value);
            }
        }
        let old = quota.status.clone().unwrap_or_default();
        let new = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        frame::write_status(&self.context.api::<ResourceQuota>(&key.namespace), &*quota, &old, &new).await?;
        Ok(if recount { Next::After(RECOUNT) } else { Next::Done })
    }

    /// Counts the objects of `count/<resource>.<group>`, or of a resource of the core group.
    async fn count(&self, name: &str, namespace: &str, resources: &[Resource]) -> Result<Option<Quantity>> {
        let name = name.strip_prefix("count/").unwrap_or(name);
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        let Some(resource) = resources.iter().find(|one| one.api.plural == plural && one.api.group == group)
        else {
            return Ok(None);
        };
        let found = resource.metadata(&self.context.client, namespace).list(&ListParams::default()).await?;
        Ok(Some(Quantity(found.items.len().to_string())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_summed_by_requests_and_limits() {
        let pod = |cpu: &str, memory: &str| {
            Arc::new(
                serde_json::from_value::<Pod>(json!({"spec": {"containers": [{"name": "a", "resources": {
                    "requests": {"cpu": cpu}, "limits": {"memory": memory}}}]}}))
                .unwrap(),
            )
        };
        let own = [pod("100m", "1Gi"), pod("1.5", "512Mi")];
        for (resource, expect) in [
            ("cpu", Some("1600m")),
            ("requests.cpu", Some("1600m")),
            ("limits.memory", Some("1610612736")),
            ("memory", Some("0")),
            ("configmaps", None),
        ] {
            assert_eq!(pod_sum(&own, resource).map(|sum| sum.0).as_deref(), expect, "{resource}");
        }
    }
}
