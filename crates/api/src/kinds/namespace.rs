//! Namespaces.

use serde_json::{Value, json};

use super::cells;
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table, keep_other_parts};
use crate::value::{default, keep, list, object, set, text};

/// Completes the descriptor.
pub(super) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, namespace| {
            let name = meta::name(namespace).to_owned();
            if !name.is_empty()
                && let Some(labels) = object(namespace, "metadata").and_then(|meta| object(meta, "labels"))
            {
                set(labels, "kubernetes.io/metadata.name", name);
            }
            if let Some(status) = object(namespace, "status") {
                default(status, "phase", "Active");
            }
        },
        prepare_create: |_, namespace| {
            set(namespace, "status", json!({"phase": "Active"}));
            if let Some(spec) = object(namespace, "spec") {
                let mut finalizers = list(spec, "finalizers").to_vec();
                if !finalizers.iter().any(|one| one == "kubernetes") {
                    finalizers.push("kubernetes".into());
                }
                set(spec, "finalizers", finalizers);
            }
        },
        prepare_update: |kind, new, old, part| match part {
            Part::Other("finalize") => keep(new, old, "status"),
            Part::Main => {
                keep(new, old, "spec");
                keep(new, old, "status");
            }
            part => keep_other_parts(kind, new, old, part),
        },
        validate_update: |_, new, old, part, errors| status(new, old, part, errors),
        name_errors: meta::dns_label_errors,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![NAME, Column::text("Status", "Whether the namespace is in use or going away."), AGE],
        |object, now| vec![cells::name(object), text(object, "status.phase").into(), cells::age(object, now)],
    );
}

fn status(new: &Value, _: &Value, part: Part<'_>, errors: &mut Errors) {
    if part != Part::Status {
        return;
    }
    let path = Path::new("status").child("Phase");
    match (meta::is_deleting(new), text(new, "status.phase")) {
        (false, phase) if phase != "Active" => {
            errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
        }
        (true, phase) if phase != "Terminating" => {
            errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
        _ => {}
    }
}
