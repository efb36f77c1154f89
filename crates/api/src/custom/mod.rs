//! Custom kinds: from a `CustomResourceDefinition` to descriptors that take the same path as upstream's kinds.
//!
//! An object is pruned to its schema, gets the schema's defaults, and is checked against its types and
//! bounds and by its rules. Conversion is the API server's business: a webhook may be asked.

mod columns;
mod formats;
mod rules;
mod schema;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::field::{Errors, Kind as ErrorKind, Path};
use crate::registry::{
    Kind, Read, ScalePaths, Scope, SelectableField, Storage, Strategy, Subresource, Table,
};
use crate::value::{flag, list, text};

/// What a custom kind's functions find in its descriptor.
#[derive(Debug)]
struct Extension {
    schema: Value,
    rules: Option<rules::Node>,
    conversion: Option<Conversion>,
}

/// How objects of a kind with several versions become those of another version.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// The `spec.conversion.webhook` of the definition; `None` where only the `apiVersion` differs.
    pub webhook: Option<Value>,
}

/// Returns how objects of a kind are converted; `None` for kinds with one version, and for upstream's.
#[must_use]
pub fn conversion_of(kind: &Kind) -> Option<&Conversion> {
    extension(kind)?.conversion.as_ref()
}

fn extension(kind: &Kind) -> Option<&Extension> {
    kind.extension.as_ref()?.downcast_ref()
}

/// Checks the rules of a schema, which stands at `path` of its definition.
pub(crate) fn check_rules(schema: &Value, path: &Path, errors: &mut Errors) {
    rules::compile(schema, path, errors);
}

/// Checks an object by its schema and its rules; `old` is the object before, on an update.
fn validate(kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let Some(extension) = extension(kind) else { return };
    let mut found = Errors::new();
    schema::validate(object, &extension.schema, None, &mut found);
    let blocking = found.iter().any(|error| {
        matches!(
            error.kind,
            ErrorKind::Required | ErrorKind::TooLong | ErrorKind::TooMany | ErrorKind::TypeInvalid
        )
    });
    found.iter().for_each(|error| errors.push(error.clone()));
    let Some(rules) = &extension.rules else { return };
    if blocking {
        let why = "some validation rules were not checked because the object was invalid; correct the existing \
                   errors to complete validation";
        errors.invalid(&Path::new("<nil>"), Value::Null, why);
    } else {
        rules::validate(rules, object, old, errors);
    }
}

/// The verbs of every custom resource, sorted.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Returns the schema of a custom kind; `None` for upstream's.
#[must_use]
pub fn schema_of(kind: &Kind) -> Option<&Value> {
    extension(kind).map(|extension| &extension.schema)
}

/// Returns the kinds that a definition serves, one for each version.
#[must_use]
pub fn kinds(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let versions = list(spec, "versions");
    let Some(stored) = versions.iter().find(|version| flag(version, "storage")) else { return Vec::new() };
    versions
        .iter()
        .filter(|version| flag(version, "served"))
        .map(|version| kind(spec, version, stored))
        .collect()
}

fn owned(value: &Value, path: &str) -> Cow<'static, str> {
    Cow::Owned(text(value, path).to_owned())
}

fn texts(value: &Value, path: &str) -> Vec<Cow<'static, str>> {
    list(value, path).iter().filter_map(Value::as_str).map(|text| Cow::Owned(text.to_owned())).collect()
}

fn kind(spec: &Value, version: &Value, stored: &Value) -> Kind {
    let (group, name) = (owned(spec, "group"), owned(spec, "names.kind"));
    let or = |path: &str, default: String| match text(spec, path) {
        "" => Cow::Owned(default),
        found => Cow::Owned(found.to_owned()),
    };
    let subresource = |name: &'static str, group: Cow<'static, str>, version: Cow<'static, str>, kind| {
        Subresource { name: name.into(), verbs: vec!["get", "patch", "update"], group, version, kind }
    };
    let mut subresources = Vec::new();
    let scale = version["subresources"].get("scale").filter(|scale| scale.is_object());
    if scale.is_some() {
        subresources.push(subresource("scale", "autoscaling".into(), "v1".into(), "Scale".into()));
    }
    if version["subresources"].get("status").is_some_and(|status| !status.is_null()) {
        subresources.push(subresource("status", group.clone(), owned(version, "name"), name.clone()));
    }
    let dotted = |scale: &Value, key: &str| Cow::Owned(text(scale, key).trim_start_matches('.').to_owned());
    let columns = columns::columns(version);
    let schema = &version["schema"]["openAPIV3Schema"];
    // A definition whose rules do not compile was refused when it was written.
    let rules = rules::compile(schema, &Path::new("schema"), &mut Errors::new());
    let conversion = (list(spec, "versions").len() > 1).then(|| Conversion {
        webhook: (text(spec, "conversion.strategy") == "Webhook")
            .then(|| spec["conversion"]["webhook"].clone()),
    });
    Kind {
        list_kind: or("names.listKind", format!("{name}List")),
        plural: owned(spec, "names.plural"),
        singular: or("names.singular", name.to_lowercase()),
        short_names: texts(spec, "names.shortNames"),
        categories: texts(spec, "names.categories"),
        scope: if text(spec, "scope") == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: VERBS.to_vec(),
        subresources,
        storage: Some(Storage {
            group: group.clone(),
            plural: owned(spec, "names.plural"),
            version: owned(stored, "name"),
            kind: name.clone(),
        }),
        scale: scale.map(|scale| ScalePaths {
            spec: dotted(scale, "specReplicasPath"),
            status: dotted(scale, "statusReplicasPath"),
            selector: Some(dotted(scale, "labelSelectorPath")).filter(|path| !path.is_empty()),
        }),
        fields: list(version, "selectableFields")
            .iter()
            .map(|field| {
                let path = text(field, "jsonPath").trim_start_matches('.').to_owned();
                SelectableField { label: path.clone().into(), read: Read::Path(path.into()) }
            })
            .collect(),
        table: Table {
            columns: columns.iter().map(|column| column.column.clone()).collect(),
            cells: columns::cells(columns),
        },
        strategy: Strategy {
            default: |kind, object| {
                if let Some(schema) = schema_of(kind) {
                    schema::prune(object, schema, true);
                    schema::default(object, schema);
                }
            },
            validate: |kind, object, errors| validate(kind, object, None, errors),
            validate_update: |kind, new, old, _, errors| validate(kind, new, Some(old), errors),
            generation: true,
            ..Strategy::GENERIC
        },
        definition: None,
        extension: Some(Arc::new(Extension { schema: schema.clone(), rules, conversion })),
        version: owned(version, "name"),
        kind: name,
        group,
    }
}

#[cfg(test)]
mod tests;
