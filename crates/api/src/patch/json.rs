//! JSON patch (RFC 6902) and JSON merge patch (RFC 7386), with the limits that keep a small patch from
//! growing into a large object.

use json_patch::PatchOperation;
use serde_json::Value;

use super::{Error, Result};

/// The most operations that one JSON patch may hold; upstream's limit.
const MAX_OPERATIONS: usize = 10_000;

/// The most bytes that the `copy` operations of one patch may add together; upstream's limit of 3 MiB.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies a JSON patch document to `target`.
///
/// # Errors
/// When the document is no JSON patch, is too large, or one of its operations does not apply.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<()> {
    let Value::Array(operations) = patch else {
        return Err(Error::Malformed("a JSON patch is a list of operations".into()));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        let operation: PatchOperation = serde_json::from_value(operation.clone())
            .map_err(|error| Error::Malformed(format!("operation {index} of the JSON patch: {error}")))?;
        if let PatchOperation::Copy(copy) = &operation {
            let size = copy.from.resolve(target).map_or(0, |value| value.to_string().len());
            copied += size;
            if copied > MAX_COPIED_BYTES {
                return Err(Error::Inapplicable(format!(
                    "unable to copy, the accumulated size increase of copy operations exceeds the limit {MAX_COPIED_BYTES}"
                )));
            }
        }
        // As in upstream's library nothing is null: controllers guard what they add by a test for it.
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && test.path.resolve(target).is_err()
            && test.path.parent().is_some_and(|parent| parent.resolve(target).is_ok())
        {
            continue;
        }
        let path = operation.path().to_string();
        ::json_patch::patch(target, std::slice::from_ref(&operation)).map_err(|error| {
            Error::Inapplicable(match (&operation, &error.kind) {
                (PatchOperation::Test(_), ::json_patch::PatchErrorKind::TestFailed) => {
                    format!("testing value {path} failed: test failed")
                }
                (operation, kind) => {
                    format!("{} operation does not apply: {path}: {kind}", verb(operation))
                }
            })
        })?;
    }
    Ok(())
}

fn verb(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

/// Applies a JSON merge patch to `target`: objects merge, null deletes, everything else replaces.
///
/// # Errors
/// When the patch is not an object.
pub fn merge_patch(target: &mut Value, patch: &Value) -> Result<()> {
    if !patch.is_object() {
        return Err(Error::Malformed("a merge patch of an object is itself an object".into()));
    }
    ::json_patch::merge(target, patch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patch_applies_each_operation() {
        for (target, patch, expect) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}]), json!({"a": 2})),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                json!({"a": [1, 2, 3]}),
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]})),
            (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/b"}]), json!({"a": 1})),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/0"}]), json!({"a": [2]})),
            (
                json!({"a": 1}),
                json!([{"op": "replace", "path": "/a", "value": {"x": []}}]),
                json!({"a": {"x": []}}),
            ),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1})),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1})),
            (
                json!({"m": {}}),
                json!([{"op": "test", "path": "/m/f", "value": null}, {"op": "add", "path": "/m/f", "value": [1]}]),
                json!({"m": {"f": [1]}}),
            ),
            (json!({"a/b": 1}), json!([{"op": "replace", "path": "/a~1b", "value": 2}]), json!({"a/b": 2})),
            (json!({"a~b": 1}), json!([{"op": "replace", "path": "/a~0b", "value": 2}]), json!({"a~b": 2})),
            (json!({"a": 1}), json!([]), json!({"a": 1})),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 5}]),
                json!({"a": 5}),
            ),
        ] {
            let mut value = target.clone();
            json_patch(&mut value, &patch).unwrap_or_else(|error| panic!("{target} + {patch}: {error}"));
            assert_eq!(value, expect, "{target} + {patch}");
        }
    }

    #[test]
    fn json_patch_refuses_what_does_not_apply() {
        for patch in [
            json!([{"op": "remove", "path": "/missing"}]),
            json!([{"op": "replace", "path": "/missing", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "add", "path": "/x/y", "value": 2}]),
            json!([{"op": "move", "from": "/x", "path": "/y"}]),
            json!([{"op": "copy", "from": "/x", "path": "/y"}]),
            json!([{"op": "add", "path": "/l/7", "value": 2}]),
        ] {
            let result = json_patch(&mut json!({"a": 1, "l": []}), &patch);
            assert!(matches!(result, Err(Error::Inapplicable(_))), "{patch}: {result:?}");
        }
        for patch in [
            json!({}),
            json!("x"),
            json!([{"op": "frob", "path": "/a"}]),
            json!([{"op": "add", "value": 1}]),
            json!([{"op": "add", "path": "a", "value": 1}]),
            json!([7]),
        ] {
            let result = json_patch(&mut json!({"a": 1}), &patch);
            assert!(matches!(result, Err(Error::Malformed(_))), "{patch}: {result:?}");
        }
    }

    #[test]
    fn json_patch_limits_operations_and_copies() {
        let many: Vec<Value> = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1];
        assert!(matches!(json_patch(&mut json!({"a": 1}), &Value::Array(many)), Err(Error::TooLarge(_))));
        let doubling: Vec<Value> =
            (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/k{n}")})).collect();
        let result = json_patch(&mut json!({"a": "x".repeat(100)}), &Value::Array(doubling));
        assert!(matches!(result, Err(Error::Inapplicable(_))), "{result:?}");
    }

    #[test]
    fn merge_patch_merges_deletes_and_replaces() {
        for (target, patch, expect) in [
            (json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!({"a": null}), json!({})),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}}), json!({"a": {"c": 2}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5})),
            (json!({"a": 5}), json!({"a": {"b": 1, "c": null}}), json!({"a": {"b": 1}})),
            (json!({}), json!({}), json!({})),
        ] {
            let mut value = target.clone();
            merge_patch(&mut value, &patch).unwrap();
            assert_eq!(value, expect, "{target} + {patch}");
        }
        assert!(merge_patch(&mut json!({}), &json!([])).is_err());
    }
}
