//! Kubernetes' protobuf encoding of objects: four magic bytes and an envelope around a message.
//!
//! What the messages look like stands in a table of facts (`src/facts/protobuf.txt`, written by
//! `cargo xtask facts`). What is read is the same JSON value that a client sending JSON would have sent: what
//! is zero and has no meaning is left out.

mod encode;
mod special;
mod table;
mod wire;

use serde_json::{Map, Value};

pub use encode::{Encoder, encode, watch_frame};
use table::{Field, Message, Type};
use wire::Reader;

/// What every encoded object begins with.
pub const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may be nested.
const DEPTH: usize = 64;

/// Why bytes are not an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

type Result<T> = std::result::Result<T, Error>;

fn fail<T>(why: impl Into<String>) -> Result<T> {
    Err(Error(why.into()))
}

/// Decodes an object. `apiVersion` and `kind` are those of the envelope.
///
/// # Errors
/// A text when the bytes are no such object or its kind is not known.
pub fn decode(bytes: &[u8]) -> Result<Value> {
    let Some(envelope) = bytes.strip_prefix(MAGIC) else {
        return fail(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        );
    };
    let (mut api_version, mut kind, mut raw, mut content_type) = ("", "", &b""[..], "");
    let mut reader = Reader::new(envelope);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => {
                let mut reader = Reader::new(field.bytes()?);
                while let Some((number, field)) = reader.next()? {
                    match number {
                        1 => api_version = field.text()?,
                        2 => kind = field.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = field.bytes()?,
            4 => content_type = field.text()?,
            _ => {}
        }
    }
    if content_type == "application/json" {
        return serde_json::from_slice(raw).or_else(|error| fail(format!("embedded JSON: {error}")));
    }
    let Some(message) = message_of(api_version, kind) else {
        return fail(format!("no kind {kind:?} is registered for version {api_version:?}"));
    };
    let mut object = match message_value(message, raw, DEPTH)? {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// Finds the message of a kind. The options of requests belong to every group.
fn message_of(api_version: &str, kind: &str) -> Option<&'static Message> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group == "metrics.k8s.io" {
        return table::message(&format!("metrics.pkg.apis.metrics.{version}.{kind}"));
    }
    if (group, version, kind) == ("meta.k8s.io", "v1beta1", "PartialObjectMetadataList") {
        return table::message("apimachinery.pkg.apis.meta.v1beta1.PartialObjectMetadataList");
    }
    let own = crate::schema::of_kind(group, version, kind)
        .and_then(|definition| table::message(&definition.name.replace('-', "_")));
    let shared = matches!(group, "" | "meta.k8s.io") || kind.ends_with("Options");
    own.or_else(|| table::message(&format!("apimachinery.pkg.apis.meta.v1.{kind}")).filter(|_| shared))
}

/// Decodes a message into the JSON value that stands for it; `Null` when it says nothing.
fn message_value(message: &'static Message, bytes: &[u8], depth: usize) -> Result<Value> {
    if depth == 0 {
        return fail("messages are nested too deep");
    }
    if let Some(read) = special::reader(message.name) {
        return read(message, bytes, depth);
    }
    object(message, bytes, depth).map(Value::Object)
}

fn object(message: &'static Message, bytes: &[u8], depth: usize) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        // What is not known here is newer than this server, and is dropped as unknown fields are.
        let Some(field) = message.field(number) else { continue };
        match &field.ty {
            Type::Inline(inner) => {
                if let Value::Object(inner) = message_value(table::known(inner)?, found.bytes()?, depth - 1)?
                {
                    map.extend(inner);
                }
            }
            Type::List(item) => {
                let item = value(item, &found, true, depth)?;
                match map.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(list) => list.push(item),
                    other => *other = Value::Array(vec![item]),
                }
            }
            Type::Map(item) => {
                let (key, item) = entry(item, found.bytes()?, depth)?;
                match map.entry(field.name.clone()).or_insert_with(|| Value::Object(Map::new())) {
                    Value::Object(inner) => {
                        inner.insert(key, item);
                    }
                    other => *other = Value::Object(Map::from_iter([(key, item)])),
                }
            }
            ty => {
                let value = value(ty, &found, field.keeps, depth)?;
                if !value.is_null() {
                    map.insert(field.name.clone(), value);
                }
            }
        }
    }
    Ok(map)
}

/// Reads an entry of a map: its key is field 1, its value field 2.
fn entry(ty: &Type, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut item) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        match number {
            1 => key = found.text()?.to_owned(),
            2 => item = Some(value(ty, &found, true, depth)?),
            _ => {}
        }
    }
    let item = item.unwrap_or_else(|| match ty {
        Type::Text | Type::Bytes => Value::from(""),
        Type::Message(_) => Value::Object(Map::new()),
        _ => Value::Null,
    });
    Ok((key, item))
}

/// Reads one value; `Null` for a zero that means nothing.
fn value(ty: &Type, found: &wire::Found<'_>, keeps: bool, depth: usize) -> Result<Value> {
    Ok(match ty {
        Type::Text => {
            let text = found.text()?;
            if text.is_empty() && !keeps { Value::Null } else { text.into() }
        }
        Type::Bytes => special::base64(found.bytes()?).into(),
        Type::Integer => {
            let number = found.integer()?;
            if number == 0 && !keeps { Value::Null } else { number.into() }
        }
        Type::Bool => {
            let flag = found.integer()? != 0;
            if !flag && !keeps { Value::Null } else { flag.into() }
        }
        Type::Double => {
            let number = found.double()?;
            if number == 0.0 && !keeps { Value::Null } else { number.into() }
        }
        Type::Texts => {
            let mut list = Vec::new();
            let mut reader = Reader::new(found.bytes()?);
            while let Some((_, found)) = reader.next()? {
                list.push(Value::from(found.text()?));
            }
            Value::Array(list)
        }
        Type::Message(name) | Type::Inline(name) => {
            message_value(table::known(name)?, found.bytes()?, depth - 1)?
        }
        Type::List(_) | Type::Map(_) => return fail("a list within a list"),
    })
}

impl Message {
    fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
