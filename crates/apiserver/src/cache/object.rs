//! One stored object as the cache holds it: its encoded bytes and the few facts that selection and access need.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};
use store::Revision;

/// What stands before the place where the resource version is put into an encoded object.
const METADATA: &[u8] = br#""metadata":{"#;
/// How the spliced-in resource version begins.
const VERSION: &[u8] = br#""resourceVersion":""#;

/// An object at one revision. Never changed once made; shared by every reader and watcher.
#[derive(Debug)]
pub struct Object {
    /// `namespace/name`, or `name` for cluster-scoped kinds.
    pub key: Arc<str>,
    /// The revision of the change that made it.
    pub revision: Revision,
    /// JSON at the storage version, with `metadata.resourceVersion`.
    pub bytes: Bytes,
    /// What selection and access need to know of it.
    pub facts: Arc<Facts>,
}

/// What can be asked of an object without decoding it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The kind's selectable fields beside name and namespace.
    pub fields: Box<[(Box<str>, Box<str>)]>,
    /// The uids in `metadata.ownerReferences`.
    pub owners: Box<[Box<str>]>,
}

/// Reads a kind's selectable fields (path and value) from a decoded object.
pub(crate) type FieldsOf = Arc<dyn Fn(&Value) -> Vec<(String, String)> + Send + Sync>;

impl Facts {
    /// Reads the facts of `object`; `fields` knows the kind's selectable fields.
    pub(crate) fn of(object: &Value, fields: Option<&FieldsOf>) -> Self {
        let metadata = &object["metadata"];
        let mut labels: Vec<(Box<str>, Box<str>)> = metadata["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
            .collect();
        labels.sort_unstable();
        Self {
            uid: metadata["uid"].as_str().unwrap_or_default().into(),
            labels: labels.into(),
            fields: fields
                .map(|fields| fields(object))
                .unwrap_or_default()
                .into_iter()
                .map(|(path, value)| (path.into_boxed_str(), value.into_boxed_str()))
                .collect(),
            owners: metadata["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|owner| Some(owner["uid"].as_str()?.into()))
                .collect(),
        }
    }

    /// Returns the value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.binary_search_by(|(label, _)| (**label).cmp(key)).ok()?;
        Some(&self.labels[found].1)
    }

    /// Returns the value of a selectable field.
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| &**field == path).map(|(_, value)| &**value)
    }
}

impl Object {
    /// Makes an object from the bytes that the store holds (which carry no resource version).
    pub(crate) fn stored(key: Arc<str>, revision: Revision, value: &[u8], facts: Arc<Facts>) -> Self {
        Self { key, revision, bytes: with_version(value, revision), facts }
    }

    /// Makes an object that was not stored, for a dry run: it has no resource version.
    pub(crate) fn unstored(key: Arc<str>, value: &Bytes, facts: Arc<Facts>) -> Self {
        Self { key, revision: 0, bytes: value.clone(), facts }
    }

    /// Returns the same content as of another revision: what a watcher sees of a deletion.
    pub(crate) fn at(&self, revision: Revision) -> Self {
        Self {
            key: self.key.clone(),
            revision,
            bytes: with_version(&without_version(&self.bytes), revision),
            facts: self.facts.clone(),
        }
    }

    /// Returns the namespace; empty for cluster-scoped kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// Decodes the object. What the cache holds was encoded here or checked when it was loaded.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

impl api::selector::Labels for Facts {
    fn label(&self, key: &str) -> Option<&str> {
        self.label(key)
    }
}

/// Encodes an object as the store keeps it: kind, apiVersion and metadata first, no resource version.
pub(crate) fn encode(object: &Map<String, Value>) -> Bytes {
    let mut out = BytesMut::with_capacity(1024).writer();
    let mut first = true;
    let mut field = |out: &mut bytes::buf::Writer<BytesMut>, key: &str, value: &Value| {
        out.get_mut().put_u8(if std::mem::take(&mut first) { b'{' } else { b',' });
        json(out, key);
        out.get_mut().put_u8(b':');
        match value {
            Value::Object(map) if key == "metadata" && map.contains_key("resourceVersion") => {
                let mut map = map.clone();
                map.remove("resourceVersion");
                json(out, &map);
            }
            _ => json(out, value),
        }
    };
    for key in ["kind", "apiVersion", "metadata"] {
        if let Some(value) = object.get(key) {
            field(&mut out, key, value);
        }
    }
    for (key, value) in object {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            field(&mut out, key, value);
        }
    }
    let mut out = out.into_inner();
    if out.is_empty() {
        out.put_u8(b'{');
    }
    out.put_u8(b'}');
    out.freeze()
}

fn json<T: serde::Serialize + ?Sized>(out: &mut bytes::buf::Writer<BytesMut>, value: &T) {
    serde_json::to_writer(out, value).expect("JSON values encode, and memory takes them");
}

/// Returns `value` with the resource version as the first field of its metadata.
pub(crate) fn with_version(value: &[u8], revision: Revision) -> Bytes {
    let Some(found) = memchr(value) else { return Bytes::copy_from_slice(value) };
    let place = found + METADATA.len();
    let mut out = BytesMut::with_capacity(value.len() + VERSION.len() + 24);
    out.put_slice(&value[..place]);
    out.put_slice(VERSION);
    out.put_slice(revision.to_string().as_bytes());
    out.put_slice(if value[place..].starts_with(b"}") { b"\"" } else { b"\"," });
    out.put_slice(&value[place..]);
    out.freeze()
}

/// Undoes [`with_version`].
pub(crate) fn without_version(bytes: &[u8]) -> Bytes {
    let Some(found) = memchr(bytes) else { return Bytes::copy_from_slice(bytes) };
    let place = found + METADATA.len();
    let Some(rest) = bytes[place..].strip_prefix(VERSION) else { return Bytes::copy_from_slice(bytes) };
    let end = rest.iter().position(|byte| *byte == b'"').map_or(rest.len(), |quote| quote + 1);
    let rest = rest[end..].strip_prefix(b",").unwrap_or(&rest[end..]);
    let mut out = BytesMut::with_capacity(bytes.len());
    out.put_slice(&bytes[..place]);
    out.put_slice(rest);
    out.freeze()
}

/// Finds the object's metadata. Only kind and apiVersion stand before it, and neither holds a quote.
fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.windows(METADATA.len()).position(|window| window == METADATA)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_version_goes_in_and_comes_out_again() {
        let object = json!({"apiVersion": "v1", "data": {"metadata": {}}, "kind": "ConfigMap",
            "metadata": {"name": "a", "resourceVersion": "7"}});
        let stored = encode(object.as_object().unwrap());
        assert_eq!(
            stored,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"metadata":{}}}"#
        );
        let served = with_version(&stored, 42);
        assert_eq!(
            serde_json::from_slice::<Value>(&served).unwrap()["metadata"]["resourceVersion"],
            json!("42")
        );
        assert_eq!(without_version(&served), stored);
        assert_eq!(without_version(&with_version(br#"{"metadata":{}}"#, 1)), br#"{"metadata":{}}"#[..]);
    }

    #[test]
    fn labels_are_found_by_key() {
        let facts = Facts::of(&json!({"metadata": {"labels": {"b": "2", "a": "1"}}}), None);
        assert_eq!(facts.label("b"), Some("2"));
        assert_eq!(facts.label("c"), None);
    }
}
