//! From a request's body to a JSON value: JSON or YAML, with every duplicate key noted.

use std::fmt;

use api::status::{Reason, Status};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The media types that bodies are read in.
pub(crate) const READ: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// A decoded body.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// The places of keys that stand more than once, such as `metadata.name`; the last value counts.
    pub(crate) duplicates: Vec<String>,
}

/// Returns the media type of a request's body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let full = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    full.split(';').next().unwrap_or_default().trim()
}

/// Decodes an object.
pub(crate) fn object(headers: &HeaderMap, body: &Bytes) -> Result<Decoded, Status> {
    let decoded = match media_type(headers) {
        "" | "application/json" => json(body)?,
        "application/yaml" => yaml(body)?,
        _ => return Err(Status::unsupported_media_type(&READ)),
    };
    if decoded.value.is_object() { Ok(decoded) } else { Err(no_type("not an object")) }
}

/// Decodes JSON.
pub(crate) fn json(body: &[u8]) -> Result<Decoded, Status> {
    let mut decoded = Decoded::default();
    let mut path = String::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Seed { duplicates: &mut decoded.duplicates, path: &mut path };
    let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    decoded.value = value.map_err(|error| no_type(&format!("json parse error: {error}")))?;
    Ok(decoded)
}

/// Decodes YAML; a duplicate key is an error there.
pub(crate) fn yaml(body: &[u8]) -> Result<Decoded, Status> {
    let text = std::str::from_utf8(body).map_err(|error| no_type(&format!("yaml is not UTF-8: {error}")))?;
    let value = serde_yaml::from_str(text)
        .map_err(|error| no_type(&format!("yaml parse error: {}", error.to_string().trim())))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

fn no_type(why: &str) -> Status {
    Status::new(400, Reason::BadRequest, format!("couldn't get version/kind; {why}"))
}

/// Builds a [`Value`] and writes down duplicate keys on the way.
struct Seed<'a> {
    duplicates: &'a mut Vec<String>,
    path: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let length = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Seed { duplicates: self.duplicates, path: self.path })?;
            self.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let length = self.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let value = entries.next_value_seed(Seed { duplicates: self.duplicates, path: self.path })?;
            if map.insert(key, value).is_some() && !self.duplicates.contains(self.path) {
                self.duplicates.push(self.path.clone());
            }
            self.path.truncate(length);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_noted_with_their_place() {
        let decoded = json(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3,"a":4}"#).unwrap();
        assert_eq!(decoded.value, serde_json::json!({"a": 4, "b": [{"c": 2}]}));
        assert_eq!(decoded.duplicates, ["b[0].c", "a"]);
    }

    #[test]
    fn what_cannot_be_read_is_a_bad_request() {
        let deep = "[".repeat(100_000);
        for body in ["{", "{} {}", "nul", deep.as_str(), ""] {
            assert_eq!(json(body.as_bytes()).unwrap_err().code, 400, "{}", &body[..body.len().min(10)]);
        }
    }
}
