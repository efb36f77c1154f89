//! Structural schemas: what is pruned, filled in and checked.

use serde_json::Value;

use crate::field::{Errors, Path};

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
        return errors.invalid(&here, found, why);
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
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = schema["minimum"].as_f64()
                && (number < least || (number <= least && schema["exclusiveMinimum"] == true))
            {
                let why = format!("{path} in body should be greater than or equal to {least}");
                errors.invalid(path, value.clone(), why);
            }
            if let Some(most) = schema["maximum"].as_f64()
                && (number > most || (number >= most && schema["exclusiveMaximum"] == true))
            {
                errors.invalid(
                    path,
                    value.clone(),
                    format!("{path} in body should be less than or equal to {most}"),
                );
            }
        }
        Value::String(text) => {
            let length = text.chars().count();
            if let Some(least) = limit("minLength").filter(|least| length < *least) {
                errors.invalid(
                    path,
                    value.clone(),
                    format!("{path} in body should be at least {least} chars long"),
                );
            }
            if let Some(most) = limit("maxLength").filter(|most| length > *most) {
                errors.invalid(
                    path,
                    value.clone(),
                    format!("{path} in body should be at most {most} chars long"),
                );
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && regex::Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
            {
                errors.invalid(path, value.clone(), format!("{path} in body should match '{pattern}'"));
            }
        }
        Value::Array(items) => {
            if let Some(least) = limit("minItems").filter(|least| items.len() < *least) {
                let why = format!("{path} in body should have at least {least} items");
                errors.invalid(path, value.clone(), why);
            }
            if let Some(most) = limit("maxItems").filter(|most| items.len() > *most) {
                errors.too_many(path, items.len(), most);
            }
        }
        _ => {}
    }
}
