//! `ResourceQuota`: a namespace holds no more than its quotas say.
//!
//! What is used is counted from the objects in the cache, so there is no figure that could go stale. What was
//! admitted here and is not in the cache yet stands in a ledger, so that two creates at once cannot both take
//! the last place.

use std::collections::{BTreeMap, HashMap};

use api::quantity::{Format, Quantity};
use api::status::Status;
use parking_lot::Mutex;
use serde_json::Value;

use super::limit_ranger::{amounts, pod_total};
use super::{Context, Operation, Plugin, Request};
use crate::access::{list, text};

type Amounts = BTreeMap<String, Quantity>;

/// How long an admitted object stays in the ledger when it never appears, in seconds: its write failed.
const FORGET_AFTER: i64 = 5;

/// Objects that were admitted and are not in the cache yet.
#[derive(Default)]
pub(super) struct ResourceQuota {
    /// By namespace.
    ledger: Mutex<HashMap<String, Vec<Admitted>>>,
}

struct Admitted {
    resource: String,
    name: String,
    object: Value,
    at: i64,
}

impl Plugin for ResourceQuota {
    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        if !written || !request.subresource.is_empty() || request.namespace.is_empty() {
            return Ok(());
        }
        let quotas = context.world.list("resourcequotas", request.namespace);
        if quotas.is_empty() || request.resource == "resourcequotas" {
            return Ok(());
        }
        let id = request.resource_id();
        let mine = usage(&id, request.object);
        let before = request.old.map(|old| usage(&id, old)).unwrap_or_default();
        let mut ledger = self.ledger.lock();
        let now = context.clock.now().as_second();
        for quota in &quotas {
            let hard = amounts(quota.pointer("/spec/hard"));
            if !in_scope(quota, &id, request.object) {
                continue;
            }
            if request.operation == Operation::Create && id == "pods" {
                must_specify(request, quota, &hard)?;
            }
            let mut exceeded = Amounts::new();
            let mut used_at = Amounts::new();
            for (name, limit) in &hard {
                let Some(asked) = mine.get(name) else { continue };
                let delta = match before.get(name) {
                    Some(before) => *asked - *before,
                    None => *asked,
                };
                if delta.signum() <= 0 {
                    continue;
                }
                let used = used(request, context, quota, &id, name, ledger.get(request.namespace));
                if used + delta > *limit {
                    exceeded.insert(name.clone(), delta);
                    used_at.insert(name.clone(), used);
                }
            }
            if !exceeded.is_empty() {
                let write = |amounts: &Amounts| {
                    let parts: Vec<String> =
                        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
                    parts.join(",")
                };
                let limited: Amounts =
                    hard.into_iter().filter(|(name, _)| exceeded.contains_key(name)).collect();
                return Err(request.forbidden(format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    text(quota, "/metadata/name"),
                    write(&exceeded),
                    write(&used_at),
                    write(&limited)
                )));
            }
        }
        if request.operation == Operation::Create && !request.dry_run {
            let admitted = ledger.entry(request.namespace.to_owned()).or_default();
            admitted.retain(|it| {
                it.at + FORGET_AFTER > now
                    && context.world.lookup(&it.resource, request.namespace, &it.name).is_none()
            });
            admitted.push(Admitted {
                resource: id,
                name: text(request.object, "/metadata/name").to_owned(),
                object: request.object.clone(),
                at: now,
            });
        }
        Ok(())
    }
}

/// Counts what is used of one resource of a quota, the object being written aside.
fn used(
    request: &Request<'_>,
    context: &Context<'_>,
    quota: &Value,
    id: &str,
    name: &str,
    ledger: Option<&Vec<Admitted>>,
) -> Quantity {
    let own = text(request.object, "/metadata/name");
    let mut sum = Quantity::whole(0, Format::Decimal);
    let mut count = |object: &Value| {
        if in_scope(quota, id, object)
            && let Some(amount) = usage(id, object).get(name)
        {
            // The first amount says how the sum is written.
            sum = if sum.signum() == 0 { *amount } else { sum + *amount };
        }
    };
    for object in context.world.list(id, request.namespace) {
        // An update changes the object's own share, which is the difference that was asked for.
        count(&object);
    }
    let now = context.clock.now().as_second();
    for admitted in ledger.into_iter().flatten() {
        if admitted.resource == id
            && admitted.name != own
            && admitted.at + FORGET_AFTER > now
            && context.world.lookup(id, request.namespace, &admitted.name).is_none()
        {
            count(&admitted.object);
        }
    }
    sum
}

