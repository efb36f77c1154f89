//! The version 2 document in protobuf: the message `openapi.v2.Document`, field by field.
//!
//! Only what our documents hold is written. Extensions and other free values are texts of YAML inside the
//! message; JSON is YAML.

use std::io::{Result, Write};

use serde_json::Value;

use super::v2::{definitions, head, path_item};
use super::{CustomSchema, paths};
use crate::registry::Registry;

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Writes a text unless it is not there.
    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten() {
            self.text(field, Some(text));
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.tag(field, 0);
            self.varint(1);
        }
    }

    fn number(&mut self, field: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_f64) {
            self.tag(field, 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn integer(&mut self, field: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64) {
            self.tag(field, 0);
            self.varint(number.cast_unsigned());
        }
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// Writes every extension (`x-…`) of an object.
    fn extensions(&mut self, field: u32, object: &Value) {
        for (name, value) in
            object.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"))
        {
            let mut named = Self::default();
            named.bytes(1, name.as_bytes());
            named.message(2, &any(value));
            self.message(field, &named);
        }
    }
}

pub(super) fn write(out: &mut dyn Write, registry: &Registry, custom: CustomSchema<'_>) -> Result<()> {
    let mut document = Message::default();
    document.bytes(1, b"2.0");
    let (mut info, text) = (Message::default(), head());
    info.text(1, text.get("title"));
    info.text(2, text.get("version"));
    document.message(2, &info);
    let mut all = Message::default();
    for (path, item) in paths::of(registry, None) {
        let mut named = Message::default();
        named.bytes(1, path.as_bytes());
        named.message(2, &item_of(&path_item(&item)));
        all.message(2, &named);
    }
    document.message(8, &all);
    out.write_all(&document.0)?;
    drop(document);
    let mut defined = Message::default();
    definitions(registry, custom, &mut |name, value| {
        defined.message(1, &named_schema(name, &value));
        Ok(())
    })?;
    let mut document = Message::default();
    document.message(9, &defined);
    out.write_all(&document.0)
}

fn any(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, value.to_string().as_bytes());
    any
}

fn named_schema(name: &str, value: &Value) -> Message {
    let mut named = Message::default();
    named.bytes(1, name.as_bytes());
    named.message(2, &schema(value));
    named
}

fn schema(value: &Value) -> Message {
    let get = |key: &str| value.get(key);
    let mut message = Message::default();
    message.text(1, get("$ref"));
    message.text(2, get("format"));
    message.text(3, get("title"));
    message.text(4, get("description"));
    if let Some(default) = get("default") {
        message.message(5, &any(default));
    }
    message.number(6, get("multipleOf"));
    message.number(7, get("maximum"));
    message.flag(8, get("exclusiveMaximum"));
    message.number(9, get("minimum"));
    message.flag(10, get("exclusiveMinimum"));
    message.integer(11, get("maxLength"));
    message.integer(12, get("minLength"));
    message.text(13, get("pattern"));
    message.integer(14, get("maxItems"));
    message.integer(15, get("minItems"));
    message.flag(16, get("uniqueItems"));
    message.integer(17, get("maxProperties"));
    message.integer(18, get("minProperties"));
    message.texts(19, get("required"));
    for choice in get("enum").and_then(Value::as_array).into_iter().flatten() {
        message.message(20, &any(choice));
    }
    match get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            item.tag(2, 0);
            item.varint(u64::from(*allowed));
            message.message(21, &item);
        }
        Some(inner) => {
            let mut item = Message::default();
            item.message(1, &schema(inner));
            message.message(21, &item);
        }
        None => {}
    }
    if let Some(ty) = get("type") {
        let mut item = Message::default();
        item.text(1, Some(ty));
        message.message(22, &item);
    }
    if let Some(items) = get("items") {
        let mut item = Message::default();
        item.message(1, &schema(items));
        message.message(23, &item);
    }
    for part in get("allOf").and_then(Value::as_array).into_iter().flatten() {
        message.message(24, &schema(part));
    }
    if let Some(properties) = get("properties").and_then(Value::as_object) {
        let mut all = Message::default();
        for (name, value) in properties {
            all.message(1, &named_schema(name, value));
        }
        message.message(25, &all);
    }
    message.extensions(31, value);
    message
}

/// The message `PathItem`.
fn item_of(value: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(operation) = value.get(method) {
            message.message(field, &operation_of(operation));
        }
    }
    for value in value.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message.message(9, &parameter(value));
    }
    message
}

/// The message `Operation`.
fn operation_of(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(3, value.get("description"));
    message.text(5, value.get("operationId"));
    message.texts(6, value.get("produces"));
    message.texts(7, value.get("consumes"));
    for value in value.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message.message(8, &parameter(value));
    }
    let mut responses = Message::default();
    for (code, value) in value.get("responses").and_then(Value::as_object).into_iter().flatten() {
        let mut response = Message::default();
        response.text(1, value.get("description"));
        if let Some(inner) = value.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(inner));
            response.message(2, &item);
        }
        let mut either = Message::default();
        either.message(1, &response);
        let mut named = Message::default();
        named.bytes(1, code.as_bytes());
        named.message(2, &either);
        responses.message(1, &named);
    }
    message.message(9, &responses);
    message.texts(10, value.get("schemes"));
    message.extensions(13, value);
    message
}

/// The message `ParametersItem` around a parameter.
fn parameter(value: &Value) -> Message {
    let mut inner = Message::default();
    let place = value.get("in").and_then(Value::as_str).unwrap_or_default();
    if place == "body" {
        let mut body = Message::default();
        body.text(1, value.get("description"));
        body.text(2, value.get("name"));
        body.text(3, value.get("in"));
        body.flag(4, value.get("required"));
        body.message(5, &schema(value.get("schema").unwrap_or(&Value::Null)));
        inner.message(1, &body);
    } else {
        let is_query = place == "query";
        let mut sub = Message::default();
        sub.flag(1, value.get("required"));
        sub.text(2, value.get("in"));
        sub.text(3, value.get("description"));
        sub.text(4, value.get("name"));
        // A parameter of the query may be empty, which is field 5 there and shifts the rest.
        sub.text(if is_query { 6 } else { 5 }, value.get("type"));
        let mut other = Message::default();
        other.message(if is_query { 3 } else { 4 }, &sub);
        inner.message(2, &other);
    }
    let mut item = Message::default();
    item.message(1, &inner);
    item
}
