//! The table of messages; its form is described at the generator (`crates/xtask/src/protobuf.rs`).

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Result, fail};

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// Its name without `k8s.io.`: `api.core.v1.Pod`.
    pub(super) name: &'static str,
    pub(super) fields: Vec<Field>,
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// The name in JSON.
    pub(super) name: String,
    pub(super) ty: Type,
    /// Whether its zero says something.
    pub(super) keeps: bool,
}

/// The type of a field.
#[derive(Debug)]
pub(super) enum Type {
    Text,
    Bytes,
    Integer,
    Bool,
    Double,
    /// A message around a list of strings.
    Texts,
    List(Box<Self>),
    Map(Box<Self>),
    Message(&'static str),
    /// A message whose fields stand in the object around it.
    Inline(&'static str),
}

/// Returns the message of this name.
pub(super) fn message(name: &str) -> Option<&'static Message> {
    static TABLE: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    TABLE.get_or_init(|| parse(include_str!("../facts/protobuf.txt"))).get(name)
}

/// Returns the message of a name that stands in the table.
pub(super) fn known(name: &str) -> Result<&'static Message> {
    match message(name) {
        Some(message) => Ok(message),
        None => fail(format!("the message {name} is not known")),
    }
}

fn parse(text: &'static str) -> HashMap<&'static str, Message> {
    let mut messages = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('@') {
            messages.insert(name, Message { name, fields: Vec::new() });
            current = name;
        } else if let [number, name, ty] = line.split(' ').collect::<Vec<_>>()[..]
            && let (Ok(number), Some(message)) = (number.parse(), messages.get_mut(current))
        {
            let (ty, keeps) = ty.strip_suffix('?').map_or((ty, false), |ty| (ty, true));
            message.fields.push(Field { number, name: json_name(current, name), ty: self::ty(ty), keeps });
        }
    }
    messages
}

fn ty(text: &'static str) -> Type {
    match text.as_bytes().first() {
        Some(b's') => Type::Text,
        Some(b'y') => Type::Bytes,
        Some(b'i') => Type::Integer,
        Some(b'b') => Type::Bool,
        Some(b'd') => Type::Double,
        Some(b'[') => Type::List(Box::new(ty(&text[1..]))),
        Some(b'{') => Type::Map(Box::new(ty(&text[1..]))),
        Some(b'#') => Type::Message(&text[1..]),
        Some(b'<') => Type::Inline(&text[1..]),
        _ => Type::Texts,
    }
}

/// The names of schemas hold characters that protobuf names cannot: `$ref`, `x-kubernetes-int-or-string`.
fn json_name(message: &str, name: &str) -> String {
    if !message.ends_with(".JSONSchemaProps") {
        return name.to_owned();
    }
    match name {
        "ref" | "schema" => format!("${name}"),
        _ => match name.strip_prefix("xKubernetes") {
            Some(rest) => {
                let mut json = String::from("x-kubernetes");
                for letter in rest.chars() {
                    if letter.is_ascii_uppercase() {
                        json.push('-');
                    }
                    json.push(letter.to_ascii_lowercase());
                }
                json
            }
            None => name.to_owned(),
        },
    }
}
