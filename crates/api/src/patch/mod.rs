//! The patch languages of the API on JSON values: JSON patch, JSON merge patch and strategic merge patch.
//!
//! Called by the API server between decoding a stored object and validating the result. What a strategic
//! merge must know of a type (which lists merge, and by which key) comes in through [`Schema`]. Nothing here
//! knows of storage or HTTP. Server-side apply lives in `crate::apply`.

mod dialect;
mod facts;
mod json;
mod strategic;

pub use dialect::{converter_text, go_text};
pub use facts::schema_of;
pub use json::{json_patch, merge_patch};
pub use strategic::strategic_merge;

/// What a strategic merge must know of an object type: a handle on one struct or map type.
pub trait Schema: Clone {
    /// Returns what is known of the field `name`, or `None` when the type has no such field.
    /// A map type answers every name with its values' type.
    fn field(&self, name: &str) -> Option<Field<Self>>;
}

/// What a strategic merge must know of one field.
#[derive(Debug, Clone)]
pub struct Field<S> {
    /// The type of the value when that is an object or a map; for a list the type of its elements.
    pub schema: Option<S>,
    /// The patch strategy of a list holds `merge`; otherwise a patch replaces the list as a whole.
    pub merge: bool,
    /// The field that identifies an element of a merged list of objects.
    pub merge_key: Option<&'static str>,
}

/// A schema that knows nothing: every list is replaced, every object merged.
#[derive(Debug, Clone, Copy)]
pub struct NoSchema;

impl Schema for NoSchema {
    fn field(&self, _name: &str) -> Option<Field<Self>> {
        None
    }
}

/// Why a patch was not applied. The object is unchanged, or to be thrown away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The patch itself is not well formed; the client must send another one (400 `BadRequest`).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object as it is (422 `Invalid`).
    #[error("{0}")]
    Inapplicable(String),
    /// The patch is larger than the server works on (413).
    #[error("{0}")]
    TooLarge(String),
}

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
