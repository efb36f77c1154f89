//! What changed between two objects, field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::node::Shape;
use super::{Element, Node, Set};

/// The fields that came, changed and went.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Changes {
    /// Says whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// Compares two objects.
pub(super) fn compare(old: &Value, new: &Value, node: &Node<'_>) -> Changes {
    let mut changes = Changes::default();
    parts(old, new, node, &mut changes);
    changes
}

/// Compares the parts of two values of one type.
fn parts(old: &Value, new: &Value, node: &Node<'_>, changes: &mut Changes) {
    match node.shape() {
        Shape::Leaf => {}
        Shape::Struct | Shape::Map => {
            let none = Map::new();
            let (old, new) = (old.as_object().unwrap_or(&none), new.as_object().unwrap_or(&none));
            for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                let element = || Element::Field(name.clone());
                one(old.get(name), new.get(name), &node.field(name), false, element, changes);
            }
        }
        Shape::Set | Shape::List => {
            let (old, new) = (by_element(old, node), by_element(new, node));
            for (element, value) in &old {
                let item = new.get(element).copied();
                one(Some(value), item, &node.item(), true, || element.clone(), changes);
            }
            for (element, value) in new.iter().filter(|(element, _)| !old.contains_key(*element)) {
                one(None, Some(value), &node.item(), true, || element.clone(), changes);
            }
        }
    }
}

/// Compares what stands at one element; `is_item` says that it is an item of a list.
fn one(
    old: Option<&Value>,
    new: Option<&Value>,
    node: &Node<'_>,
    is_item: bool,
    element: impl Fn() -> Element,
    changes: &mut Changes,
) {
    let (old, new) = (old.filter(|value| !value.is_null()), new.filter(|value| !value.is_null()));
    if old == new {
        return;
    }
    let leaf = |value: &Value| node.is_leaf(value) || value.as_object().is_some_and(Map::is_empty);
    // A map, a list or an item that comes or goes does so itself, beside its parts. That of a struct says
    // nothing: it is there whenever one of its fields is.
    let own =
        |value: &Value| leaf(value) || is_item || (node.shape() != Shape::Struct && !node.is_required());
    let (mut added, mut modified, mut removed) = (false, false, false);
    match (old, new) {
        (None, None) => {}
        (None, Some(new)) => added = own(new),
        (Some(old), None) => removed = own(old) || node.shape() == Shape::Struct,
        (Some(old), Some(new)) => modified = node.is_leaf(old) || node.is_leaf(new),
    }
    let mut below = Changes::default();
    parts(old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null), node, &mut below);
    for (set, is_in, below) in [
        (&mut changes.added, added, below.added),
        (&mut changes.modified, modified, below.modified),
        (&mut changes.removed, removed, below.removed),
    ] {
        set.attach(&element, is_in, below);
    }
}

/// Returns the items of a list by their elements. Of items that have the same, or none, the last counts:
/// such lists do not pass validation.
pub(super) fn by_element<'v>(list: &'v Value, node: &Node<'_>) -> BTreeMap<Element, &'v Value> {
    list.as_array().into_iter().flatten().filter_map(|item| Some((node.element(item).ok()?, item))).collect()
}
