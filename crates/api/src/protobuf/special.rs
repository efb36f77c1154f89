//! Messages that stand for something else than an object in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::table::{self, Message};
use super::wire::Reader;
use super::{MAGIC, Result, fail, message_value};

type Read = fn(&'static Message, &[u8], usize) -> Result<Value>;

/// Returns how a message is read that is no plain object.
pub(super) fn reader(name: &str) -> Option<Read> {
    Some(match name.rsplit('.').next()? {
        "Quantity" => quantity,
        "IntOrString" => int_or_string,
        "Time" | "Timestamp" if name.starts_with("apimachinery.") => |_, bytes, _| time(bytes, 0),
        "MicroTime" if name.starts_with("apimachinery.") => |_, bytes, _| time(bytes, 6),
        "Duration" if name.starts_with("apimachinery.") => duration,
        "RawExtension" | "FieldsV1" | "JSON" => raw,
        "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => {
            schema_or_other
        }
        _ => return None,
    })
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn quantity(_: &'static Message, bytes: &[u8], _: usize) -> Result<Value> {
    let mut text = "0";
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        if number == 1 {
            text = found.text()?;
        }
    }
    Ok(text.into())
}

fn int_or_string(_: &'static Message, bytes: &[u8], _: usize) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((field, found)) = reader.next()? {
        match field {
            1 => is_text = found.integer()? == 1,
            2 => number = found.integer()?,
            3 => text = found.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Reads a time; no bytes are no time.
fn time(bytes: &[u8], digits: u32) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        match number {
            1 => seconds = found.integer()?,
            2 => nanos = found.integer()?,
            _ => {}
        }
    }
    let nanos = if digits == 0 { 0 } else { i32::try_from(nanos).unwrap_or(0) };
    let Ok(time) = Timestamp::new(seconds, nanos) else {
        return fail(format!("the time {seconds} lies outside the calendar"));
    };
    let form = if digits == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Ok(time.strftime(form).to_string().into())
}

/// Reads a duration (nanoseconds) as Go writes it, in seconds.
fn duration(_: &'static Message, bytes: &[u8], _: usize) -> Result<Value> {
    let mut nanos = 0;
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        if number == 1 {
            nanos = found.integer()?;
        }
    }
    let (whole, rest) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
    let fraction = format!("{rest:09}");
    let fraction = fraction.trim_end_matches('0');
    Ok(if fraction.is_empty() { format!("{whole}s") } else { format!("{whole}.{fraction}s") }.into())
}

/// Reads an embedded object, which is JSON or again an encoded object.
fn raw(_: &'static Message, bytes: &[u8], _: usize) -> Result<Value> {
    let mut raw = &b""[..];
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        if number == 1 {
            raw = found.bytes()?;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if raw.starts_with(MAGIC) {
        return super::decode(raw);
    }
    serde_json::from_slice(raw).or_else(|error| fail(format!("embedded JSON: {error}")))
}

/// Reads a schema, or what may stand in its place: a flag, a list of schemas or a list of names.
fn schema_or_other(message: &'static Message, bytes: &[u8], depth: usize) -> Result<Value> {
    let schemas = message.name.replace("OrStringArray", "").replace("OrArray", "").replace("OrBool", "");
    let schema = table::known(&schemas)?;
    let is_bool = message.name.ends_with("OrBool");
    let (mut one, mut flag, mut list) = (None, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        match (number, is_bool) {
            (1, true) => flag = Some(found.integer()? != 0),
            (2, true) | (1, false) => one = Some(message_value(schema, found.bytes()?, depth - 1)?),
            (2, false) if message.name.ends_with("OrStringArray") => list.push(found.text()?.into()),
            (2, false) => list.push(message_value(schema, found.bytes()?, depth - 1)?),
            _ => {}
        }
    }
    Ok(match (one, flag) {
        (Some(one), _) => one,
        (None, Some(flag)) => flag.into(),
        (None, None) => Value::Array(list),
    })
}
