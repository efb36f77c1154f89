//! Merging an applied configuration into an object, and taking out what is no longer wanted by anybody.

use serde_json::Value;

use super::node::Shape;
use super::{Element, Node, Set};

/// Returns `live` with everything that `config` sets.
pub(super) fn merge(live: &Value, config: &Value, node: &Node<'_>) -> Value {
    match (node.shape(), live, config) {
        (Shape::Struct | Shape::Map, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let value = match live.get(name) {
                    Some(old) => merge(old, value, &node.field(name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Set | Shape::List, Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_lists(live, config, node))
        }
        _ => config.clone(),
    }
}

/// Merges lists by their items' keys: the order is the configuration's, what only the object has stays near
/// where it was.
fn merge_lists(live: &[Value], config: &[Value], node: &Node<'_>) -> Vec<Value> {
    let element = |item: &Value| node.element(item).ok();
    let find = |list: &[Value], wanted: &Option<Element>| {
        wanted.as_ref().and_then(|wanted| list.iter().position(|item| element(item).as_ref() == Some(wanted)))
    };
    let item_node = node.item();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let (mut old, mut new) = (live.iter().peekable(), config.iter().peekable());
    loop {
        if let Some(item) = old.peek() {
            if find(config, &element(item)).is_none() {
                merged.extend(old.next().cloned());
                continue;
            }
            let is_next = new.peek().is_none_or(|next| element(next) == element(item));
            let done = find(&merged, &element(item)).is_some();
            if is_next || done {
                old.next();
                if done {
                    continue;
                }
            }
        }
        let Some(item) = new.next() else {
            if old.peek().is_none() {
                return merged;
            }
            continue;
        };
        merged.push(match find(live, &element(item)) {
            Some(at) => merge(&live[at], item, &item_node),
            None => item.clone(),
        });
    }
}

/// Takes out of `object` what the manager owned before (`owned`), nobody wants any more (`kept`), and the
/// configuration does not name.
pub(super) fn prune(object: &mut Value, owned: &Set, kept: &Set, config: &Value, node: &Node<'_>) {
    if let Value::Object(map) = object {
        for (element, below) in owned.iter() {
            let Element::Field(name) = element else { continue };
            let (still, wanted) = (kept.get(element), config.get(name));
            // Every object has metadata, whoever owns something in it.
            if still.is_none() && wanted.is_none() && name != "metadata" {
                map.remove(name);
            } else if let Some(inner) = map.get_mut(name) {
                prune_at(inner, below, still, wanted, &node.field(name), &[]);
            }
        }
    }
}

/// `keys` are the fields that tell an item of a list from the others: an item that stays keeps them.
fn prune_at(
    value: &mut Value,
    owned: &Set,
    kept: Option<&Set>,
    config: Option<&Value>,
    node: &Node<'_>,
    keys: &[&str],
) {
    for (element, below) in owned.iter() {
        let still = kept.and_then(|kept| kept.get(element));
        match (element, &mut *value) {
            (Element::Field(name), Value::Object(map)) if !keys.contains(&name.as_str()) => {
                let wanted = config.and_then(|config| config.get(name));
                if still.is_none() && wanted.is_none() {
                    map.remove(name);
                } else if let Some(inner) = map.get_mut(name) {
                    prune_at(inner, below, still, wanted, &node.field(name), &[]);
                }
            }
            (Element::Key(_) | Element::Value(_), Value::Array(items)) => {
                let find = |items: &[Value]| {
                    items.iter().position(|item| node.element(item).as_ref() == Ok(element))
                };
                let Some(at) = find(items) else { continue };
                let wanted = config.and_then(Value::as_array).and_then(|config| config.get(find(config)?));
                if still.is_none() && wanted.is_none() {
                    items.remove(at);
                } else {
                    prune_at(&mut items[at], below, still, wanted, &node.item(), &node.keys());
                }
            }
            _ => {}
        }
    }
}