/// Says whether a quota counts an object.
fn in_scope(quota: &Value, id: &str, object: &Value) -> bool {
    let scopes = list(quota, "/spec/scopes").iter().filter_map(Value::as_str);
    let is_pod = id == "pods";
    scopes.into_iter().all(|scope| is_pod && matches_scope(scope, "Exists", &[], object))
        && list(quota, "/spec/scopeSelector/matchExpressions").iter().all(|expression| {
            is_pod
                && matches_scope(
                    text(expression, "/scopeName"),
                    text(expression, "/operator"),
                    list(expression, "/values"),
                    object,
                )
        })
}

fn matches_scope(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    let terminating = pod.pointer("/spec/activeDeadlineSeconds").is_some_and(|deadline| !deadline.is_null());
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            let among = values.iter().any(|value| value == class);
            match operator {
                "In" => among,
                "NotIn" => !among,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
            let affinity =
                pod.pointer(&format!("/spec/affinity/{kind}")).map(Value::to_string).unwrap_or_default();
            affinity.contains("\"namespaces\":[\"") || affinity.contains("\"namespaceSelector\":{")
        }),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers")).all(|container| {
        ["requests", "limits"].into_iter().all(|part| {
            amounts(container.pointer(&format!("/resources/{part}")))
                .iter()
                .all(|(name, amount)| !matches!(name.as_str(), "cpu" | "memory") || amount.signum() == 0)
        })
    })
}

/// Returns what an object uses, by the names that quotas have for it.
pub(super) fn usage(id: &str, object: &Value) -> Amounts {
    let mut found = Amounts::new();
    let one = Quantity::whole(1, Format::Decimal);
    found.insert(format!("count/{id}"), one);
    match id {
        "pods" => {
            if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") {
                found.clear();
                return found;
            }
            found.insert("pods".into(), one);
            for (name, amount) in pod_total(object, "requests") {
                if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    found.insert(name.clone(), amount);
                }
                found.insert(format!("requests.{name}"), amount);
            }
            for (name, amount) in pod_total(object, "limits") {
                found.insert(format!("limits.{name}"), amount);
            }
        }
        "services" => {
            found.insert("services".into(), one);
            let ports = i64::try_from(list(object, "/spec/ports").len()).unwrap_or(i64::MAX);
            let kind = text(object, "/spec/type");
            let no_ports = object.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
            if kind == "NodePort" || (kind == "LoadBalancer" && !no_ports) {
                found.insert("services.nodeports".into(), Quantity::whole(ports, Format::Decimal));
            }
            if kind == "LoadBalancer" {
                found.insert("services.loadbalancers".into(), one);
            }
        }
        "persistentvolumeclaims" => {
            found.insert("persistentvolumeclaims".into(), one);
            let class = text(object, "/spec/storageClassName");
            if !class.is_empty() {
                found.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one);
            }
            if let Some(size) = object.pointer("/spec/resources/requests/storage").and_then(Quantity::read) {
                found.insert("requests.storage".into(), size);
                if !class.is_empty() {
                    found.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), size);
                }
            }
        }
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            found.insert(id.to_owned(), one);
        }
        _ => {}
    }
    found
}

/// Where a quota limits a compute resource, every container of a pod must say how much it takes.
fn must_specify(request: &Request<'_>, quota: &Value, hard: &Amounts) -> Result<(), Status> {
    let mut missing = Vec::new();
    for name in hard.keys() {
        let (part, resource) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            "requests.cpu" | "requests.memory" => ("requests", &name["requests.".len()..]),
            "limits.cpu" | "limits.memory" => ("limits", &name["limits.".len()..]),
            _ => continue,
        };
        let pod = &*request.object;
        if pod.pointer(&format!("/spec/resources/{part}/{resource}")).is_some() {
            continue;
        }
        let without: Vec<&str> = list(pod, "/spec/containers")
            .iter()
            .chain(list(pod, "/spec/initContainers"))
            .filter(|container| container.pointer(&format!("/resources/{part}/{resource}")).is_none())
            .map(|container| text(container, "/name"))
            .collect();
        if !without.is_empty() {
            missing.push(format!("{name} for: {}", without.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "failed quota: {}: must specify {}",
        text(quota, "/metadata/name"),
        missing.join("; ")
    )))
}
