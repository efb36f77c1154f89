//! Replica sets, and their older form, replication controllers.

use jiff::Timestamp;
use serde_json::Value;

use super::super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::selector::Selector;
use crate::value::{default, object, set};

/// Completes the descriptor of `ReplicaSet` or `ReplicationController`.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    let columns = vec![
        NAME,
        Column::number("Desired", "How many pods are wanted."),
        Column::number("Current", "How many pods there are."),
        Column::number("Ready", "How many pods are ready."),
        AGE,
        cells::CONTAINERS,
        cells::IMAGES,
        cells::SELECTOR,
    ];
    if kind.group.is_empty() {
        kind.table =
            Table::new(columns, |object, now| row(object, now, cells::labels(&object["spec"]["selector"])));
        kind.strategy = Strategy {
            warnings: |_, object| pod::warnings_of_template(object),
            default: |_, object| controller_defaults(object),
            validate: |_, object, errors| validate_controller(object, errors),
            validate_update: |kind, new, _, part, errors| match part {
                Part::Status => status(new, errors),
                _ => (kind.strategy.validate)(kind, new, errors),
            },
            ..Strategy::GENERIC
        };
    } else {
        kind.table =
            Table::new(columns, |object, now| row(object, now, cells::selector(&object["spec"]["selector"])));
        kind.strategy = Strategy {
            warnings: |_, object| pod::warnings_of_template(object),
            default: |_, object| set_defaults(object),
            validate: |_, object, errors| validate_set(object, errors),
            validate_update: |_, new, old, part, errors| {
                if part == Part::Status {
                    status(new, errors);
                    return;
                }
                validate_set(new, errors);
                super::selector_unchanged(new, old, errors);
            },
            ..Strategy::GENERIC
        };
    }
}

fn row(object: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    let [names, images] = super::template_cells(object);
    vec![
        cells::name(object),
        cells::count(object, "spec.replicas").into(),
        cells::count(object, "status.replicas").into(),
        cells::count(object, "status.readyReplicas").into(),
        cells::age(object, now),
        names,
        images,
        selector.into(),
    ]
}

fn set_defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "replicas", 1);
    if let Some(template) = object(spec, "template") {
        pod::default_template(template);
    }
}

/// A replication controller takes its selector and its labels from its template.
fn controller_defaults(controller: &mut Value) {
    let Some(spec) = object(controller, "spec") else { return };
    default(spec, "replicas", 1);
    let mut labels = Value::Null;
    if spec["template"].is_object() {
        labels = spec["template"]["metadata"]["labels"].clone();
        if let Some(template) = object(spec, "template") {
            pod::default_template(template);
        }
    }
    if !labels.is_object() {
        return;
    }
    let empty = |map: &Value| map.as_object().is_none_or(serde_json::Map::is_empty);
    if empty(&spec["selector"]) {
        set(spec, "selector", labels.clone());
    }
    if let Some(meta) = object(controller, "metadata")
        && empty(&meta["labels"])
    {
        set(meta, "labels", labels);
    }
}

fn validate_set(set: &Value, errors: &mut Errors) {
    let (spec, path) = (&set["spec"], Path::new("spec"));
    check::not_negative(spec, "replicas", &path, errors);
    check::not_negative(spec, "minReadySeconds", &path, errors);
    super::selector_of_template(set, "empty selector is invalid for deployment", errors);
    super::long_running_template(set, errors);
}

fn validate_controller(controller: &Value, errors: &mut Errors) {
    let (spec, path) = (&controller["spec"], Path::new("spec"));
    check::not_negative(spec, "minReadySeconds", &path, errors);
    let selector = &spec["selector"];
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        errors.required(&path.child("selector"), "");
    }
    meta::validate_labels(selector, &path.child("selector"), errors);
    check::not_negative(spec, "replicas", &path, errors);
    let at = path.child("template");
    if spec["template"].is_null() {
        errors.required(&at, "");
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if selector.as_object().is_some_and(|map| !map.is_empty())
        && !Selector::from_map(selector).matches(labels)
    {
        errors.invalid(
            &at.child("metadata").child("labels"),
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
    super::long_running_template(controller, errors);
}

fn status(new: &Value, errors: &mut Errors) {
    let keys =
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    super::status_counts(new, &keys, errors);
    let (path, total) = (Path::new("status"), cells::count(new, "status.replicas"));
    for key in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        let number = cells::count(&new["status"], key);
        if number > total {
            errors.invalid(&path.child(key), number, "cannot be greater than status.replicas");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replication_controller_takes_selector_and_labels_from_its_template() {
        let mut object = json!({"metadata": {"name": "x"},
            "spec": {"template": {"metadata": {"labels": {"run": "x"}}, "spec": {"containers": []}}}});
        controller_defaults(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"run": "x"}));
        assert_eq!(object["metadata"]["labels"], json!({"run": "x"}));
        assert_eq!(object["spec"]["replicas"], 1);
    }
}
