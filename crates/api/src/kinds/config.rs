//! Config maps and secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{cells, check};
use crate::field::{Errors, Path};
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, flag, object, remove, same, text};

/// How many bytes all values of a config map or secret may have together.
const LIMIT: usize = 1024 * 1024;
const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// Completes the descriptor of `ConfigMap` or `Secret`.
pub(super) fn describe(kind: &mut Kind) {
    if kind.kind == "ConfigMap" {
        kind.strategy = Strategy {
            validate: |_, object, errors| validate_map(object, errors),
            validate_update: |_, new, old, part, errors| {
                if part == Part::Main {
                    immutable(new, old, &["data", "binaryData"], errors);
                    validate_map(new, errors);
                }
            },
            ..Strategy::GENERIC
        };
        kind.table = Table::new(
            vec![NAME, Column::number("Data", "How many values it holds."), AGE],
            |object, now| {
                let count = size(&object["data"]) + size(&object["binaryData"]);
                vec![cells::name(object), count.into(), cells::age(object, now)]
            },
        );
        return;
    }
    kind.strategy = Strategy {
        default: |_, secret| {
            merge_texts(secret);
            default(secret, "type", "Opaque");
        },
        validate: |_, secret, errors| validate_secret(secret, errors),
        validate_update: |_, new, old, part, errors| {
            if part == Part::Main {
                check::immutable(new, old, "type", &Path::default(), errors);
                immutable(new, old, &["data"], errors);
                validate_secret(new, errors);
            }
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Type", "What the secret is for."),
            Column::number("Data", "How many values it holds."),
            AGE,
        ],
        |secret, now| {
            vec![
                cells::name(secret),
                text(secret, "type").into(),
                size(&secret["data"]).into(),
                cells::age(secret, now),
            ]
        },
    );
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, Map::len)
}

/// `stringData` is written only: its texts go into `data`.
fn merge_texts(secret: &mut Value) {
    let Some(texts) = secret.get("stringData").and_then(Value::as_object).cloned() else { return };
    remove(secret, "stringData");
    let Some(Value::Object(data)) = object(secret, "data") else { return };
    for (key, value) in texts {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
    }
}

fn keys(map: &Value, path: &Path, errors: &mut Errors) {
    for key in map.as_object().into_iter().flatten().map(|(key, _)| key) {
        let at = path.key(key);
        if key.len() > 253 {
            errors.invalid(&at, key.as_str(), "must be no more than 253 bytes");
        }
        if key.is_empty()
            || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            errors.invalid(&at, key.as_str(), KEY);
        } else if key == "." {
            errors.invalid(&at, key.as_str(), "must not be '.'");
        } else if key == ".." {
            errors.invalid(&at, key.as_str(), "must not be '..'");
        } else if key.starts_with("..") {
            errors.invalid(&at, key.as_str(), "must not start with '..'");
        }
    }
}

/// The bytes of a map whose values are base64 when `encoded`.
fn bytes(map: &Value, encoded: bool) -> usize {
    let values = map.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
    values
        .map(|value| {
            if !encoded {
                return value.len();
            }
            value.len() / 4 * 3
                - value.bytes().rev().take(2).filter(|b| *b == b'=').count().min(value.len() / 4 * 3)
        })
        .sum()
}

fn validate_map(object: &Value, errors: &mut Errors) {
    keys(&object["data"], &Path::new("data"), errors);
    keys(&object["binaryData"], &Path::new("binaryData"), errors);
    for key in object["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if object["binaryData"].get(key).is_some() {
            errors.invalid(
                &Path::new("data").key(key),
                key.as_str(),
                "duplicate of key present in binaryData",
            );
        }
    }
    if bytes(&object["data"], false) + bytes(&object["binaryData"], true) > LIMIT {
        errors.too_long(&Path::default(), LIMIT);
    }
}

fn validate_secret(secret: &Value, errors: &mut Errors) {
    let path = Path::new("data");
    keys(&secret["data"], &path, errors);
    if bytes(&secret["data"], true) > LIMIT {
        errors.too_long(&path, LIMIT);
    }
    let mut need = |keys: &[&str]| {
        for key in keys {
            if secret["data"].get(*key).is_none() {
                errors.required(&path.key(key), "");
            }
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let name = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"].as_str();
            if name.unwrap_or_default().is_empty() {
                let at = Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name");
                errors.required(&at, "");
            }
        }
        kind @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if kind.ends_with("json") { ".dockerconfigjson" } else { ".dockercfg" };
            need(&[key]);
            let found = secret["data"].get(key).and_then(Value::as_str).unwrap_or_default();
            let decoded = STANDARD.decode(found).unwrap_or_default();
            if !found.is_empty() && serde_json::from_slice::<Map<String, Value>>(&decoded).is_err() {
                errors.invalid(&path.key(key), "<secret contents redacted>", "invalid character in JSON");
            }
        }
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/basic-auth"
            if ["username", "password"].iter().all(|key| secret["data"].get(*key).is_none()) =>
        {
            need(&["username", "password"]);
        }
        _ => {}
    }
}

/// What was declared immutable stays so.
fn immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.forbidden(&Path::new("immutable"), WHY);
    }
    for field in fields {
        if !same(&new[*field], &old[*field]) {
            errors.forbidden(&Path::new(field), WHY);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_of_a_secret_become_data() {
        let mut secret = json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "yy", "c": ""}});
        merge_texts(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "eA==", "b": "eXk=", "c": ""}}));
    }

    #[test]
    fn the_size_counts_decoded_bytes() {
        for (text, size) in [("", 0), ("eA==", 1), ("eXk=", 2), ("eXl5", 3)] {
            assert_eq!(bytes(&json!({"a": text}), true), size, "{text}");
        }
    }
}
