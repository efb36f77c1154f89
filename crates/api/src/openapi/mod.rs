//! OpenAPI documents: version 3 for each group and version, version 2 as a whole (JSON and protobuf).
//!
//! Types, list types, merge keys and kinds come from the facts in [`crate::schema`], texts from the
//! `k8s-openapi` crate, paths and verbs from the registry. A document is built when it is first asked for,
//! one definition at a time, and kept compressed; [`Documents`] holds what has been built.

mod gnostic;
mod paths;
mod schema;
mod texts;
mod v2;
mod v3;

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::registry::{Kind, Registry};

/// The media type of the version 2 document in protobuf, as it is answered. Old clients ask for it with an `@`
/// in its name, which their own reading of answers takes for an error.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Says what the schema of a kind is that is not upstream's: an OpenAPI v3 schema as in a
/// `CustomResourceDefinition`.
pub type CustomSchema<'a> = &'a dyn Fn(&Kind) -> Option<Value>;

/// A document, compressed with gzip.
#[derive(Debug, Clone)]
pub struct Document {
    /// The compressed bytes.
    pub gzip: Bytes,
    /// A strong entity tag without quotes: changes when the document does.
    pub etag: Arc<str>,
}

/// Which document is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Which {
    /// Version 3, of one group (empty for the core group) and version.
    V3 {
        /// The group.
        group: String,
        /// The version.
        version: String,
    },
    /// Version 2 as JSON.
    V2Json,
    /// Version 2 as protobuf.
    V2Protobuf,
}

/// The documents that have been asked for.
#[derive(Debug, Default)]
pub struct Documents {
    built: Mutex<HashMap<Which, Document>>,
}

impl Documents {
    /// Returns a document; `None` when the registry serves nothing in that group and version.
    pub fn get(&self, which: &Which, registry: &Registry, custom: CustomSchema<'_>) -> Option<Document> {
        let etag = fingerprint(which, registry, custom)?;
        let find = |built: &HashMap<Which, Document>| {
            built.get(which).filter(|document| document.etag == etag).cloned()
        };
        // Building takes long; two who ask at once wait for one another instead of both building.
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = find(&built) {
            return Some(document);
        }
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        match which {
            Which::V3 { group, version } => v3::write(&mut out, registry, group, version, custom),
            Which::V2Json => v2::write_json(&mut out, registry, custom),
            Which::V2Protobuf => gnostic::write(&mut out, registry, custom),
        }
        .and_then(|()| out.finish())
        .ok()
        .map(|mut gzip| {
            gzip.shrink_to_fit();
            let document = Document { gzip: gzip.into(), etag };
            built.insert(which.clone(), document.clone());
            document
        })
    }
}

/// Returns the document of `/openapi/v3`: where the documents of each group and version are.
#[must_use]
pub fn v3_index(registry: &Registry, custom: CustomSchema<'_>) -> Value {
    let mut paths = serde_json::Map::new();
    for group in registry.groups() {
        for version in group.versions {
            let path = if group.name.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{}/{version}", group.name)
            };
            let which = Which::V3 { group: group.name.to_owned(), version: version.to_owned() };
            if let Some(hash) = fingerprint(&which, registry, custom) {
                let url = format!("/openapi/v3/{path}?hash={hash}");
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
    }
    json!({"paths": paths})
}

/// Returns what changes when a document does, without building it: this program's version and the kinds that
/// are in it. `None` when there is nothing in it.
fn fingerprint(which: &Which, registry: &Registry, custom: CustomSchema<'_>) -> Option<Arc<str>> {
    let mut hash = Fnv::new();
    hash.add(env!("CARGO_PKG_VERSION"));
    hash.add(&format!("{which:?}"));
    let mut any = false;
    for kind in registry.iter() {
        if let Which::V3 { group, version } = which
            && (kind.group != group.as_str() || kind.version != version.as_str())
        {
            continue;
        }
        any = true;
        hash.add(&format!("{}/{}/{}", kind.group, kind.version, kind.plural));
        if kind.definition.is_none()
            && let Some(schema) = custom(kind)
        {
            hash.add(&schema.to_string());
        }
    }
    any.then(|| hash.text().into())
}

/// A hash of 128 bits from two rounds of FNV-1a; tells documents apart, and is no secret.
struct Fnv(u64, u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325, 0x8422_2325_cbf2_9ce4)
    }

    fn add(&mut self, text: &str) {
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            self.1 = (self.1.rotate_left(7) ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn text(&self) -> String {
        format!("{:016X}{:016X}", self.0, self.1)
    }
}

/// Writes one `"name":value` of a JSON object, with a comma before all but the first.
fn member(out: &mut dyn Write, first: &mut bool, name: &str, value: &Value) -> std::io::Result<()> {
    out.write_all(if std::mem::take(first) { b"" } else { b"," })?;
    serde_json::to_writer(&mut *out, name)?;
    out.write_all(b":")?;
    serde_json::to_writer(&mut *out, value)?;
    Ok(())
}

#[cfg(test)]
mod tests;
