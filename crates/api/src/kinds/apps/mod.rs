//! The workloads that keep a number of pods running: one file a kind.

pub(super) mod controller_revision;
pub(super) mod daemonset;
pub(super) mod deployment;
pub(super) mod replicas;
pub(super) mod statefulset;

use serde_json::Value;

use super::{check, pod};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{Kind, Part, keep_other_parts};
use crate::selector::Selector;
use crate::value::{self, text};

/// Checks a `LabelSelector` that must be there, must not be empty and must select the template's pods.
fn selector_of_template(object: &Value, empty: &str, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let selector = &spec["selector"];
    let at = path.child("selector");
    if selector.is_null() {
        errors.required(&at, "");
        return;
    }
    meta::validate_selector(selector, &at, errors);
    let parsed = Selector::from_object(selector);
    if parsed.as_ref().is_ok_and(Selector::is_everything) {
        errors.invalid(&at, selector.clone(), empty);
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if parsed.is_ok_and(|selector| !selector.matches(labels)) {
        let at = path.child("template").child("metadata").child("labels");
        errors.invalid(&at, labels.clone(), "`selector` does not match template `labels`");
    }
}

/// Checks a template whose pods must be restarted always.
fn long_running_template(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("template");
    let template = &object["spec"]["template"];
    pod::validate_template(template, &path, errors);
    let policy = text(template, "spec.restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        errors.not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = "activeDeadlineSeconds in pod template is not supported";
        errors.forbidden(&path.child("spec").child("activeDeadlineSeconds"), why);
    }
}

/// Checks that the selector did not change.
fn selector_unchanged(new: &Value, old: &Value, errors: &mut Errors) {
    check::immutable(&new["spec"], &old["spec"], "selector", &Path::new("spec"), errors);
}

/// Checks the numbers of a status that may not be negative or greater than another.
fn status_counts(new: &Value, keys: &[&str], errors: &mut Errors) {
    let path = Path::new("status");
    for key in keys {
        check::not_negative(&new["status"], key, &path, errors);
    }
}

/// On a status update the labels stay as they were, too.
fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, part: Part<'_>) {
    keep_other_parts(kind, new, old, part);
    if part == Part::Status
        && let (Some(meta), Some(was)) = (new.get_mut("metadata"), old.get("metadata"))
    {
        value::keep(meta, was, "labels");
    }
}

/// The containers of a workload's template.
fn template_cells(object: &Value) -> [Value; 2] {
    super::cells::containers(&object["spec"]["template"]["spec"])
}
