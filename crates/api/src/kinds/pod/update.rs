//! Checks of changes to pods: nearly all of a pod's spec is immutable.

use serde_json::Value;

use super::validate;
use crate::field::{Errors, Path};
use crate::registry::Part;
use crate::value::{each_mut, int, keep, list, same, text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
     be set to 1 if it was previously negative)";

/// Checks a change of a part of a pod.
pub(super) fn validate(new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    match part {
        Part::Main => main(new, old, &path, errors),
        Part::Other("ephemeralcontainers") => {
            validate::spec(&new["spec"], &path, errors);
            ephemeral(new, old, &path.child("ephemeralContainers"), errors);
        }
        Part::Other("resize") => validate::spec(&new["spec"], &path, errors),
        Part::Status | Part::Other(_) => {}
    }
}

fn main(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    for key in ["containers", "initContainers"] {
        if list(&new["spec"], key).len() != list(&old["spec"], key).len() {
            errors.forbidden(&path.child(key), "pod updates may not add or remove containers");
            return;
        }
    }
    for key in ["containers", "initContainers"] {
        for (index, container) in list(&new["spec"], key).iter().enumerate() {
            let at = path.child(key).index(index).child("image");
            let image = text(container, "image");
            if image.is_empty() {
                errors.required(&at, "");
            } else if image.trim() != image {
                errors.invalid(&at, image, "must not have leading or trailing whitespace");
            }
        }
    }
    deadline(new, old, &path.child("activeDeadlineSeconds"), errors);
    tolerations(new, old, &path.child("tolerations"), errors);
    let gates = list(old, "spec.schedulingGates");
    for gate in list(new, "spec.schedulingGates") {
        if !gates.contains(gate) {
            let why =
                format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
            errors.forbidden(&path.child("schedulingGates"), why);
        }
    }
    if !errors.is_empty() {
        return;
    }
    // What may change is put back; whatever is then still different may not.
    let mut munged = new["spec"].clone();
    let was = &old["spec"];
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep(&mut munged, was, key);
    }
    if !gates.is_empty() {
        // A gated pod is not scheduled yet: where it may run can still be narrowed.
        keep(&mut munged, was, "nodeSelector");
        keep(&mut munged, was, "affinity");
    }
    if int(was, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0)
        && int(&munged, "terminationGracePeriodSeconds") == Some(1)
    {
        keep(&mut munged, was, "terminationGracePeriodSeconds");
    }
    for key in ["containers", "initContainers"] {
        let mut images = list(was, key).iter();
        each_mut(&mut munged, key, |container| {
            if let Some(one) = images.next() {
                keep(container, one, "image");
            }
        });
    }
    if !same(&munged, was) {
        let mut changes = Vec::new();
        differences(was, &munged, "spec", &mut changes);
        let why = format!("pod updates may not change fields other than {UPDATABLE}\n{}", changes.join("\n"));
        errors.forbidden(path, why);
    }
}

fn differences(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(was), Value::Object(is)) => {
            let mut keys: Vec<&String> =
                was.keys().chain(is.keys().filter(|key| !was.contains_key(*key))).collect();
            keys.sort_unstable();
            for key in keys {
                let none = &Value::Null;
                let (was, is) = (was.get(key).unwrap_or(none), is.get(key).unwrap_or(none));
                differences(was, is, &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            for (index, (was, is)) in was.iter().zip(is).enumerate() {
                differences(was, is, &format!("{path}[{index}]"), found);
            }
        }
        _ if !same(old, new) => found.push(format!("- {path}: {old}\n+ {path}: {new}")),
        _ => {}
    }
}

fn deadline(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    match (int(new, "spec.activeDeadlineSeconds"), int(old, "spec.activeDeadlineSeconds")) {
        (Some(seconds), _) if seconds <= 0 => {
            errors.invalid(path, seconds, "must be between 1 and 2147483647, inclusive");
        }
        (Some(seconds), Some(before)) if seconds > before => {
            errors.invalid(path, seconds, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

fn tolerations(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let kept = list(new, "spec.tolerations");
    let equal = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|key| same(&a[*key], &b[*key]))
    };
    for toleration in list(old, "spec.tolerations") {
        if !kept.iter().any(|one| equal(one, toleration)) {
            let why = "existing toleration can not be modified except its tolerationSeconds";
            errors.forbidden(path, why);
        }
    }
}

fn ephemeral(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let now = list(new, "spec.ephemeralContainers");
    for before in list(old, "spec.ephemeralContainers") {
        let name = text(before, "name");
        match now.iter().find(|one| text(one, "name") == name) {
            None => errors.forbidden(
                path,
                format!("existing ephemeral containers {} may not be removed\n", crate::field::quote(name)),
            ),
            Some(one) if !same(one, before) => {
                let why = format!(
                    "existing ephemeral containers {} may not be changed\n",
                    crate::field::quote(name)
                );
                errors.forbidden(path, why);
            }
            Some(_) => {}
        }
    }
}
