//! `Priority`: the number behind a pod's priority class, and one default class only.

use api::status::Status;
use serde_json::{Value, json};

use super::{Context, Operation, Plugin, Request};
use crate::access::text;

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";
/// Classes that every cluster has, with their value.
const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// Returns the priority classes that every cluster has.
#[must_use]
pub fn system_classes() -> Vec<Value> {
    SYSTEM
        .into_iter()
        .map(|(name, value, description)| {
            json!({
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "description": description,
                "preemptionPolicy": "PreemptLowerPriority",
                "value": value,
            })
        })
        .collect()
}

pub(super) struct Priority;

impl Plugin for Priority {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if request.is(Operation::Update, "pods") {
            // The number is the server's: an update that leaves it out keeps it.
            if request.object["spec"]["priority"].is_null()
                && let Some(priority) = request.old.and_then(|old| old.pointer("/spec/priority"))
            {
                request.object["spec"]["priority"] = priority.clone();
            }
            return Ok(());
        }
        if !request.is(Operation::Create, "pods") {
            return Ok(());
        }
        let name = text(request.object, "/spec/priorityClassName").to_owned();
        let (value, policy) = if name.is_empty() {
            let classes = context.world.list(CLASSES, "");
            let default = classes
                .iter()
                .filter(|class| class["globalDefault"] == true)
                .min_by_key(|class| class["value"].as_i64());
            match default {
                Some(class) => {
                    request.object["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
                    of_class(class)
                }
                None => (0, "PreemptLowerPriority".to_owned()),
            }
        } else if let Some(class) = context.world.lookup(CLASSES, "", &name) {
            of_class(&class)
        } else if let Some((_, value, _)) = SYSTEM.iter().find(|(system, ..)| *system == name) {
            (*value, "PreemptLowerPriority".to_owned())
        } else {
            return Err(request.forbidden(format!("no PriorityClass with name {name} was found")));
        };
        let spec = &request.object["spec"];
        if let Some(given) = spec["priority"].as_i64()
            && given != value
        {
            return Err(request.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            )));
        }
        if let Some(given) = spec["preemptionPolicy"].as_str()
            && given != policy
        {
            return Err(request.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        request.object["spec"]["priority"] = value.into();
        request.object["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }

    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let is_class = (request.group, request.resource) == ("scheduling.k8s.io", "priorityclasses")
            && matches!(request.operation, Operation::Create | Operation::Update);
        if !is_class || request.object["globalDefault"] != true {
            return Ok(());
        }
        let name = text(request.object, "/metadata/name");
        let classes = context.world.list(CLASSES, "");
        match classes
            .iter()
            .find(|class| class["globalDefault"] == true && text(class, "/metadata/name") != name)
        {
            Some(other) => Err(request.forbidden(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(other, "/metadata/name")
            ))),
            None => Ok(()),
        }
    }
}

fn of_class(class: &Value) -> (i64, String) {
    let policy = match text(class, "/preemptionPolicy") {
        "" => "PreemptLowerPriority",
        policy => policy,
    };
    (class["value"].as_i64().unwrap_or(0), policy.to_owned())
}
