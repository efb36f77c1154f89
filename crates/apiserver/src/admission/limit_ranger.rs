//! `LimitRanger`: defaults and bounds for what containers, pods and claims ask for.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use api::status::Status;
use serde_json::{Value, json};

use super::{Context, Operation, Plugin, Request};
use crate::access::{list, text};

/// Amounts by resource name.
type Amounts = BTreeMap<String, Quantity>;

/// Where the plugin says what it filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "pods") {
            return Ok(());
        }
        for range in context.world.list("limitranges", request.namespace) {
            let containers =
                list(&range, "/spec/limits").iter().filter(|limit| text(limit, "/type") == "Container");
            for limit in containers {
                fill_in(request.object, limit);
            }
        }
        Ok(())
    }

    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        let is_claim = request.is_for("persistentvolumeclaims", "") && written;
        if !request.is(Operation::Create, "pods") && !is_claim {
            return Ok(());
        }
        let mut errors = Vec::new();
        for range in context.world.list("limitranges", request.namespace) {
            for limit in list(&range, "/spec/limits") {
                check(request.object, limit, is_claim, &mut errors);
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(request.forbidden(&errors[0])),
            _ => Err(request.forbidden(format!("[{}]", errors.join(", ")))),
        }
    }
}

/// Fills defaults into every container, and says so in the annotation.
fn fill_in(pod: &mut Value, limit: &Value) {
    let mut notes = Vec::new();
    for (containers, kind) in [("containers", "container"), ("initContainers", "init container")] {
        let of_kind = pod.get_mut("spec").and_then(|spec| spec.get_mut(containers));
        for container in of_kind.and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, "/name").to_owned();
            for (defaults, part, word) in
                [("defaultRequest", "requests", "request"), ("default", "limits", "limit")]
            {
                let mut set = Vec::new();
                for (resource, amount) in limit[defaults].as_object().into_iter().flatten() {
                    if !container["resources"].is_object() {
                        container["resources"] = json!({});
                    }
                    let amounts = &mut container["resources"][part];
                    if amounts.get(resource).is_none() {
                        if !amounts.is_object() {
                            *amounts = json!({});
                        }
                        amounts[resource] = amount.clone();
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    notes.push(format!("{} {word} for {kind} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] =
            format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

fn check(object: &Value, limit: &Value, is_claim: bool, errors: &mut Vec<String>) {
    match text(limit, "/type") {
        "PersistentVolumeClaim" if is_claim => {
            let asked = amounts(object.pointer("/spec/resources/requests"));
            for (resource, bound) in amounts(limit.get("min")) {
                minimum("PersistentVolumeClaim", &resource, bound, &asked, &Amounts::new(), errors);
            }
            for (resource, bound) in amounts(limit.get("max")) {
                if let Some(asked) = asked.get(&resource)
                    && *asked > bound
                {
                    errors.push(format!(
                        "maximum {resource} usage per PersistentVolumeClaim is {bound}, but request is {asked}"
                    ));
                }
            }
        }
        "Container" if !is_claim => {
            for container in containers(object) {
                let requests = amounts(container.pointer("/resources/requests"));
                let limits = amounts(container.pointer("/resources/limits"));
                bounds("Container", limit, &requests, &limits, errors);
            }
        }
        "Pod" if !is_claim => {
            let total = |part: &str| pod_total(object, part);
            bounds("Pod", limit, &total("requests"), &total("limits"), errors);
        }
        _ => {}
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"))
}

fn bounds(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (resource, bound) in amounts(limit.get("min")) {
        minimum(kind, &resource, bound, requests, limits, errors);
    }
    for (resource, bound) in amounts(limit.get("max")) {
        let text = format!("maximum {resource} usage per {kind} is {bound}");
        match (limits.get(&resource), requests.get(&resource)) {
            (None, _) => errors.push(format!("{text}. No limit is specified")),
            (Some(limit), _) if *limit > bound => errors.push(format!("{text}, but limit is {limit}")),
            (_, Some(request)) if *request > bound => {
                errors.push(format!("{text}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (resource, ratio) in amounts(limit.get("maxLimitRequestRatio")) {
        let text = format!("{resource} max limit to request ratio per {kind} is {ratio}");
        let given =
            |amounts: &Amounts| amounts.get(&resource).map(|amount| amount.as_f64()).filter(|n| *n != 0.0);
        match (given(requests), given(limits)) {
            (None, _) => errors.push(format!("{text}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{text}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) if limit / request > ratio.as_f64() => {
                errors.push(format!("{text}, but provided ratio is {:.6}", limit / request));
            }
            _ => {}
        }
    }
}

fn minimum(
    kind: &str,
    resource: &str,
    bound: Quantity,
    requests: &Amounts,
    limits: &Amounts,
    errors: &mut Vec<String>,
) {
    let text = format!("minimum {resource} usage per {kind} is {bound}");
    match (requests.get(resource), limits.get(resource)) {
        (None, _) => errors.push(format!("{text}. No request is specified")),
        (Some(request), _) if *request < bound => errors.push(format!("{text}, but request is {request}")),
        (_, Some(limit)) if *limit < bound => errors.push(format!("{text}, but limit is {limit}")),
        _ => {}
    }
}

/// Reads a map of amounts.
pub(super) fn amounts(value: Option<&Value>) -> Amounts {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::read(amount)?)))
        .collect()
}

/// Returns what a pod as a whole requests, or is limited to: its containers and sidecars together, or the
/// largest of its init containers with the sidecars started before it, whichever is more, and its overhead.
pub(super) fn pod_total(pod: &Value, part: &str) -> Amounts {
    let of = |container: &Value| amounts(container.pointer(&format!("/resources/{part}")));
    let mut total = Amounts::new();
    for container in list(pod, "/spec/containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut largest) = (Amounts::new(), Amounts::new());
    for container in list(pod, "/spec/initContainers") {
        let mut needed = of(container);
        if text(container, "/restartPolicy") == "Always" {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut largest, &needed);
    }
    raise(&mut total, &largest);
    // A pod that says what it needs as a whole means that.
    for (name, amount) in amounts(pod.pointer(&format!("/spec/resources/{part}"))) {
        total.insert(name, amount);
    }
    let overhead = amounts(pod.pointer("/spec/overhead"));
    for (name, amount) in overhead {
        if part == "requests" {
            *total.entry(name).or_insert(Quantity::ZERO) += amount;
        } else if let Some(limit) = total.get_mut(&name) {
            *limit += amount;
        }
    }
    total
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        // The first amount also says how the sum is written.
        match total.get_mut(name) {
            Some(sum) => *sum += *amount,
            None => drop(total.insert(name.clone(), *amount)),
        }
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match total.get_mut(name) {
            Some(most) if *most >= *amount => {}
            _ => drop(total.insert(name.clone(), *amount)),
        }
    }
}
