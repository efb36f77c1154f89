//! Errors about places in an object, worded as upstream words them.

use std::fmt;

use serde_json::Value;

/// A place in an object: `spec.containers[0].name`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// Returns the place `name` at the top of an object; empty for the object itself.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Returns the place `name` (may be dotted) in this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self(name.to_owned());
        }
        let mut path = String::with_capacity(self.0.len() + name.len() + 1);
        path.push_str(&self.0);
        path.push('.');
        path.push_str(name);
        Self(path)
    }

    /// Returns the item at `index` of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// Returns the value at `key` of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// Returns the text of the path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What is named there does not exist.
    NotFound,
    /// A value must be given.
    Required,
    /// The value stands there a second time.
    Duplicate,
    /// The value is not allowed.
    Invalid,
    /// The value is none of the known ones.
    NotSupported,
    /// The field may not be set here.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// The list has more items than allowed.
    TooMany,
    /// The server could not check it.
    Internal,
    /// The value has the wrong type.
    TypeInvalid,
}

impl Kind {
    /// Returns the words that a message begins with.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// Returns the machine-readable reason of a Status cause.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One error at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub kind: Kind,
    /// Where.
    pub field: String,
    /// The value that is wrong; not printed for every kind of error.
    pub value: Value,
    /// What would be right; may be empty.
    pub detail: String,
}

impl Error {
    fn new(kind: Kind, field: &Path, value: Value, detail: impl Into<String>) -> Self {
        Self { kind, field: field.as_str().to_owned(), value, detail: detail.into() }
    }

    /// Returns the message without its place: `Invalid value: "x": must be …`.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        match self.kind {
            Kind::Required | Kind::Forbidden | Kind::TooLong | Kind::Internal => {}
            _ => {
                text.push_str(": ");
                match &self.value {
                    Value::String(value) => text.push_str(&quote(value)),
                    Value::Null => text.push_str("\"null\""),
                    other => text.push_str(&other.to_string()),
                }
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Quotes as Go's `%q` does.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The errors found so far, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// Returns an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Walks over what was found.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }

    /// Adds an error.
    pub fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Adds "Required value".
    pub fn required(&mut self, field: &Path, detail: &str) {
        self.push(Error::new(Kind::Required, field, Value::Null, detail));
    }

    /// Adds "Invalid value" with the value and what would be right.
    pub fn invalid(&mut self, field: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(Error::new(Kind::Invalid, field, value.into(), detail));
    }

    /// Adds "Unsupported value" with the values that are supported, in the given order.
    pub fn not_supported(&mut self, field: &Path, value: impl Into<Value>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| quote(value)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        self.push(Error::new(Kind::NotSupported, field, value.into(), detail));
    }

    /// Adds "Forbidden".
    pub fn forbidden(&mut self, field: &Path, detail: impl Into<String>) {
        self.push(Error::new(Kind::Forbidden, field, Value::Null, detail));
    }

    /// Adds "Duplicate value".
    pub fn duplicate(&mut self, field: &Path, value: impl Into<Value>) {
        self.push(Error::new(Kind::Duplicate, field, value.into(), ""));
    }

    /// Adds "Not found".
    pub fn not_found(&mut self, field: &Path, value: impl Into<Value>) {
        self.push(Error::new(Kind::NotFound, field, value.into(), ""));
    }

    /// Adds "Too long" with the limit in bytes.
    pub fn too_long(&mut self, field: &Path, limit: usize) {
        let detail = format!("may not be more than {limit} bytes");
        self.push(Error::new(Kind::TooLong, field, Value::Null, detail));
    }

    /// Adds "Too many" with the count and the limit.
    pub fn too_many(&mut self, field: &Path, count: usize, limit: usize) {
        let items = if limit == 1 { "item" } else { "items" };
        let detail = format!("must have at most {limit} {items}");
        self.push(Error::new(Kind::TooMany, field, count.into(), detail));
    }

    /// Returns the text of all: the one message, or `[a, b]`; equal messages once.
    #[must_use]
    pub fn joined(&self) -> String {
        let mut messages: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        match messages.len() {
            1 => messages.remove(0),
            _ => format!("[{}]", messages.join(", ")),
        }
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_upstream_writes_them() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        let mut errors = Errors::new();
        errors.required(&path, "");
        assert_eq!(errors.joined(), "spec.containers[0].name: Required value");
        errors.invalid(&Path::new("spec").child("replicas"), -1, "must be greater than or equal to 0");
        errors.not_supported(&Path::new("spec").child("restartPolicy"), "Never!", &["Always", "Never"]);
        errors.too_long(&Path::new("metadata").child("name"), 63);
        errors.duplicate(&Path::new("a").key("b"), "x\"y");
        errors.duplicate(&Path::new("a").key("b"), "x\"y");
        assert_eq!(
            errors.joined(),
            "[spec.containers[0].name: Required value, \
             spec.replicas: Invalid value: -1: must be greater than or equal to 0, \
             spec.restartPolicy: Unsupported value: \"Never!\": supported values: \"Always\", \"Never\", \
             metadata.name: Too long: may not be more than 63 bytes, \
             a[b]: Duplicate value: \"x\\\"y\"]"
        );
    }
}
