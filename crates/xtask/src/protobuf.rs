//! From upstream's protobuf messages to the table of field numbers that `api::protobuf` reads.
//!
//! A message begins with a line `@name`; its fields follow, one a line: `number name type[?]`. Types: `s`
//! string, `y` bytes, `i` any integer, `b` bool, `d` double, `[T` repeated, `{T` map from names, `#name`
//! message, `<name` message whose fields stand in the JSON object around it, `w` message around a list of
//! strings that JSON does without. `?` marks a field whose zero value says something.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::kinds::is_stable;

/// The fields that are pointers in upstream's Go types: there, zero is not the same as nothing.
const POINTERS: &str = include_str!("pointers.txt");

/// Renders every message that a generally available kind can reach.
pub(crate) fn render(messages: &Value, swagger: &Value) -> Result<String> {
    let messages = messages.as_object().context("protobuf-fields.json is no object")?;
    let definitions = swagger["definitions"].as_object().context("swagger.json has no definitions")?;
    let pointers: BTreeSet<(&str, &str)> = POINTERS.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut wanted: Vec<String> = messages.keys().filter(|name| is_wanted(name)).cloned().collect();
    let mut reached = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let Some(message) = messages.get(&name).and_then(Value::as_object) else { continue };
        if reached.insert(name.clone()) {
            for field in message.values() {
                let ty = field["type"].as_str().unwrap_or_default();
                wanted.extend(reference(value_type(ty).unwrap_or(ty), &name));
            }
        }
    }
    let mut text = String::from("# Written by `cargo xtask facts`; do not edit.\n");
    for name in &reached {
        text += &format!("@{name}\n");
        let known = definitions.get(&format!("io.k8s.{name}"));
        let properties = known.and_then(|definition| definition["properties"].as_object());
        let required: BTreeSet<&str> = known
            .and_then(|definition| definition["required"].as_array())
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut fields = BTreeMap::new();
        for (field, facts) in messages[name].as_object().into_iter().flatten() {
            let number = facts["number"].as_u64().with_context(|| format!("{name}.{field} has no number"))?;
            // The two documents spell some names differently: `Webhooks` and `webhooks`, `uID` and `uid`.
            let spelled = properties.and_then(|all| all.keys().find(|key| key.eq_ignore_ascii_case(field)));
            let field = spelled.unwrap_or(field);
            let mut ty = type_of(facts, name, messages, definitions);
            let inline = properties.is_some_and(|properties| !properties.contains_key(field));
            if inline && let Some(message) = ty.strip_prefix('#') {
                ty = format!("<{message}");
            }
            let keeps =
                pointers.contains(&(name.as_str(), field.as_str())) || required.contains(field.as_str());
            let scalar = matches!(ty.as_str(), "s" | "i" | "b" | "d");
            fields
                .insert(number, format!("{number} {field} {ty}{}\n", if keeps && scalar { "?" } else { "" }));
        }
        text.extend(fields.into_values());
    }
    Ok(text)
}

fn is_wanted(name: &str) -> bool {
    [
        "apimachinery.pkg.apis.meta.v1.",
        "apimachinery.pkg.apis.meta.v1beta1.",
        "metrics.pkg.apis.metrics.v1beta1.",
    ]
    .iter()
    .any(|package| name.starts_with(package))
        || name.rsplit('.').nth(1).is_some_and(is_stable)
}

fn type_of(
    facts: &Value,
    within: &str,
    messages: &Map<String, Value>,
    definitions: &Map<String, Value>,
) -> String {
    let ty = facts["type"].as_str().unwrap_or_default();
    let one = |ty: &str| match ty {
        "string" => "s".to_owned(),
        "bytes" => "y".to_owned(),
        "bool" => "b".to_owned(),
        "double" | "float" => "d".to_owned(),
        "int32" | "int64" | "uint32" | "uint64" => "i".to_owned(),
        other => {
            let name = reference(other, within).unwrap_or_default();
            let wraps = messages.get(&name).and_then(Value::as_object).is_some_and(|message| {
                message.len() == 1 && message.get("items").is_some_and(|items| items["type"] == "string")
            });
            if wraps && !definitions.contains_key(&format!("io.k8s.{name}")) {
                "w".to_owned()
            } else {
                format!("#{name}")
            }
        }
    };
    match value_type(ty) {
        Some(value) => format!("{{{}", one(value)),
        None if facts["repeated"] == true => format!("[{}", one(ty)),
        None => one(ty),
    }
}

/// Returns the type of a map's values.
fn value_type(ty: &str) -> Option<&str> {
    ty.strip_prefix("map<string,")?.strip_suffix('>')
}

/// Returns the full name of a message that is named within the message `within`.
fn reference(ty: &str, within: &str) -> Option<String> {
    if matches!(
        ty,
        "string" | "bytes" | "bool" | "double" | "float" | "int32" | "int64" | "uint32" | "uint64"
    ) {
        return None;
    }
    if let Some(full) = ty.strip_prefix('.') {
        return Some(full.to_owned());
    }
    let (package, _) = within.rsplit_once('.')?;
    Some(format!("{package}.{ty}"))
}
