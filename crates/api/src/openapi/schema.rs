//! Schemas of definitions, in the dialects of both versions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::texts::Texts;
use crate::schema::{Definition, Form, ListType, PatchStrategy, Property, Type};

/// How references and unions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

/// Returns the full name of a definition.
pub(super) fn full_name(definition: &Definition) -> String {
    format!("io.k8s.{}", definition.name)
}

/// Returns the schema of a definition.
pub(super) fn of(definition: &Definition, texts: &Texts, dialect: Dialect) -> Value {
    let name = full_name(definition);
    let mut schema = match (definition.form, dialect) {
        (Form::Quantity, Dialect::V2) => json!({"type": "string"}),
        (Form::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Form::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Form::IntOrString, Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Form::Time | Form::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Form::Raw | Form::Open, _) => json!({"type": "object"}),
        (Form::Any, _) => json!({}),
        (Form::Object, _) => object(definition, &name, texts, dialect),
    };
    let text = texts.definition(&name);
    if !text.is_empty() {
        schema["description"] = text.into();
    }
    if !definition.kinds.is_empty() {
        let kinds: Vec<Value> = definition
            .kinds
            .iter()
            .map(|kind| json!({"group": kind.group, "kind": kind.kind, "version": kind.version}))
            .collect();
        schema["x-kubernetes-group-version-kind"] = kinds.into();
    }
    if definition.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn object(definition: &Definition, name: &str, texts: &Texts, dialect: Dialect) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for property in definition.properties() {
        if property.required {
            required.push(Value::from(property.name));
        }
        properties.insert(property.name.into(), field(property, texts.field(name, property.name), dialect));
    }
    let mut schema = json!({"type": "object"});
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn field(property: &Property, text: &str, dialect: Dialect) -> Value {
    let mut schema = value(property.ty, dialect);
    if !text.is_empty() {
        // In version 3 nothing may stand beside a reference.
        if dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema], "default": {}});
        }
        schema["description"] = text.into();
    }
    let mut set = |key: &str, value: Value| schema[key] = value;
    match property.list {
        Some(ListType::Atomic) => set("x-kubernetes-list-type", "atomic".into()),
        Some(ListType::Set) => set("x-kubernetes-list-type", "set".into()),
        Some(ListType::Map(keys)) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", keys.to_vec().into());
        }
        None => {}
    }
    if property.atomic_map {
        set("x-kubernetes-map-type", "atomic".into());
    }
    let PatchStrategy { merge, retain_keys, replace, merge_key } = property.patch;
    let strategies: Vec<&str> = [(merge, "merge"), (retain_keys, "retainKeys"), (replace, "replace")]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
    if !strategies.is_empty() {
        set("x-kubernetes-patch-strategy", strategies.join(",").into());
    }
    if let Some(key) = merge_key {
        set("x-kubernetes-patch-merge-key", key.into());
    }
    schema
}

fn value(ty: Type, dialect: Dialect) -> Value {
    match ty {
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Object => json!({"type": "object"}),
        Type::Any => json!({}),
        Type::List(inner) => json!({"type": "array", "items": value(*inner, dialect)}),
        Type::Map(inner) => json!({"type": "object", "additionalProperties": value(*inner, dialect)}),
        Type::Ref(id) => reference(&full_name(id.get()), dialect),
    }
}

/// Returns a reference to a definition.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

/// Returns the names (without `io.k8s.`) of all definitions that the given ones lead to, themselves included.
pub(super) fn reachable<'a>(roots: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'static str> {
    let mut open: Vec<&'static Definition> =
        roots.into_iter().filter_map(crate::schema::definition).collect();
    let mut found = BTreeSet::new();
    while let Some(definition) = open.pop() {
        if found.insert(definition.name) {
            open.extend(definition.properties().iter().filter_map(|property| target(property.ty)));
        }
    }
    found
}

fn target(ty: Type) -> Option<&'static Definition> {
    match ty {
        Type::List(inner) | Type::Map(inner) => target(*inner),
        Type::Ref(id) => Some(id.get()),
        _ => None,
    }
}
