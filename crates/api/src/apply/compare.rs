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

/// Compares two objects.
pub(super) fn compare(old: &Value, new: &Value, node: &Node<'_>) -> Changes {
    let mut changes = Changes::default();
    parts(old, new, node, &mut Vec::new(), &mut changes);
    changes
}

/// Compares the parts of two values of one type, at `at`.
fn parts(old: &Value, new: &Value, node: &Node<'_>, at: &mut Vec<Element>, changes: &mut Changes) {
    match node.shape() {
        Shape::Leaf => {}
        Shape::Struct | Shape::Map => {
            let none = Map::new();
            let (old, new) = (old.as_object().unwrap_or(&none), new.as_object().unwrap_or(&none));
            for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                let element = Element::Field(name.clone());
                one(old.get(name), new.get(name), &node.field(name), element, at, changes);
            }
        }
        Shape::Set | Shape::List => {
            let (old, new) = (by_element(old, node), by_element(new, node));
            for (element, value) in &old {
                one(Some(value), new.get(element).copied(), &node.item(), element.clone(), at, changes);
            }
            for (element, value) in new.iter().filter(|(element, _)| !old.contains_key(*element)) {
                one(None, Some(value), &node.item(), element.clone(), at, changes);
            }
        }
    }
}

/// Compares what stands at one element.
fn one(
    old: Option<&Value>,
    new: Option<&Value>,
    node: &Node<'_>,
    element: Element,
    at: &mut Vec<Element>,
    changes: &mut Changes,
) {
    let (old, new) = (old.filter(|value| !value.is_null()), new.filter(|value| !value.is_null()));
    let is_item = !matches!(element, Element::Field(_));
    let leaf = |value: &Value| node.is_leaf(value) || value.as_object().is_some_and(Map::is_empty);
    // A map, a list or an item that comes or goes does so itself, beside its parts. That of a struct says
    // nothing: it is there whenever one of its fields is.
    let own =
        |value: &Value| leaf(value) || is_item || (node.shape() != Shape::Struct && !node.is_required());
    at.push(element);
    match (old, new) {
        (None, None) => {}
        (None, Some(new)) => {
            if own(new) {
                insert(&mut changes.added, at);
            }
            parts(&Value::Null, new, node, at, changes);
        }
        (Some(old), None) => {
            if own(old) || node.shape() == Shape::Struct {
                insert(&mut changes.removed, at);
            }
            parts(old, &Value::Null, node, at, changes);
        }
        (Some(old), Some(new)) => {
            if old != new {
                if node.is_leaf(old) || node.is_leaf(new) {
                    insert(&mut changes.modified, at);
                }
                parts(old, new, node, at, changes);
            }
        }
    }
    at.pop();
}

fn insert(set: &mut Set, path: &[Element]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut place = set;
    for element in parents {
        place = place.below(element.clone());
    }
    place.insert(last.clone());
}

/// Returns the items of a list by their elements. Of items that have the same, or none, the last counts:
/// such lists do not pass validation.
pub(super) fn by_element<'v>(list: &'v Value, node: &Node<'_>) -> BTreeMap<Element, &'v Value> {
    list.as_array().into_iter().flatten().filter_map(|item| Some((node.element(item).ok()?, item))).collect()
}
