//! Strategic merge patch: a merge patch that knows which lists merge by key and obeys directives.
//!
//! The directives: `$patch: replace|delete|merge`, `$retainKeys`, `$deleteFromPrimitiveList/<field>` and
//! `$setElementOrder/<field>`. The order of a merged list follows the patch's (or its element order's) for
//! what the patch names, and the object's for the rest.

use serde_json::{Map, Value};

use super::{Error, Field, Result, Schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to `target`, an object of the type that `schema` describes.
///
/// # Errors
/// When a directive is not well formed, or a list element lacks the key that its list merges by.
pub fn strategic_merge<S: Schema>(target: &mut Value, patch: &Value, schema: &S) -> Result<()> {
    let Value::Object(patch) = patch else {
        return Err(Error::Malformed("a strategic merge patch of an object is itself an object".into()));
    };
    let original = match std::mem::take(target) {
        Value::Object(map) => map,
        other => {
            *target = other;
            return Err(Error::Inapplicable("the object to patch is not a JSON object".into()));
        }
    };
    *target = Value::Object(merge_map(original, patch.clone(), Some(schema))?);
    Ok(())
}

fn merge_map<S: Schema>(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    schema: Option<&S>,
) -> Result<Map<String, Value>> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            // Merging is what happens anyway.
            Some("merge") => merge_map(original, patch, schema),
            _ => Err(unknown_directive(&directive, &Value::Object(patch))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema)?;
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM) {
            let Value::Array(doomed) = value else {
                return Err(Error::Malformed(format!(
                    "invalid patch format of primitive list: {name} is not a list"
                )));
            };
            if let Some(Value::Array(list)) = original.get_mut(field) {
                list.retain(|item| !doomed.contains(item));
            }
            continue;
        }
        let known = schema.and_then(|schema| schema.field(&name));
        let merged = match (original.remove(&name), value) {
            (_, Value::Null) => continue,
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = known.and_then(|field| field.schema);
                Value::Object(merge_map(old, new, inner.as_ref())?)
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Value::Array(merge_list(&name, old, new, known.as_ref())?)
            }
            (_, new) => match cleaned(new) {
                Some(new) => new,
                None => continue,
            },
        };
        original.insert(name, merged);
    }
    Ok(original)
}

/// Obeys `$retainKeys`: drops every field that it does not list.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = &directive else {
        return Err(Error::Malformed("invalid patch format of retainKeys: it is not a list".into()));
    };
    if let Some(stranger) = patch.iter().find(|(name, value)| {
        !value.is_null() && !name.starts_with('$') && !list.iter().any(|kept| kept == name.as_str())
    }) {
        return Err(Error::Malformed(format!(
            "invalid patch format of retainKeys: the patch sets {} and does not list it",
            stranger.0
        )));
    }
    original.retain(|name, _| list.iter().any(|kept| kept == name));
    Ok(())
}

