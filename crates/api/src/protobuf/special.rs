//! Messages that stand for something else than an object in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::encode::{message, wrong};
use super::table::{self, Message};
use super::wire::{Reader, Writer};
use super::{MAGIC, Result, fail, message_value};

type Read = fn(&'static Message, &[u8], usize) -> Result<Value>;
type Write = fn(&'static Message, &Value, &mut Writer) -> Result<()>;

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

/// Returns how a message is written that is no plain object.
pub(super) fn writer(name: &str) -> Option<Write> {
    Some(match name.rsplit('.').next()? {
        "Quantity" => write_quantity,
        "IntOrString" => write_int_or_string,
        "Time" | "Timestamp" | "MicroTime" if name.starts_with("apimachinery.") => write_time,
        "Duration" if name.starts_with("apimachinery.") => write_duration,
        "RawExtension" | "FieldsV1" | "JSON" => write_raw,
        "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => {
            write_schema_or_other
        }
        _ => return None,
    })
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn bytes(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).or_else(|error| fail(format!("not base64: {error}")))
}

fn write_quantity(_: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    match value {
        Value::String(text) => out.bytes(1, text.as_bytes()),
        Value::Number(number) => out.bytes(1, number.to_string().as_bytes()),
        Value::Null => {}
        other => return wrong("a quantity", other),
    }
    Ok(())
}

fn write_int_or_string(_: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    match value {
        Value::String(text) => {
            out.integer(1, 1);
            out.integer(2, 0);
            out.bytes(3, text.as_bytes());
        }
        Value::Number(number) => {
            out.integer(1, 0);
            out.integer(2, number.as_i64().unwrap_or_default());
            out.bytes(3, b"");
        }
        Value::Null => {}
        other => return wrong("a number or string", other),
    }
    Ok(())
}

/// Writes a time; no time is an empty message.
fn write_time(_: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) => {
            let Some(time) = crate::time::parse(text) else { return fail(format!("{text:?} is no time")) };
            // Whole seconds rounded down, so that what is added is positive.
            let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
            out.integer(1, time.as_nanosecond().div_euclid(1_000_000_000) as i64);
            out.integer(2, nanos as i64);
            Ok(())
        }
        other => wrong("a time", other),
    }
}

fn write_duration(_: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) => match nanoseconds(text) {
            Some(nanos) => {
                out.integer(1, nanos);
                Ok(())
            }
            None => fail(format!("{text:?} is no duration")),
        },
        other => wrong("a duration", other),
    }
}

/// Reads a duration as Go writes it: `1h2m3.5s`.
fn nanoseconds(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        sum += number * unit;
        rest = &rest[end..];
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "out of range saturates, which is as far as time goes"
    )]
    let nanos = (sign * sum) as i64;
    (!text.is_empty()).then_some(nanos)
}

/// Writes an embedded object as JSON.
fn write_raw(_: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    if !value.is_null() {
        out.bytes(1, value.to_string().as_bytes());
    }
    Ok(())
}

fn write_schema_or_other(owner: &'static Message, value: &Value, out: &mut Writer) -> Result<()> {
    let schema = schema_of(owner)?;
    let is_bool = owner.name.ends_with("OrBool");
    match value {
        Value::Bool(flag) if is_bool => out.integer(1, i64::from(*flag)),
        Value::Object(_) if is_bool => {
            out.integer(1, 1);
            out.message(2, |out| message(schema, value, out))?;
        }
        Value::Object(_) => out.message(1, |out| message(schema, value, out))?,
        Value::Array(list) if !is_bool => {
            for item in list {
                match item {
                    Value::String(text) => out.bytes(2, text.as_bytes()),
                    item => out.message(2, |out| message(schema, item, out))?,
                }
            }
        }
        Value::Null => {}
        other => return wrong("a schema", other),
    }
    Ok(())
}

/// The message of the schema that may stand in `owner`.
fn schema_of(owner: &Message) -> Result<&'static Message> {
    let name = ["OrStringArray", "OrArray", "OrBool"].iter().find_map(|end| owner.name.strip_suffix(end));
    table::known(name.unwrap_or(owner.name))
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
fn schema_or_other(owner: &'static Message, bytes: &[u8], depth: usize) -> Result<Value> {
    let schema = schema_of(owner)?;
    let is_bool = owner.name.ends_with("OrBool");
    let (mut one, mut flag, mut list) = (None, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, found)) = reader.next()? {
        match (number, is_bool) {
            (1, true) => flag = Some(found.integer()? != 0),
            (2, true) | (1, false) => one = Some(message_value(schema, found.bytes()?, depth - 1)?),
            (2, false) if owner.name.ends_with("OrStringArray") => list.push(found.text()?.into()),
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
