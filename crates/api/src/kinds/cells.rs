//! What the cells of many tables have in common.

use jiff::Timestamp;
use serde_json::Value;

use crate::meta;
use crate::registry::Column;
use crate::selector::Selector;
use crate::time;
use crate::value::{list, text};

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const CONTAINERS: Column =
    Column::wide("Containers", "The names of the containers in the template.");
pub(super) const IMAGES: Column = Column::wide("Images", "The images of the containers in the template.");
pub(super) const SELECTOR: Column = Column::wide("Selector", "The labels that select the pods.");

/// The cell of the object's name.
pub(crate) fn name(object: &Value) -> Value {
    meta::name(object).into()
}

/// The cell of the object's age.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    time::age(text(object, "metadata.creationTimestamp"), now).into()
}

/// A text, or `<none>`.
pub(super) fn or_none(text: impl Into<String>) -> String {
    or(text, NONE)
}

/// A text, or what stands for nothing.
pub(super) fn or(text: impl Into<String>, nothing: &str) -> String {
    let text = text.into();
    if text.is_empty() { nothing.to_owned() } else { text }
}

/// A number at a path; 0 where there is none.
pub(super) fn count(object: &Value, path: &str) -> i64 {
    crate::value::int(object, path).unwrap_or(0)
}

/// The names and the images of the containers of a pod spec.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|key| {
        let texts: Vec<&str> = list(pod_spec, "containers").iter().map(|one| text(one, key)).collect();
        texts.join(",").into()
    })
}

/// A map of labels as `a=b,c=d`, or `<none>`.
pub(super) fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    or_none(pairs.join(","))
}

/// A `LabelSelector` object as text, or `<none>`.
pub(super) fn selector(selector: &Value) -> String {
    match Selector::from_object(selector) {
        Ok(selector) => or_none(selector.to_string()),
        Err(_) => "<error>".into(),
    }
}

/// An int-or-string as text, or what stands for nothing.
pub(super) fn int_or_string(value: &Value, nothing: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => nothing.to_owned(),
    }
}

/// A condition of an object by its type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "status.conditions").iter().find(|condition| text(condition, "type") == kind)
}

/// Says whether a condition of an object is `True`.
pub(super) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| text(condition, "status") == "True")
}

/// The first `limit` of some texts and how many are left: `a,b,c + 2 more...`.
pub(super) fn some_of(texts: &[String], limit: usize) -> String {
    let shown = texts[..texts.len().min(limit)].join(",");
    if texts.len() > limit { format!("{shown} + {} more...", texts.len() - limit) } else { shown }
}
