//! Stateful sets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, each_mut, int, keep, object, same, text};

/// What may change after creation.
const UPDATABLE: [&str; 8] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "status",
];

/// Completes the descriptor.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        warnings: |_, object| pod::warnings_of_template(object),
        default: |_, object| defaults(object),
        validate: |_, object, errors| validate(object, errors),
        validate_update,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Ready", "How many of the wanted pods are ready."),
            AGE,
            cells::CONTAINERS,
            cells::IMAGES,
        ],
        row,
    );
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = super::template_cells(object);
    let (ready, wanted) =
        (cells::count(object, "status.readyReplicas"), cells::count(object, "spec.replicas"));
    vec![cells::name(object), format!("{ready}/{wanted}").into(), cells::age(object, now), names, images]
}

fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = object(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
        }
    }
    if let Some(policy) = object(spec, "persistentVolumeClaimRetentionPolicy") {
        default(policy, "whenDeleted", "Retain");
        default(policy, "whenScaled", "Retain");
    }
    each_mut(spec, "volumeClaimTemplates", |claim| {
        default(claim, "apiVersion", "v1");
        default(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = object(claim, "spec") {
            default(spec, "volumeMode", "Filesystem");
        }
        if claim["status"].is_null() {
            default(claim, "status", json!({"phase": "Pending"}));
        }
    });
    if let Some(template) = object(spec, "template") {
        pod::default_template(template);
        // Volumes of the claims are added to each pod; the template itself does not name them.
    }
}

fn validate(set: &Value, errors: &mut Errors) {
    let (spec, path) = (&set["spec"], Path::new("spec"));
    let policies = &["OrderedReady", "Parallel"];
    match text(spec, "podManagementPolicy") {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        policy if !policies.contains(&policy) => {
            let why = format!("must be '{}' or '{}'", policies[0], policies[1]);
            errors.invalid(&path.child("podManagementPolicy"), policy, why);
        }
        _ => {}
    }
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match text(strategy, "type") {
        "" => errors.required(&at, ""),
        "OnDelete" => {
            if !strategy["rollingUpdate"].is_null() {
                let why = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&at.child("rollingUpdate"), strategy["rollingUpdate"].clone(), why);
            }
        }
        "RollingUpdate" => {
            check::not_negative(&strategy["rollingUpdate"], "partition", &at.child("rollingUpdate"), errors);
        }
        other => errors.invalid(&at, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let (policy, at) =
        (&spec["persistentVolumeClaimRetentionPolicy"], path.child("persistentVolumeClaimRetentionPolicy"));
    for key in ["whenDeleted", "whenScaled"] {
        let found = text(policy, key);
        if !matches!(found, "Retain" | "Delete") {
            errors.not_supported(&at.child(key), found, &["Delete", "Retain"]);
        }
    }
    check::not_negative(spec, "replicas", &path, errors);
    check::not_negative(spec, "minReadySeconds", &path, errors);
    if let Some(start) = int(spec, "ordinals.start")
        && start < 0
    {
        let why = "must be greater than or equal to 0";
        errors.invalid(&path.child("ordinals").child("start"), start, why);
    }
    super::selector_of_template(set, "empty selector is invalid for statefulset", errors);
    let mut with_claims = set.clone();
    add_claim_volumes(&mut with_claims);
    super::long_running_template(&with_claims, errors);
}

/// Mounts of the template may name the claims, which become volumes of each pod.
fn add_claim_volumes(set: &mut Value) {
    let names: Vec<Value> = crate::value::list(&set["spec"], "volumeClaimTemplates")
        .iter()
        .map(|claim| claim["metadata"]["name"].clone())
        .collect();
    if names.is_empty() {
        return;
    }
    let spec =
        set.get_mut("spec").and_then(|spec| spec.get_mut("template")).and_then(|one| one.get_mut("spec"));
    let Some(map) = spec.and_then(Value::as_object_mut) else { return };
    if let Some(volumes) = map.entry("volumes").or_insert_with(|| json!([])).as_array_mut() {
        volumes.retain(|volume| !names.contains(&volume["name"]));
        volumes.extend(names.into_iter().map(|name| json!({"name": name, "emptyDir": {}})));
    }
}

fn validate_update(_: &Kind, new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    if part == Part::Status {
        let keys = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        super::status_counts(new, &keys, errors);
        return;
    }
    validate(new, errors);
    let mut munged = new["spec"].clone();
    for key in UPDATABLE {
        keep(&mut munged, &old["spec"], key);
    }
    if !same(&munged, &old["spec"]) {
        errors.forbidden(
            &Path::new("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden",
        );
    }
}
