//! From upstream's definitions to the compact schema facts that `api::schema` reads.
//!
//! A definition begins with a line `@name form [group/version/Kind]... [map=atomic] [one=discriminator]`;
//! its properties follow, one a line: `[!]name type [list=map:key,key|set|atomic] [map=atomic|granular]
//! [patch=merge:key|merge|replace|retain...]`; `!` marks a required one. Types: `s` string, `y` bytes, `i`
//! int32, `l` int64, `d` double, `b` bool, `o` any object, `*` anything, `[T` list, `{T` map, `#name` another definition.
//! The prefix `io.k8s.` of names is left off.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::kinds::is_stable;

/// Renders every definition that a generally available kind can reach.
pub(crate) fn render(swagger: &Value) -> Result<String> {
    let definitions = swagger["definitions"].as_object().context("swagger.json has no definitions")?;
    let mut wanted: Vec<&str> = Vec::new();
    for (name, definition) in definitions {
        let kinds = kinds_of(definition);
        if name.starts_with("io.k8s.apimachinery") || kinds.iter().any(|kind| stable_kind(kind)) {
            wanted.push(name);
        }
    }
    let mut reached = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if reached.insert(name) {
            references(&definitions[name], &mut wanted);
        }
    }
    let mut text = String::from("# Written by `cargo xtask facts`; do not edit.\n");
    for name in reached {
        definition(name, &definitions[name], &mut text).with_context(|| format!("definition {name}"))?;
    }
    Ok(text)
}

fn kinds_of(definition: &Value) -> Vec<&Value> {
    definition["x-kubernetes-group-version-kind"]
        .as_array()
        .map(|list| list.iter().collect())
        .unwrap_or_default()
}

fn stable_kind(kind: &Value) -> bool {
    kind["version"].as_str().is_some_and(is_stable)
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                found.extend(name.strip_prefix("#/definitions/"));
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn definition(name: &str, definition: &Value, text: &mut String) -> Result<()> {
    let form = match short(name) {
        "apimachinery.pkg.api.resource.Quantity" => "quantity",
        "apimachinery.pkg.util.intstr.IntOrString" => "intstr",
        "apimachinery.pkg.apis.meta.v1.Time" => "time",
        "apimachinery.pkg.apis.meta.v1.MicroTime" => "microtime",
        "apimachinery.pkg.runtime.RawExtension" => "raw",
        "apimachinery.pkg.apis.meta.v1.FieldsV1" | "apimachinery.pkg.apis.meta.v1.Patch" => "open",
        _ if definition.get("type").is_none() => "any",
        _ => "object",
    };
    *text += &format!("@{} {form}", short(name));
    let kinds = kinds_of(definition);
    // DeleteOptions and WatchEvent are served in every group; their own is enough.
    let shared = kinds.len() > 2;
    for kind in kinds {
        let group = kind["group"].as_str().unwrap_or_default();
        if stable_kind(kind) && (group.is_empty() || !shared) {
            let group = if group.is_empty() { "-" } else { group };
            *text += &format!(" {group}/{}/{}", str_of(kind, "version")?, str_of(kind, "kind")?);
        }
    }
    if let Some(map) = definition["x-kubernetes-map-type"].as_str() {
        *text += &format!(" map={map}");
    }
    text.push('\n');
    let required: Vec<&str> =
        definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in definition["properties"].as_object().into_iter().flatten() {
        let mark = if required.contains(&name.as_str()) { "!" } else { "" };
        *text += &format!("{mark}{name} {}", type_of(property)?);
        if let Some(list) = property["x-kubernetes-list-type"].as_str() {
            *text += &format!(" list={list}");
            let keys = property["x-kubernetes-list-map-keys"].as_array();
            if let Some(keys) = keys {
                *text += &format!(":{}", keys.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
            }
        }
        if let Some(map) = property["x-kubernetes-map-type"].as_str() {
            *text += &format!(" map={map}");
        }
        if let Some(patch) = property["x-kubernetes-patch-strategy"].as_str() {
            *text += &format!(" patch={patch}");
            if let Some(key) = property["x-kubernetes-patch-merge-key"].as_str() {
                *text += &format!(":{key}");
            }
        }
        text.push('\n');
    }
    Ok(())
}

fn type_of(schema: &Value) -> Result<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/definitions/").context("a reference elsewhere")?;
        return Ok(format!("#{}", short(name)));
    }
    Ok(match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("byte")) => "y".into(),
        (Some("string"), _) => "s".into(),
        (Some("integer"), Some("int64")) => "l".into(),
        (Some("integer"), _) => "i".into(),
        (Some("number"), _) => "d".into(),
        (Some("boolean"), _) => "b".into(),
        (Some("array"), _) => format!("[{}", type_of(&schema["items"])?),
        (Some("object"), _) => match schema.get("additionalProperties") {
            Some(values) => format!("{{{}", type_of(values)?),
            None => "o".into(),
        },
        (None, _) => "*".into(),
        (Some(other), _) => bail!("unknown type {other}"),
    })
}

fn short(name: &str) -> &str {
    name.strip_prefix("io.k8s.").unwrap_or(name)
}

fn str_of<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_that_stable_kinds_reach_are_written_compactly() {
        let swagger = json!({"definitions": {
            "io.k8s.api.a.v1.Thing": {
                "type": "object",
                "required": ["parts"],
                "x-kubernetes-group-version-kind": [{"group": "a.io", "version": "v1", "kind": "Thing"}],
                "properties": {
                    "parts": {"type": "array", "items": {"$ref": "#/definitions/io.k8s.api.a.v1.Part"},
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"},
                    "data": {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
                },
            },
            "io.k8s.api.a.v1.Part": {"type": "object", "properties": {"count": {"type": "integer", "format": "int64"}}},
            "io.k8s.api.a.v1.Other": {"type": "object"},
        }});
        let text = render(&swagger).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "@api.a.v1.Part object",
                "count l",
                "@api.a.v1.Thing object a.io/v1/Thing",
                "data {y",
                "!parts [#api.a.v1.Part list=map:name patch=merge:name",
            ]
        );
    }
}
