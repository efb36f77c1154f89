//! Daemon sets.

use jiff::Timestamp;
use serde_json::Value;

use super::super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, object, text};

/// Completes the descriptor.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        warnings: |_, object| pod::warnings_of_template(object),
        default: |_, object| defaults(object),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, part, errors| {
            if part == Part::Status {
                let keys = [
                    "currentNumberScheduled",
                    "numberMisscheduled",
                    "desiredNumberScheduled",
                    "numberReady",
                    "observedGeneration",
                    "updatedNumberScheduled",
                    "numberAvailable",
                    "numberUnavailable",
                ];
                super::status_counts(new, &keys, errors);
                return;
            }
            validate(new, errors);
            super::selector_unchanged(new, old, errors);
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::number("Desired", "On how many nodes a pod should run."),
            Column::number("Current", "On how many nodes a pod runs."),
            Column::number("Ready", "On how many nodes a pod is ready."),
            Column::number("Up-to-date", "On how many nodes the pod is of the current template."),
            Column::number("Available", "On how many nodes a pod has been ready for long enough."),
            Column::text("Node Selector", "The labels of the nodes that get a pod."),
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
    let mut row = vec![cells::name(object)];
    for key in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        row.push(cells::count(&object["status"], key).into());
    }
    row.push(cells::labels(&object["spec"]["template"]["spec"]["nodeSelector"]).into());
    row.push(cells::age(object, now));
    row.extend([names, images, cells::selector(&object["spec"]["selector"]).into()]);
    row
}

fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    if let Some(template) = object(spec, "template") {
        pod::default_template(template);
    }
}

fn validate(set: &Value, errors: &mut Errors) {
    let (spec, path) = (&set["spec"], Path::new("spec"));
    super::selector_of_template(set, "empty selector is invalid for daemonset", errors);
    super::long_running_template(set, errors);
    check::not_negative(spec, "minReadySeconds", &path, errors);
    check::not_negative(spec, "revisionHistoryLimit", &path, errors);
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => rolling(&strategy["rollingUpdate"], &at.child("rollingUpdate"), errors),
        other => errors.not_supported(&at.child("type"), other, &["OnDelete", "RollingUpdate"]),
    }
}

fn rolling(rolling: &Value, path: &Path, errors: &mut Errors) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    check::count_or_percent(unavailable, &path.child("maxUnavailable"), errors);
    check::at_most_all(unavailable, &path.child("maxUnavailable"), errors);
    check::count_or_percent(surge, &path.child("maxSurge"), errors);
    check::at_most_all(surge, &path.child("maxSurge"), errors);
    match (check::is_zero(unavailable), check::is_zero(surge)) {
        (false, false) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&path.child("maxSurge"), surge.clone(), why);
        }
        (true, true) => errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}
