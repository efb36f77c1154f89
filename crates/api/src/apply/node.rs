//! What server-side apply knows of the type at a place in an object.

use serde_json::{Map, Value};

use super::Element;
use super::set::sorted;
use crate::schema::{self, Form, ListType, Type};

/// The type at a place of an object.
#[derive(Debug, Clone, Copy)]
pub enum Node<'a> {
    /// A type of upstream's API.
    Known {
        /// The type.
        ty: Type,
        /// How items of a list are told apart.
        list: Option<ListType>,
        /// One value, although it is an object.
        atomic: bool,
        /// Whether the field must be there.
        required: bool,
    },
    /// A type that a custom resource's OpenAPI schema describes.
    Custom(&'a Value),
    /// A type that nothing is known of: objects merge by field, lists are one value.
    Deduced,
}

/// How a value is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// It is not.
    Leaf,
    /// By its fields, which the type lists.
    Struct,
    /// By its entries.
    Map,
    /// Into items that are their own keys.
    Set,
    /// Into items with keys.
    List,
}

impl<'a> Node<'a> {
    /// Returns the node at the top of a kind; [`Node::Deduced`] for kinds that are not upstream's.
    #[must_use]
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Self {
        schema::of_kind(group, version, kind).and_then(schema::Definition::id).map_or(Node::Deduced, |id| {
            Node::Known { ty: Type::Ref(id), list: None, atomic: false, required: true }
        })
    }

    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Known { atomic: true, .. } => Shape::Leaf,
            Self::Known { ty, list, .. } => match ty {
                Type::Ref(id) if id.get().form == Form::Object && !id.get().atomic => {
                    // A type without fields is a value like any other.
                    if id.get().properties().is_empty() { Shape::Leaf } else { Shape::Struct }
                }
                Type::Map(_) => Shape::Map,
                Type::List(_) => match list {
                    Some(ListType::Set) => Shape::Set,
                    Some(ListType::Map(_)) => Shape::List,
                    _ => Shape::Leaf,
                },
                _ => Shape::Leaf,
            },
            Self::Custom(schema) => match schema["type"].as_str() {
                Some("array") => match schema["x-kubernetes-list-type"].as_str() {
                    Some("set") => Shape::Set,
                    Some("map") => Shape::List,
                    _ => Shape::Leaf,
                },
                Some("object") if schema["x-kubernetes-map-type"] == "atomic" => Shape::Leaf,
                Some("object") if schema.get("properties").is_some() => Shape::Struct,
                Some("object") => Shape::Map,
                _ => Shape::Leaf,
            },
            Self::Deduced => Shape::Map,
        }
    }

    /// Returns the node of a field or an entry.
    pub(super) fn field(&self, name: &str) -> Self {
        match *self {
            Self::Known { ty: Type::Ref(id), .. } => match id.get().property(name) {
                Some(property) => Self::Known {
                    ty: property.ty,
                    list: property.list,
                    atomic: property.atomic_map,
                    required: property.required,
                },
                None => Self::Deduced,
            },
            Self::Known { ty: Type::Map(inner), .. } => Self::plain(*inner),
            Self::Custom(schema) => {
                if let Some(found) = schema.get("properties").and_then(|properties| properties.get(name)) {
                    return Self::Custom(found);
                }
                match (name, schema.get("additionalProperties")) {
                    ("metadata", None) => match schema::find("apimachinery.pkg.apis.meta.v1.ObjectMeta") {
                        Some(id) => Self::plain(Type::Ref(id)),
                        None => Self::Deduced,
                    },
                    (_, Some(inner)) if inner.is_object() => Self::Custom(inner),
                    _ => Self::Deduced,
                }
            }
            _ => Self::Deduced,
        }
    }

    fn plain(ty: Type) -> Self {
        Node::Known { ty, list: None, atomic: false, required: false }
    }

    /// Returns the node of a list's items.
    pub(super) fn item(&self) -> Self {
        match *self {
            Self::Known { ty: Type::List(inner), .. } => Self::plain(*inner),
            Self::Custom(schema) => schema.get("items").map_or(Self::Deduced, Self::Custom),
            _ => Self::Deduced,
        }
    }

    /// Says whether a value is one for itself at this place: it has no parts, or is not what the type says.
    pub(super) fn is_leaf(&self, value: &Value) -> bool {
        match self.shape() {
            Shape::Leaf => true,
            Shape::Struct | Shape::Map => !value.is_object(),
            Shape::Set | Shape::List => !value.is_array(),
        }
    }

    /// Says whether such a list or map is always there, so that its being there means nothing.
    pub(super) fn is_required(&self) -> bool {
        matches!(self, Self::Known { required: true, .. })
    }

    /// Says whether the object at the top has a status.
    pub(super) fn has_status(&self) -> bool {
        match self {
            Self::Known { ty: Type::Ref(id), .. } => id.get().property("status").is_some(),
            _ => true,
        }
    }

    /// Returns the path element of a list's item.
    ///
    /// # Errors
    /// A text when the item lacks a key.
    pub(super) fn element(&self, item: &Value) -> Result<Element, String> {
        if self.shape() == Shape::Set {
            return Ok(Element::Value(sorted(item)));
        }
        let Some(fields) = item.as_object() else {
            return Err("associative list with keys may not have non-map elements".into());
        };
        let mut key = Map::new();
        for name in self.keys() {
            let value = fields.get(name).filter(|value| !value.is_null()).cloned();
            match value.or_else(|| self.key_default(name)) {
                Some(value) => drop(key.insert(name.to_owned(), value)),
                None => {
                    return Err(format!(
                        "associative list with keys has an element that omits key field {name:?} (and doesn't have default value)"
                    ));
                }
            }
        }
        Ok(Element::Key(sorted(&Value::Object(key))))
    }

    /// Returns the fields that tell the items of a list apart.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        match *self {
            Self::Known { list: Some(ListType::Map(keys)), .. } => keys.to_vec(),
            Self::Custom(schema) => schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Returns what a key field is when it is left out. Of upstream's types only protocols have a default.
    fn key_default(&self, name: &str) -> Option<Value> {
        match self {
            Self::Known { .. } => (name == "protocol").then(|| "TCP".into()),
            Self::Custom(schema) => schema.pointer(&format!("/items/properties/{name}/default")).cloned(),
            Self::Deduced => None,
        }
    }
}
