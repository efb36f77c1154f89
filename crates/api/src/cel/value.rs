//! Values of objects as expressions see them, and results as JSON.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube_cel::cel::Value as Cel;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value;

/// Words of the language, which fields may be called, too.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Returns how expressions name a field.
pub(super) fn escape(name: &str) -> Cow<'_, str> {
    if RESERVED.contains(&name) {
        return format!("__{name}__").into();
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.into();
    }
    let name = name.replace("__", "__underscores__");
    name.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__").into()
}

fn key(text: impl Into<String>) -> Key {
    Key::String(Arc::new(text.into()))
}

fn number(number: &serde_json::Number) -> Cel {
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => Cel::Int(number),
        (_, Some(number)) => Cel::UInt(number),
        _ => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
    }
}

/// Returns a JSON value as an expression sees it that knows nothing of its schema: names are as they are.
#[must_use]
pub fn from_json(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(found) => number(found),
        Value::String(text) => super::text(text),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(from_json).collect())),
        Value::Object(map) => {
            let map: HashMap<Key, Cel> =
                map.iter().map(|(name, value)| (key(name), from_json(value))).collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// Returns a JSON value as an expression sees it by its schema: names of fields are escaped, keys of maps are
/// not; times, durations and bytes have their own types. At the top of a resource only the name is seen of
/// the metadata.
#[must_use]
pub fn from_json_with_schema(value: &Value, schema: &Value, resource: bool) -> Cel {
    match value {
        Value::Number(found) if schema["type"] == "number" => Cel::Float(found.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => string(text, schema),
        Value::Array(items) => {
            let of = &schema["items"];
            Cel::List(Arc::new(items.iter().map(|item| from_json_with_schema(item, of, false)).collect()))
        }
        Value::Object(fields) => {
            let resource = resource || schema["x-kubernetes-embedded-resource"] == true;
            let additional = &schema["additionalProperties"];
            let is_map = additional.is_object() || *additional == true;
            let mut map = HashMap::with_capacity(fields.len());
            for (name, value) in fields {
                match schema["properties"].get(name) {
                    _ if resource && name == "metadata" => {}
                    _ if resource && matches!(name.as_str(), "apiVersion" | "kind") => {
                        map.insert(key(name), from_json(value));
                    }
                    Some(of) => {
                        map.insert(key(escape(name)), from_json_with_schema(value, of, false));
                    }
                    None if is_map => {
                        map.insert(key(name), from_json_with_schema(value, additional, false));
                    }
                    // What the schema does not name cannot be named in a rule either.
                    None => {}
                }
            }
            if resource {
                let mut seen = HashMap::new();
                for name in ["name", "generateName"] {
                    if let Some(text) = value["metadata"][name].as_str() {
                        seen.insert(key(name), super::text(text));
                    }
                }
                map.insert(key("metadata"), Cel::Map(Map { map: Arc::new(seen) }));
            }
            Cel::Map(Map { map: Arc::new(map) })
        }
        other => from_json(other),
    }
}

fn string(text: &str, schema: &Value) -> Cel {
    let plain = || super::text(text);
    if schema["x-kubernetes-int-or-string"] == true {
        return plain();
    }
    match schema["format"].as_str() {
        Some("date-time") => {
            chrono::DateTime::parse_from_rfc3339(text).map_or_else(|_| plain(), Cel::Timestamp)
        }
        Some("date") => chrono::DateTime::parse_from_rfc3339(&format!("{text}T00:00:00Z"))
            .map_or_else(|_| plain(), Cel::Timestamp),
        Some("duration") => duration(text).map_or_else(plain, Cel::Duration),
        Some("byte") => STANDARD.decode(text).map_or_else(|_| plain(), |bytes| Cel::Bytes(Arc::new(bytes))),
        _ => plain(),
    }
}

/// Says whether a text is a duration as Go writes it.
#[must_use]
pub fn is_duration(text: &str) -> bool {
    duration(text).is_some()
}

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `-2ms`.
fn duration(text: &str) -> Option<chrono::Duration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() && rest != "0" {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..end].parse().ok()?;
        let after = &rest[end..];
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        nanoseconds += amount
            * match &after[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &after[end..];
    }
    // Go's durations end at 2^63 nanoseconds, too.
    (nanoseconds < 9.2e18).then(|| chrono::Duration::nanoseconds((sign * nanoseconds) as i64))
}

/// Returns a result as JSON; `None` for what has no JSON form.
#[must_use]
pub fn to_json(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(flag) => (*flag).into(),
        Cel::Int(number) => (*number).into(),
        Cel::UInt(number) => (*number).into(),
        Cel::Float(number) => serde_json::Number::from_f64(*number)?.into(),
        Cel::String(text) => text.as_str().into(),
        Cel::Bytes(bytes) => STANDARD.encode(bytes.as_slice()).into(),
        Cel::Timestamp(time) => time.to_rfc3339().into(),
        Cel::Duration(duration) => {
            let nanoseconds = duration.num_nanoseconds()?;
            format!("{}s", nanoseconds as f64 / 1e9).into()
        }
        Cel::List(items) => Value::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        Cel::Map(map) => Value::Object(
            map.map
                .iter()
                .map(|(key, value)| Some((key.to_string(), to_json(value)?)))
                .collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}
