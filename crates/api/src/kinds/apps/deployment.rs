//! Deployments.

use jiff::Timestamp;
use serde_json::Value;

use super::super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, int, object, remove, text};

/// Completes the descriptor.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        warnings: |_, object| pod::warnings_of_template(object),
        default: |_, object| defaults(object),
        prepare_update: super::prepare_update,
        validate: |_, object, errors| validate(object, errors),
        validate_update,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Ready", "How many of the wanted pods are ready."),
            Column::number("Up-to-date", "How many pods are of the current template."),
            Column::number("Available", "How many pods have been ready for long enough."),
            AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        row,
    );
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = super::template_cells(object);
    let count = |path: &str| cells::count(object, path);
    vec![
        cells::name(object),
        format!("{}/{}", count("status.readyReplicas"), count("spec.replicas")).into(),
        count("status.updatedReplicas").into(),
        count("status.availableReplicas").into(),
        cells::age(object, now),
        names,
        images,
        cells::selector(&object["spec"]["selector"]).into(),
    ]
}

fn defaults(deployment: &mut Value) {
    let Some(spec) = object(deployment, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object(spec, "strategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            if let Some(rolling) = object(strategy, "rollingUpdate") {
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
        } else if strategy["rollingUpdate"].as_object().is_some_and(serde_json::Map::is_empty) {
            remove(strategy, "rollingUpdate");
        }
    }
    if let Some(template) = object(spec, "template") {
        pod::default_template(template);
    }
}

fn validate(deployment: &Value, errors: &mut Errors) {
    let (spec, path) = (&deployment["spec"], Path::new("spec"));
    check::not_negative(spec, "replicas", &path, errors);
    super::selector_of_template(deployment, "empty selector is invalid for deployment", errors);
    super::long_running_template(deployment, errors);
    strategy(&spec["strategy"], &path.child("strategy"), errors);
    check::not_negative(spec, "minReadySeconds", &path, errors);
    check::not_negative(spec, "revisionHistoryLimit", &path, errors);
    check::not_negative(spec, "progressDeadlineSeconds", &path, errors);
    let ready = int(spec, "minReadySeconds").unwrap_or(0);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds")
        && deadline <= ready
    {
        errors.invalid(
            &path.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        );
    }
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    match text(strategy, "type") {
        "Recreate" => {
            if !strategy["rollingUpdate"].is_null() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&path.child("rollingUpdate"), why);
            }
        }
        "RollingUpdate" => rolling(&strategy["rollingUpdate"], &path.child("rollingUpdate"), errors),
        other => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling(rolling: &Value, path: &Path, errors: &mut Errors) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    check::count_or_percent(unavailable, &path.child("maxUnavailable"), errors);
    check::count_or_percent(surge, &path.child("maxSurge"), errors);
    if check::is_zero(unavailable) && check::is_zero(surge) {
        errors.invalid(
            &path.child("maxUnavailable"),
            unavailable.clone(),
            "may not be 0 when `maxSurge` is 0",
        );
    }
    check::at_most_all(unavailable, &path.child("maxUnavailable"), errors);
}

fn validate_update(_: &Kind, new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    if part == Part::Status {
        let keys =
            ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
        super::status_counts(new, &keys, errors);
        return;
    }
    validate(new, errors);
    super::selector_unchanged(new, old, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_deployment_gets_upstreams_defaults() {
        let mut object = json!({"spec": {"selector": {}, "template": {"spec": {"containers": []}}}});
        defaults(&mut object);
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(object["spec"]["template"]["spec"]["restartPolicy"], "Always");
    }
}
