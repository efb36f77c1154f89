//! Structural schemas: what is pruned, filled in and checked.

use serde_json::Value;

use super::formats;
use crate::field::{Error, Errors, Kind as ErrorKind, Path};

/// What every object has, whatever its schema says.
const OWN: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes the fields that the schema does not know.
pub(super) fn prune(value: &mut Value, schema: &Value, top: bool) {
    match value {
        Value::Object(map) => {
            if schema["x-kubernetes-preserve-unknown-fields"] == true {
                // Unknown fields stay; known ones are still pruned inside.
            } else if schema["additionalProperties"].is_null() || schema["additionalProperties"] == false {
                let own = top || schema["x-kubernetes-embedded-resource"] == true;
                map.retain(|key, _| {
                    schema["properties"].get(key).is_some() || (own && OWN.contains(&key.as_str()))
                });
            }
            for (key, inner) in map {
                if top && OWN.contains(&key.as_str()) {
                    continue;
                }
                let of = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
                if of.is_object() {
                    prune(inner, of, false);
                }
            }
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| prune(item, &schema["items"], false));
        }
        _ => {}
    }
}

/// Fills in the defaults of fields that are not there.
pub(super) fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            for (key, of) in schema["properties"].as_object().into_iter().flatten() {
                let missing = map.get(key).is_none_or(|value| value.is_null() && of["nullable"] != true);
                if missing && let Some(default) = of.get("default") {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, inner) in map {
                let of = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
                if of.is_object() {
                    default(inner, of);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(item, &schema["items"])),
        _ => {}
    }
}

/// Checks types, required fields and bounds.
pub(super) fn validate(value: &Value, schema: &Value, path: Option<&Path>, errors: &mut Errors) {
    let here = path.cloned().unwrap_or_else(|| Path::new("<root>"));
    let child = |key: &str| path.map_or_else(|| Path::new(key), |path| path.child(key));
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    let either = schema["x-kubernetes-int-or-string"] == true;
    let fits = match kind {
        _ if either => value.is_string() || value.is_i64() || value.is_u64(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kind = if either { "integer or string" } else { kind };
        let why = format!("{here} in body must be of type {kind}: {found:?}");
        let (kind, field) = (ErrorKind::TypeInvalid, here.as_str().to_owned());
        return errors.push(Error { kind, field, value: found.into(), detail: why });
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let texts: Vec<String> =
            allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        errors.not_supported(&here, value.clone(), &texts);
    }
    bounds(value, schema, &here, errors);
    combined(value, schema, &here, errors);
    match value {
        Value::Object(map) => {
            for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !map.contains_key(key) {
                    errors.required(&child(key), "");
                }
            }
            for (key, inner) in map {
                if path.is_none() && OWN.contains(&key.as_str()) {
                    continue;
                }
                let of = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
                if of.is_object() {
                    validate(inner, of, Some(&child(key)), errors);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                validate(item, &schema["items"], Some(&here.index(index)), errors);
            }
        }
        _ => {}
    }
}

fn bounds(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    let limit = |key: &str| schema[key].as_u64().and_then(|limit| usize::try_from(limit).ok());
    let wrong = |errors: &mut Errors, why: String| {
        errors.invalid(path, value.clone(), format!("{path} in body {why}"));
    };
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = schema["minimum"].as_f64() {
                if schema["exclusiveMinimum"] == true && number <= least {
                    wrong(errors, format!("should be greater than {least}"));
                } else if number < least {
                    wrong(errors, format!("should be greater than or equal to {least}"));
                }
            }
            if let Some(most) = schema["maximum"].as_f64() {
                if schema["exclusiveMaximum"] == true && number >= most {
                    wrong(errors, format!("should be less than {most}"));
                } else if number > most {
                    wrong(errors, format!("should be less than or equal to {most}"));
                }
            }
            if let Some(factor) = schema["multipleOf"].as_f64().filter(|factor| *factor > 0.0)
                && ((number / factor).round() - number / factor).abs() > 1e-9
            {
                wrong(errors, format!("should be a multiple of {factor}"));
            }
        }
        Value::String(text) => {
            let length = text.chars().count();
            if let Some(least) = limit("minLength").filter(|least| length < *least) {
                wrong(errors, format!("should be at least {least} chars long"));
            }
            if let Some(most) = limit("maxLength").filter(|most| length > *most) {
                errors.too_long(path, most);
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && regex::Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
            {
                wrong(errors, format!("should match '{pattern}'"));
            }
            if let Some(format) = schema["format"].as_str().filter(|format| !formats::fits(format, text)) {
                wrong(errors, format!("must be of type {format}: {}", crate::field::quote(text)));
            }
        }
        Value::Array(items) => {
            if let Some(least) = limit("minItems").filter(|least| items.len() < *least) {
                wrong(errors, format!("should have at least {least} items"));
            }
            if let Some(most) = limit("maxItems").filter(|most| items.len() > *most) {
                errors.too_many(path, items.len(), most);
            }
            duplicates(items, schema, path, errors);
        }
        Value::Object(map) => {
            if let Some(least) = limit("minProperties").filter(|least| map.len() < *least) {
                wrong(errors, format!("should have at least {least} properties"));
            }
            if let Some(most) = limit("maxProperties").filter(|most| map.len() > *most) {
                errors.too_many(path, map.len(), most);
            }
        }
        _ => {}
    }
}

/// Checks that what a list of type set or map holds is there once.
fn duplicates(items: &[Value], schema: &Value, path: &Path, errors: &mut Errors) {
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let key = |item: &Value| -> Value {
        match schema["x-kubernetes-list-type"].as_str() {
            Some("map") => keys
                .iter()
                .map(|&key| {
                    let default = &schema["items"]["properties"][key]["default"];
                    (key.to_owned(), item.get(key).unwrap_or(default).clone())
                })
                .filter(|(_, value)| !value.is_null())
                .collect(),
            _ => item.clone(),
        }
    };
    if !matches!(schema["x-kubernetes-list-type"].as_str(), Some("set" | "map")) {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.to_string()) {
            errors.duplicate(&path.index(index), key);
        }
    }
}

/// Checks what a schema says by other schemas.
fn combined(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    let fits = |schema: &Value| {
        let mut inner = Errors::new();
        validate(value, schema, Some(path), &mut inner);
        inner.is_empty()
    };
    let all = |key: &str| schema[key].as_array().map_or(&[][..], Vec::as_slice);
    let quoted = crate::field::quote(path.as_str());
    let mut wrong = |why: String| errors.invalid(path, value.clone(), why);
    if !all("allOf").iter().all(fits) {
        wrong(format!("{quoted} must validate all the schemas (allOf)"));
    }
    if !all("anyOf").is_empty() && !all("anyOf").iter().any(fits) {
        wrong(format!("{quoted} must validate at least one schema (anyOf)"));
    }
    if !all("oneOf").is_empty() {
        match all("oneOf").iter().filter(|schema| fits(schema)).count() {
            1 => {}
            0 => wrong(format!("{quoted} must validate one and only one schema (oneOf). Found none valid")),
            count => wrong(format!(
                "{quoted} must validate one and only one schema (oneOf). Found {count} valid alternatives"
            )),
        }
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        wrong(format!("{quoted} must not validate the schema (not)"));
    }
}
