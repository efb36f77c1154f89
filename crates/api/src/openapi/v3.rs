//! The version 3 document of one group and version.

use std::io::{Result, Write};

use serde_json::{Map, Value, json};

use super::paths::{self, Action, Item, Operation};
use super::schema::{self, Dialect};
use super::texts::Texts;
use super::{CustomSchema, member};
use crate::registry::Registry;

pub(super) fn write(
    out: &mut dyn Write,
    registry: &Registry,
    group: &str,
    version: &str,
    custom: CustomSchema<'_>,
) -> Result<()> {
    let items = paths::of(registry, Some((group, version)));
    out.write_all(br#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.36.0"},"paths":{"#)?;
    let mut first = true;
    for (path, item) in &items {
        member(out, &mut first, path, &path_item(item))?;
    }
    out.write_all(br#"},"components":{"schemas":{"#)?;
    let mut roots: Vec<String> = Vec::new();
    for operation in items.values().flat_map(|item| &item.operations) {
        roots.extend(operation.answer());
        roots.extend(operation.body().map(str::to_owned));
        roots.extend(operation.definition.map(str::to_owned));
    }
    let texts = Texts::of(group, version);
    let mut first = true;
    for name in schema::reachable(roots.iter().map(String::as_str)) {
        if let Some(definition) = crate::schema::definition(name) {
            let name = schema::full_name(definition);
            member(out, &mut first, &name, &schema::of(definition, &texts, Dialect::V3))?;
        }
    }
    drop(texts);
    for kind in registry.iter() {
        if kind.group == group && kind.version == version && kind.definition.is_none() {
            let schema = custom(kind).unwrap_or_else(|| json!({"type": "object"}));
            member(
                out,
                &mut first,
                &custom_name(group, version, &kind.kind),
                &with_kind(schema, group, version, &kind.kind),
            )?;
        }
    }
    out.write_all(
        br#"},"securitySchemes":{"BearerToken":{"type":"apiKey","name":"authorization","in":"header"}}}}"#,
    )
}

/// Returns the name of a custom kind's schema: the group backwards, as upstream has it.
pub(super) fn custom_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// Completes the schema of a custom kind by what every object has.
pub(super) fn with_kind(mut schema: Value, group: &str, version: &str, kind: &str) -> Value {
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
    schema
}

fn path_item(item: &Item) -> Value {
    let mut value = Map::new();
    for operation in &item.operations {
        value.insert(operation.action.method().into(), describe(operation));
    }
    let parameters: Vec<Value> = item
        .parameters
        .iter()
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    if !parameters.is_empty() {
        value.insert("parameters".into(), parameters.into());
    }
    Value::Object(value)
}

fn describe(operation: &Operation) -> Value {
    let refer = |name: &str| schema::reference(&format!("io.k8s.{name}"), Dialect::V3);
    let custom = || {
        schema::reference(&custom_name(&operation.group, &operation.version, &operation.kind), Dialect::V3)
    };
    let known = |name: Option<String>| {
        name.filter(|name| crate::schema::definition(name).is_some()).map(|name| refer(&name))
    };
    let parameters: Vec<Value> = operation
        .action
        .query()
        .iter()
        .map(|(name, ty, text)| {
            json!({"name": name, "in": "query", "description": text, "schema": {"type": ty, "uniqueItems": true}})
        })
        .collect();
    let answer = match (operation.action, operation.definition) {
        (Action::Connect(_), _) => Some(json!({"type": "string"})),
        (Action::Get | Action::Post | Action::Put | Action::Patch, None) => Some(custom()),
        _ => known(operation.answer()),
    };
    let ok = match answer {
        Some(schema) => json!({"description": "OK", "content": {"application/json": {"schema": schema}}}),
        None => json!({"description": "OK"}),
    };
    let mut value = json!({
        "operationId": operation.id,
        "parameters": parameters,
        "responses": {"200": ok, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": operation.action.name(),
        "x-kubernetes-group-version-kind": {
            "group": operation.group, "kind": operation.kind, "version": operation.version,
        },
    });
    let body = match (operation.action, operation.definition) {
        (Action::Post | Action::Put, None) => Some(custom()),
        _ => known(operation.body().map(str::to_owned)),
    };
    if let Some(schema) = body {
        let types: &[&str] =
            if operation.action == Action::Patch { paths::patch_types(operation) } else { &["*/*"] };
        let content: Map<String, Value> =
            types.iter().map(|ty| ((*ty).to_owned(), json!({"schema": schema}))).collect();
        value["requestBody"] = json!({"content": content});
        if matches!(operation.action, Action::Post | Action::Put | Action::Patch) {
            value["requestBody"]["required"] = true.into();
        }
    }
    value
}
