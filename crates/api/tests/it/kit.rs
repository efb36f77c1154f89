//! What the API server does with a manifest before it stores it, without the server.

use std::sync::Arc;

use api::decode::strict_error;
use api::registry::{Kind, Part, builtin};
use api::status::Status;
use serde_json::Value;

/// Reads a manifest as kubectl does: YAML or JSON.
pub(crate) fn read(manifest: &str) -> Value {
    serde_yaml::from_str(manifest).unwrap_or_else(|error| panic!("{error}:\n{manifest}"))
}

/// Finds the kind of an object.
pub(crate) fn kind_of(object: &Value) -> Arc<Kind> {
    let text = |key: &str| object[key].as_str().unwrap_or_else(|| panic!("no {key} in {object}"));
    let (version, kind) = (text("apiVersion"), text("kind"));
    builtin().of(version, kind).unwrap_or_else(|| panic!("no kind {version} {kind}")).clone()
}

/// Creates an object as the API server does: with strict decoding, in the namespace `default`.
pub(crate) fn create(manifest: &str) -> Result<Value, Status> {
    let mut object = read(manifest);
    let kind = kind_of(&object);
    let problems = kind.decode(&mut object)?;
    if !problems.is_empty() {
        return Err(strict_error(&kind, &problems));
    }
    if kind.is_namespaced() && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "default".into();
    }
    kind.default(&mut object);
    object["metadata"]["uid"] = "00000000-0000-4000-8000-000000000001".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    kind.prepare_create(&mut object);
    kind.validate_create(&object)?;
    Ok(object)
}

/// Changes an object: `change` is a JSON merge patch in YAML.
pub(crate) fn update(old: &Value, change: &str, part: Part<'_>) -> Result<Value, Status> {
    let kind = kind_of(old);
    let mut new = old.clone();
    merge(&mut new, &read(change));
    kind.decode(&mut new)?;
    kind.default(&mut new);
    kind.prepare_update(&mut new, old, part);
    kind.validate_update(&new, old, part)?;
    Ok(new)
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    let map = target.as_object_mut().expect("it was just made one");
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
