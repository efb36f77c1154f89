//! Checks of resource requests and limits.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::meta;
use crate::quantity::Quantity;

/// Checks the `resources` of a container.
pub(super) fn validate(resources: &Value, path: &Path, errors: &mut Errors) {
    let limits = resources["limits"].as_object();
    for side in ["limits", "requests"] {
        let at = path.child(side);
        for (name, value) in resources[side].as_object().into_iter().flatten() {
            container_resource_name(name, &at.key(name), errors);
            quantity(name, value, &at.key(name), errors);
        }
    }
    let at = path.child("requests");
    for (name, value) in resources["requests"].as_object().into_iter().flatten() {
        let Some(request) = Quantity::read(value) else { continue };
        match limits.and_then(|limits| limits.get(name)).and_then(Quantity::read) {
            Some(limit) if request != limit && !overcommits(name) => {
                errors.invalid(&at, request.to_string(), format!("must be equal to {name} limit of {limit}"));
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&at, request.to_string(), why);
            }
            None if !overcommits(name) => {
                errors.required(&path.child("limits"), "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

/// Checks the quantities of a list of resources, such as a node's capacity.
pub(in crate::kinds) fn resource_list(list: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in list.as_object().into_iter().flatten() {
        quantity(name, value, &path.key(name), errors);
    }
}

/// Checks that the amount of a resource is not negative, and whole where only whole ones make sense.
pub(in crate::kinds) fn quantity(name: &str, value: &Value, path: &Path, errors: &mut Errors) {
    let Some(quantity) = Quantity::read(value) else { return };
    if quantity.signum() < 0 {
        errors.invalid(path, quantity.to_string(), "must be greater than or equal to 0");
    }
    let whole = matches!(
        name,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
    ) || (name.contains('/') && !is_native(name));
    if whole && !quantity.is_whole() {
        errors.invalid(path, quantity.to_string(), "must be an integer");
    }
}

fn container_resource_name(name: &str, path: &Path, errors: &mut Errors) {
    let wrong = meta::qualified_name_errors(name);
    if !wrong.is_empty() {
        for why in wrong {
            errors.invalid(path, name, why);
        }
        return;
    }
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if is_native(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more of a resource may be limited than is requested.
fn overcommits(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}
