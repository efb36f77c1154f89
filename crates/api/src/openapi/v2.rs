//! The version 2 document, in parts: its definitions and its paths.

use std::collections::HashSet;
use std::io::{Result, Write};

use serde_json::{Map, Value, json};

use super::paths::{self, Action, Item, Operation};
use super::schema::{self, Dialect};
use super::texts::Texts;
use super::v3::{custom_name, with_kind};
use super::{CustomSchema, member};
use crate::registry::Registry;

/// The document but for definitions and paths.
pub(super) fn head() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0"})
}

pub(super) fn write_json(out: &mut dyn Write, registry: &Registry, custom: CustomSchema<'_>) -> Result<()> {
    out.write_all(br#"{"swagger":"2.0","info":"#)?;
    serde_json::to_writer(&mut *out, &head())?;
    out.write_all(br#","paths":{"#)?;
    let mut first = true;
    for (path, item) in paths::of(registry, None) {
        member(out, &mut first, &path, &path_item(&item))?;
    }
    out.write_all(br#"},"definitions":{"#)?;
    let mut first = true;
    definitions(registry, custom, &mut |name, schema| member(out, &mut first, name, &schema))?;
    out.write_all(
        br#"},"securityDefinitions":{"BearerToken":{"type":"apiKey","name":"authorization","in":"header"}}}"#,
    )
}

/// Calls `each` with every definition, group by group, so that the texts of one group only are in memory.
pub(super) fn definitions(
    registry: &Registry,
    custom: CustomSchema<'_>,
    each: &mut dyn FnMut(&str, Value) -> Result<()>,
) -> Result<()> {
    let mut done: HashSet<&'static str> = HashSet::new();
    for group in registry.groups() {
        for version in group.versions {
            let mut roots: Vec<String> = Vec::new();
            for item in paths::of(registry, Some((group.name, version))).into_values() {
                for operation in item.operations {
                    roots.extend(operation.answer());
                    roots.extend(operation.body().map(str::to_owned));
                    roots.extend(operation.definition.map(str::to_owned));
                }
            }
            let texts = Texts::of(group.name, version);
            for name in schema::reachable(roots.iter().map(String::as_str)) {
                if done.insert(name)
                    && let Some(definition) = crate::schema::definition(name)
                {
                    each(&schema::full_name(definition), schema::of(definition, &texts, Dialect::V2))?;
                }
            }
        }
    }
    for kind in registry.iter().filter(|kind| kind.definition.is_none()) {
        let schema = custom(kind).unwrap_or_else(|| json!({"type": "object"}));
        let name = custom_name(&kind.group, &kind.version, &kind.kind);
        each(&name, with_kind(without_unions(schema), &kind.group, &kind.version, &kind.kind))?;
    }
    Ok(())
}

/// Takes out of a version 3 schema what version 2 does not know.
fn without_unions(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            for key in ["oneOf", "anyOf", "not", "nullable"] {
                map.remove(key);
            }
            if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                map.remove("type");
            }
            for value in map.values_mut() {
                *value = without_unions(std::mem::take(value));
            }
        }
        Value::Array(list) => {
            for value in list {
                *value = without_unions(std::mem::take(value));
            }
        }
        _ => {}
    }
    schema
}

pub(super) fn path_item(item: &Item) -> Value {
    let mut value = Map::new();
    for operation in &item.operations {
        value.insert(operation.action.method().into(), describe(operation));
    }
    let parameters: Vec<Value> = item
        .parameters
        .iter()
        .map(|name| json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true}))
        .collect();
    if !parameters.is_empty() {
        value.insert("parameters".into(), parameters.into());
    }
    Value::Object(value)
}

fn describe(operation: &Operation) -> Value {
    let known = |name: Option<String>| {
        name.filter(|name| crate::schema::definition(name).is_some())
            .map(|name| schema::reference(&format!("io.k8s.{name}"), Dialect::V2))
    };
    let custom = || {
        schema::reference(&custom_name(&operation.group, &operation.version, &operation.kind), Dialect::V2)
    };
    let mut parameters: Vec<Value> = operation
        .action
        .query()
        .iter()
        .map(|(name, ty, text)| {
            json!({"name": name, "in": "query", "description": text, "type": ty, "uniqueItems": true})
        })
        .collect();
    let body = match (operation.action, operation.definition) {
        (Action::Post | Action::Put, None) => Some(custom()),
        _ => known(operation.body().map(str::to_owned)),
    };
    if let Some(schema) = body {
        let mut body = json!({"name": "body", "in": "body", "schema": schema});
        if matches!(operation.action, Action::Post | Action::Put | Action::Patch) {
            body["required"] = true.into();
        }
        parameters.insert(0, body);
    }
    let answer = match (operation.action, operation.definition) {
        (Action::Connect(_), _) => Some(json!({"type": "string"})),
        (Action::Get | Action::Post | Action::Put | Action::Patch, None) => Some(custom()),
        _ => known(operation.answer()),
    };
    let ok = match answer {
        Some(schema) => json!({"description": "OK", "schema": schema}),
        None => json!({"description": "OK"}),
    };
    let consumes: &[&str] =
        if operation.action == Action::Patch { paths::patch_types(operation) } else { &["*/*"] };
    json!({
        "consumes": consumes,
        "produces": ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
        "operationId": operation.id,
        "parameters": parameters,
        "responses": {"200": ok, "401": {"description": "Unauthorized"}},
        "schemes": ["https"],
        "x-kubernetes-action": operation.action.name(),
        "x-kubernetes-group-version-kind": {
            "group": operation.group, "kind": operation.kind, "version": operation.version,
        },
    })
}