/// Obeys each `$setElementOrder/<field>` together with the patch of the field itself, and takes both out of
/// the patch.
fn merge_ordered_lists<S: Schema>(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    schema: Option<&S>,
) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|name| name.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let name = &directive[SET_ORDER.len()..];
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bad_order(&directive, "it is not a list"));
        };
        let known = schema.and_then(|schema| schema.field(name));
        let key = known.as_ref().and_then(|field| field.merge_key);
        let patched = match patch.get(name) {
            None => None,
            // A null deletes the list; the main loop does it.
            Some(Value::Null) => continue,
            Some(Value::Array(_)) => match patch.remove(name) {
                Some(Value::Array(list)) => Some(list),
                _ => None,
            },
            Some(_) => {
                return Err(bad_order(&directive, "the field that it orders is not a list in the patch"));
            }
        };
        if let Some(patched) = &patched {
            check_order(&directive, patched, &order, key)?;
        }
        let current = match original.get(name) {
            Some(Value::Array(list)) => Some(list.clone()),
            _ => None,
        };
        let merged = match (current.clone(), patched) {
            (None, None) => continue,
            (Some(current), None) => current,
            (None, Some(patched)) => match cleaned(Value::Array(patched)) {
                Some(Value::Array(list)) => list,
                _ => continue,
            },
            (Some(current), Some(patched)) => merge_list(name, current, patched, known.as_ref())?,
        };
        let ordered = in_order(merged, &order, &current.unwrap_or_default(), key);
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// Checks that the patch of a list names its elements in the order that the directive gives them.
fn check_order(directive: &str, patched: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    let mut at = 0;
    for item in patched {
        // Elements to be deleted, and directives for the list as a whole, have no place in the result.
        if item.get(PATCH).is_some() {
            continue;
        }
        match order[at..].iter().position(|ordered| same(ordered, item, key)) {
            Some(found) => at += found + 1,
            None => {
                return Err(bad_order(
                    directive,
                    &format!(
                        "the order in patch list {} doesn't match {}",
                        Value::from(patched.to_vec()),
                        Value::from(order.to_vec())
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn merge_list<S: Schema>(
    name: &str,
    original: Vec<Value>,
    patch: Vec<Value>,
    known: Option<&Field<S>>,
) -> Result<Vec<Value>> {
    let Some(field) = known.filter(|field| field.merge) else {
        // A list that is replaced as a whole.
        return Ok(patch);
    };
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let mut kinds = original.iter().chain(&patch).map(Value::is_object);
    let of_objects = kinds.next().unwrap_or(false);
    if kinds.any(|object| object != of_objects) {
        return Err(Error::Inapplicable(format!("list element types are not identical: {name}")));
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(Error::Inapplicable("lists of lists are not supported".into()));
    }
    if !of_objects {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(merged, &patch, &original, None));
    }
    let Some(key) = field.merge_key else {
        return Err(Error::Inapplicable(format!("cannot merge lists without merge key for {name}")));
    };
    let (mut merged, patch) = obey_special_elements(name, original.clone(), patch, key)?;
    for item in &patch {
        let Value::Object(fields) = item else { continue };
        match merged.iter().position(|old| same(old, item, Some(key))) {
            Some(at) => {
                if let Value::Object(old) = std::mem::take(&mut merged[at]) {
                    merged[at] = Value::Object(merge_map(old, fields.clone(), field.schema.as_ref())?);
                }
            }
            None => merged.extend(cleaned(item.clone())),
        }
    }
    Ok(in_order(merged, &patch, &original, Some(key)))
}

/// Obeys the elements that carry `$patch`, and returns the list and the rest of its patch.
fn obey_special_elements(
    name: &str,
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(PATCH) {
            None => {
                require_key(name, &item, key)?;
                rest.push(item);
            }
            Some(Value::String(directive)) if directive == "delete" => {
                require_key(name, &item, key)?;
                original.retain(|old| !same(old, &item, Some(key)));
            }
            Some(Value::String(directive)) if directive == "replace" => replace = true,
            Some(Value::String(directive)) if directive == "merge" => {
                return Err(Error::Inapplicable("merging lists cannot yet be specified in the patch".into()));
            }
            Some(directive) => return Err(unknown_directive(directive, &item)),
        }
    }
    Ok((if replace { Vec::new() } else { original }, rest))
}

fn require_key(name: &str, item: &Value, key: &str) -> Result<()> {
    if item.get(key).is_some() {
        return Ok(());
    }
    Err(Error::Inapplicable(format!(
        "map: {item} does not contain declared merge key: {key} (in the list {name})"
    )))
}

/// Arranges `merged`: what `wanted` names in its order, the rest in the order of `current`.
fn in_order(merged: Vec<Value>, wanted: &[Value], current: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(wanted, item).is_some());
    named.sort_by_key(|item| place(wanted, item));
    rest.sort_by_key(|item| place(current, item));
    let mut result = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let rest_first = match (rest.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(kept), Some(next)) => match (place(current, kept), place(current, next)) {
                (Some(kept), Some(next)) => kept < next,
                _ => false,
            },
        };
        result.extend(if rest_first { rest.next() } else { named.next() });
    }
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        None => a == b,
        Some(key) => match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
    }
}

/// Takes directives and nulls out of a value that is new to the object; `None` when nothing is to remain.
fn cleaned(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => match map.get(PATCH).and_then(Value::as_str) {
            Some("delete") => None,
            _ => Some(Value::Object(
                map.into_iter()
                    .filter(|(name, value)| {
                        !value.is_null()
                            && name != PATCH
                            && name != RETAIN_KEYS
                            && !name.starts_with(DELETE_FROM)
                            && !name.starts_with(SET_ORDER)
                    })
                    .filter_map(|(name, value)| Some((name, cleaned(value)?)))
                    .collect(),
            )),
        },
        Value::Array(items) => Some(Value::Array(
            items
                .into_iter()
                // `$patch: replace` in a list element speaks of the list and is no element.
                .filter(|item| item.get(PATCH).and_then(Value::as_str) != Some("replace"))
                .filter_map(cleaned)
                .collect(),
        )),
        other => Some(other),
    }
}

fn unknown_directive(directive: &Value, patch: &Value) -> Error {
    Error::Inapplicable(format!("unknown patch type {directive} in map: {patch}"))
}

fn bad_order(directive: &str, why: &str) -> Error {
    Error::Malformed(format!("invalid patch format of setElementOrder list: {directive}: {why}"))
}

#[cfg(test)]
mod tests;
