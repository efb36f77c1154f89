//! Controller revisions: the history of daemon sets and stateful sets.

use serde_json::Value;

use super::super::cells;
use crate::field::Path;
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{int, same};

/// Completes the descriptor.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, object, errors| {
            let revision = int(object, "revision").unwrap_or(0);
            if revision < 0 {
                errors.invalid(&Path::new("revision"), revision, "must be greater than or equal to 0");
            }
            if object["data"].is_null() {
                errors.required(&Path::new("data"), "data is mandatory");
            }
        },
        validate_update: |_, new, old, part, errors| {
            if part == Part::Main && !same(&new["data"], &old["data"]) {
                errors.invalid(&Path::new("data"), new["data"].clone(), "field is immutable");
            }
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Controller", "What the revision belongs to."),
            Column::number("Revision", "The number of the revision."),
            AGE,
        ],
        |object, now| {
            let owner = meta::controller_of(object).map_or_else(
                || cells::NONE.to_owned(),
                |owner| {
                    let (group, _) = owner.api_version.split_once('/').unwrap_or_default();
                    let kind = owner.kind.to_lowercase();
                    if group.is_empty() {
                        format!("{kind}/{}", owner.name)
                    } else {
                        format!("{kind}.{group}/{}", owner.name)
                    }
                },
            );
            let revision: Value = cells::count(object, "revision").into();
            vec![cells::name(object), owner.into(), revision, cells::age(object, now)]
        },
    );
}
