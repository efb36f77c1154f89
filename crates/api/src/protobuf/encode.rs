//! Writing objects in Kubernetes' protobuf encoding: the other direction of what the parent module reads.
//!
//! Fields are written in the order of their numbers, and only those that the JSON value has: a reader takes
//! what is missing for zero, which is what upstream's encoder writes out.

use serde_json::{Map, Value};

use super::table::{self, Message, Type};
use super::wire::Writer;
use super::{MAGIC, Result, fail, message_of, special};

/// How objects of one kind are encoded.
#[derive(Debug, Clone)]
pub struct Encoder {
    message: &'static Message,
    api_version: String,
    kind: String,
}

impl Encoder {
    /// Returns the encoder of a kind; `None` for kinds that have no protobuf encoding, such as custom ones.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let message = message_of(api_version, kind)?;
        Some(Self { message, api_version: api_version.into(), kind: kind.into() })
    }

    /// Encodes an object of the kind.
    ///
    /// # Errors
    /// A text when a value has not the type of its field.
    pub fn object(&self, object: &Value) -> Result<Vec<u8>> {
        let mut out = Writer::with_capacity(512);
        let at = self.open(&mut out);
        message(self.message, object, &mut out)?;
        Ok(self.close(out, at))
    }

    /// Encodes a list of the kind (`PodList`): its metadata, then the items as they come.
    ///
    /// # Errors
    /// As [`Encoder::object`], and when the kind is no list.
    pub fn list(&self, metadata: &Value, items: impl IntoIterator<Item = Value>) -> Result<Vec<u8>> {
        let number = |name: &str| {
            self.message.fields.iter().find(|field| field.name == name).map(|field| (field.number, &field.ty))
        };
        let (Some((metadata_number, Type::Message(meta))), Some((items_number, Type::List(item)))) =
            (number("metadata"), number("items"))
        else {
            return fail(format!("{} is no list", self.message.name));
        };
        let Type::Message(item) = **item else {
            return fail(format!("{} is no list of objects", self.message.name));
        };
        let (meta, item) = (table::known(meta)?, table::known(item)?);
        let mut out = Writer::with_capacity(64 << 10);
        let at = self.open(&mut out);
        out.message(metadata_number, |out| message(meta, metadata, out))?;
        for value in items {
            out.message(items_number, |out| message(item, &value, out))?;
        }
        Ok(self.close(out, at))
    }

    /// Begins the envelope. Returns where the object's bytes are.
    fn open(&self, out: &mut Writer) -> usize {
        out.raw(MAGIC);
        out.open(1, |out| {
            out.bytes(1, self.api_version.as_bytes());
            out.bytes(2, self.kind.as_bytes());
        });
        out.begin(2)
    }

    fn close(&self, mut out: Writer, at: usize) -> Vec<u8> {
        out.end(at);
        // Neither a content encoding nor a content type: it is this one.
        out.bytes(3, b"");
        out.bytes(4, b"");
        out.into_bytes()
    }
}

/// Encodes an object by the kind that it says it is.
///
/// # Errors
/// A text when the kind is not known or a value has not the type of its field.
pub fn encode(object: &Value) -> Result<Vec<u8>> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    match Encoder::of(api_version, kind) {
        Some(encoder) => encoder.object(object),
        None => fail(format!("no kind {kind:?} is registered for version {api_version:?}")),
    }
}

/// Returns the frame of a watch event: its length in four bytes, its type and the encoded object.
#[must_use]
pub fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(object.len() + 32);
    out.raw(&[0; 4]);
    out.bytes(1, kind.as_bytes());
    out.open(2, |out| out.bytes(1, object));
    let mut frame = out.into_bytes();
    // An object that does not fit into four bytes of length does not fit into the store either.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Writes the fields of a message.
pub(super) fn message(message: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    if let Some(write) = special::writer(message.name) {
        return write(message, value, out);
    }
    match value {
        Value::Object(map) => fields(message, map, out),
        Value::Null => Ok(()),
        other => wrong(message.name, other),
    }
}

fn fields(message: &'static Message, map: &Map<String, Value>, out: &mut Writer) -> Result<()> {
    for field in &message.fields {
        if let Type::Inline(inner) = &field.ty {
            let inner = table::known(inner)?;
            out.message(field.number, |out| fields(inner, map, out))?;
            continue;
        }
        let Some(value) = map.get(&field.name).filter(|value| !value.is_null()) else { continue };
        match (&field.ty, value) {
            (Type::List(ty), Value::Array(list)) => {
                for item in list {
                    one(ty, field.number, item, out)?;
                }
            }
            (Type::Map(ty), Value::Object(entries)) => {
                for (key, item) in entries {
                    out.message(field.number, |out| {
                        out.bytes(1, key.as_bytes());
                        one(ty, 2, item, out)
                    })?;
                }
            }
            (Type::List(_) | Type::Map(_), other) => return wrong(&field.name, other),
            (ty, value) => one(ty, field.number, value, out)
                .or_else(|error| fail(format!("{}.{}: {error}", message.name, field.name)))?,
        }
    }
    Ok(())
}

/// Writes one field. Null, which may stand in lists and maps, is the type's zero.
fn one(ty: &Type, number: u32, value: &Value, out: &mut Writer) -> Result<()> {
    match (ty, value) {
        (Type::Text, Value::String(text)) => out.bytes(number, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => out.bytes(number, &special::bytes(text)?),
        (Type::Text | Type::Bytes, Value::Null) => out.bytes(number, b""),
        (Type::Integer, Value::Number(whole)) if whole.as_i64().is_some() => {
            out.integer(number, whole.as_i64().unwrap_or_default());
        }
        (Type::Integer | Type::Bool, Value::Null) => out.integer(number, 0),
        (Type::Bool, Value::Bool(flag)) => out.integer(number, i64::from(*flag)),
        (Type::Double, Value::Number(float)) => out.double(number, float.as_f64().unwrap_or_default()),
        (Type::Texts, Value::Array(list)) => {
            out.message(number, |out| list.iter().try_for_each(|text| one(&Type::Text, 1, text, out)))?;
        }
        (Type::Message(name), value) => {
            let inner = table::known(name)?;
            out.message(number, |out| message(inner, value, out))?;
        }
        (_, other) => return wrong("the field", other),
    }
    Ok(())
}

pub(super) fn wrong(what: &str, value: &Value) -> Result<()> {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    fail(format!("{what} cannot be {kind}"))
}
