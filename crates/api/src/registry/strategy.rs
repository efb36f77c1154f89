//! What is special about a kind, as functions. Every function gets the descriptor, so that custom kinds
//! find their schema there.

use std::borrow::Cow;

use serde_json::Value;

use super::kind::{Kind, Part};
use crate::field::Errors;
use crate::status::Status;
use crate::{meta, value};

/// The functions of a kind. [`Strategy::GENERIC`] fits most kinds.
#[derive(Debug, Clone, Copy)]
pub struct Strategy {
    /// Checks types, makes forms canonical, drops unknown fields and returns what strict decoding objects to.
    pub decode: fn(&Kind, &mut Value) -> Result<Vec<String>, Status>,
    /// Fills in what the client left out.
    pub default: fn(&Kind, &mut Value),
    /// Cleans a new object: what only the server may set is removed or set.
    pub prepare_create: fn(&Kind, &mut Value),
    /// Writes into a new object who made it; the second value is a `UserInfo`. For kinds that keep it.
    pub created_by: Option<fn(&mut Value, &Value)>,
    /// Makes the object to store of what was sent for a part of the old one.
    pub prepare_update: fn(&Kind, &mut Value, &Value, Part<'_>),
    /// Checks a new object; metadata is checked already.
    pub validate: fn(&Kind, &Value, &mut Errors),
    /// Checks a change (new, old); metadata is checked already.
    pub validate_update: fn(&Kind, &Value, &Value, Part<'_>, &mut Errors),
    /// Tells the client about what is accepted but unwise.
    pub warnings: fn(&Kind, &Value) -> Vec<String>,
    /// Says what is wrong with an object's name.
    pub name_errors: fn(&str) -> Vec<String>,
    /// Turns an object of this version into the stored one. `apiVersion` and `kind` are set by the caller.
    pub to_storage: fn(&Kind, &mut Value),
    /// Turns a stored object into this version. `apiVersion` and `kind` are set by the caller.
    pub from_storage: fn(&Kind, &mut Value),
    /// Whether `metadata.generation` counts the changes of the desired state.
    pub generation: bool,
    /// Whether deleting an object at once answers with the object, not with a `Status`.
    pub returns_deleted: bool,
    /// Whether an update of an object that does not exist creates it.
    pub create_on_update: bool,
    /// Whether an update without a resource version is taken for one of the current object.
    pub unconditional_update: bool,
}

impl Strategy {
    /// Status is dropped on create, kept on update, and all else is kept on a status update.
    pub const GENERIC: Self = Self {
        decode: crate::decode::decode,
        default: |_, _| {},
        prepare_create: drop_status,
        created_by: None,
        prepare_update: keep_other_parts,
        validate: |_, _, _| {},
        validate_update: |kind, new, _, part, errors| {
            if part == Part::Main {
                (kind.strategy.validate)(kind, new, errors);
            }
        },
        warnings: |_, _| Vec::new(),
        name_errors: meta::dns_subdomain_errors,
        to_storage: |_, _| {},
        from_storage: |_, _| {},
        generation: false,
        returns_deleted: false,
        create_on_update: false,
        unconditional_update: true,
    };
}

/// Drops the status that a client sent with a new object.
pub(crate) fn drop_status(kind: &Kind, object: &mut Value) {
    if kind.has_status() {
        value::remove(object, "status");
    }
}

/// Keeps of `old` what a write to `part` must not change.
pub(crate) fn keep_other_parts(kind: &Kind, new: &mut Value, old: &Value, part: Part<'_>) {
    if !kind.has_status() {
        return;
    }
    match part {
        Part::Main | Part::Other(_) => value::keep(new, old, "status"),
        Part::Status => {
            let status = new.get("status").cloned();
            let meta = new.get("metadata").cloned();
            old.clone_into(new);
            if let Some(meta) = meta {
                value::set(new, "metadata", meta);
            }
            match status {
                Some(status) => value::set(new, "status", status),
                None => value::remove(new, "status"),
            }
        }
    }
}

/// How the value of a selectable field is found.
#[derive(Debug, Clone)]
pub enum Read {
    /// At a dotted path.
    Path(Cow<'static, str>),
    /// At a dotted path; this when nothing is there.
    PathOr(&'static str, &'static str),
    /// By a function.
    Function(fn(&Value) -> Cow<'_, str>),
}

/// A field that a field selector may name.
#[derive(Debug, Clone)]
pub struct SelectableField {
    /// What the selector calls it.
    pub label: Cow<'static, str>,
    /// Where its value is.
    pub read: Read,
}

impl SelectableField {
    /// Returns a field whose label is its path.
    #[must_use]
    pub const fn path(path: &'static str) -> Self {
        Self { label: Cow::Borrowed(path), read: Read::Path(Cow::Borrowed(path)) }
    }

    /// Returns a field whose label is its path, with what stands for nothing there.
    #[must_use]
    pub const fn path_or(path: &'static str, default: &'static str) -> Self {
        Self { label: Cow::Borrowed(path), read: Read::PathOr(path, default) }
    }

    /// Returns a field that a function reads.
    #[must_use]
    pub const fn function(label: &'static str, read: fn(&Value) -> Cow<'_, str>) -> Self {
        Self { label: Cow::Borrowed(label), read: Read::Function(read) }
    }

    /// Reads the field; empty when it is not set.
    #[must_use]
    pub fn read<'a>(&self, object: &'a Value) -> Cow<'a, str> {
        match &self.read {
            Read::Path(path) => plain(value::at(object, path), ""),
            Read::PathOr(path, default) => plain(value::at(object, path), default),
            Read::Function(read) => read(object),
        }
    }
}

fn plain<'a>(value: &'a Value, default: &'static str) -> Cow<'a, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Null => Cow::Borrowed(default),
        other => Cow::Owned(other.to_string()),
    }
}
