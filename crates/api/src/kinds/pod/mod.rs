//! Pods: defaulting, what the server sets, validation, the table. Pod templates of workloads, too.

mod containers;
mod default;
mod placement;
mod probes;
mod qos;
mod resources;
mod table;
mod update;
mod validate;
mod volumes;
mod warnings;

pub(super) use default::template as default_template;
pub(super) use resources::{quantity, resource_list};
pub(super) use validate::template as validate_template;
pub(super) use warnings::workload as warnings_of_template;

use serde_json::{Value, json};

use super::cells;
use crate::registry::{Column, Kind, NAME, Part, Strategy, Table, keep_other_parts};
use crate::value;

/// Completes the descriptors of `Pod` and `PodTemplate`.
pub(super) fn describe(kind: &mut Kind) {
    match kind.kind.as_ref() {
        "Pod" => {
            kind.table = table::table();
            kind.strategy = Strategy {
                default: |_, pod| default::pod(pod),
                prepare_create,
                prepare_update,
                validate: |_, pod, errors| validate::pod(pod, errors),
                validate_update: |_, new, old, part, errors| update::validate(new, old, part, errors),
                warnings: |_, pod| warnings::pod(pod),
                ..Strategy::GENERIC
            };
        }
        _ => {
            kind.table = templates();
            kind.strategy = Strategy {
                default: |_, object| {
                    if let Some(template) = value::object(object, "template") {
                        default::template(template);
                    }
                },
                validate: |_, object, errors| {
                    validate::template(&object["template"], &crate::field::Path::new("template"), errors);
                },
                ..Strategy::GENERIC
            };
        }
    }
}

fn templates() -> Table {
    Table::new(
        vec![
            NAME,
            Column::text("Containers", "The names of the containers in the template."),
            Column::text("Images", "The images of the containers in the template."),
            Column::text("Pod Labels", "The labels that pods of the template get."),
        ],
        |object, _| {
            let [names, images] = cells::containers(&object["template"]["spec"]);
            let labels = cells::labels(&object["template"]["metadata"]["labels"]);
            vec![cells::name(object), names, images, labels.into()]
        },
    )
}

fn prepare_create(_: &Kind, pod: &mut Value) {
    let class = qos::class(pod);
    value::set(pod, "status", json!({"phase": "Pending", "qosClass": class}));
}

fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, part: Part<'_>) {
    match part {
        Part::Main => value::keep(new, old, "status"),
        Part::Status => {
            keep_other_parts(kind, new, old, part);
            if let (Some(meta), Some(was)) = (new.get_mut("metadata"), old.get("metadata")) {
                value::keep(meta, was, "ownerReferences");
            }
            let class = value::at(old, "status.qosClass").clone();
            if let Some(status) = value::object(new, "status")
                && !class.is_null()
            {
                value::default(status, "qosClass", class);
            }
        }
        Part::Other("ephemeralcontainers") => {
            let wanted = value::at(new, "spec.ephemeralContainers").clone();
            old.clone_into(new);
            if let Some(spec) = value::object(new, "spec")
                && !wanted.is_null()
            {
                value::set(spec, "ephemeralContainers", wanted);
            }
        }
        Part::Other("resize") => resize(new, old),
        Part::Other(_) => {}
    }
}

/// Takes of a resize only the resources and the resize policies of containers.
fn resize(new: &mut Value, old: &Value) {
    let sent = std::mem::replace(new, old.clone());
    for key in ["containers", "initContainers"] {
        let wanted = value::list(&sent["spec"], key);
        let Some(spec) = value::object(new, "spec") else { return };
        value::each_mut(spec, key, |container| {
            let same_name = wanted.iter().find(|one| one["name"] == container["name"]);
            if let Some(one) = same_name {
                value::keep(container, one, "resources");
                value::keep(container, one, "resizePolicy");
            }
        });
    }
}
