//! Server-side apply: who owns which field, and what happens when several want the same one.
//!
//! [`apply`] merges what a manager wants into the live object and refuses where another manager owns what
//! would change; [`track`] records what any other write changed. Both keep `metadata.managedFields`. Which
//! lists and maps are merged, and by which keys, says a [`Node`]. Nothing here defaults, validates or stores.

mod compare;
mod managers;
mod merge;
mod node;
mod set;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::status::Status;
use managers::{Entry, Managers, Operation};

pub use node::Node;
pub use set::{Element, Set};

/// Who makes a change, and how it comes in.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// The name: `fieldManager`, or the user agent up to its first slash.
    pub name: &'a str,
    /// The `apiVersion` that the change was made in.
    pub api_version: &'a str,
    /// The subresource that was written; empty for the object itself.
    pub subresource: &'a str,
    /// The time, as the API writes it.
    pub now: &'a str,
}

/// Fields that nobody owns: the server's, or those that name the object.
const NOT_OWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// The manager of what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager that kubectl applies as.
const KUBECTL: &str = "kubectl";
/// How many bytes of annotations an object may have.
const MOST_ANNOTATIONS: usize = 256 << 10;
/// Where kubectl notes what it applied by itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Why an apply was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be applied, whatever the object (400 or 422). The text says where and why.
    #[error("{0}")]
    Malformed(String),
    /// Other managers own fields that would change; `force` takes them over.
    #[error("{message}")]
    Conflict {
        /// The text, in upstream's words.
        message: String,
        /// Each conflict: with whom, and the field.
        causes: Vec<(String, String)>,
    },
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Malformed(text) => Self::bad_request(text),
            Error::Conflict { message, causes } => Self::apply_conflict(message, causes),
        }
    }
}

/// Returns `live` with everything that `config` sets; nobody's ownership is looked at or recorded.
#[must_use]
pub fn merged(live: &Value, config: &Value, node: &Node<'_>) -> Value {
    merge::merge(live, config, node)
}

/// Returns the object that results from applying `config` to `live`, with its managed fields. `live` is
/// `None` when the object does not exist yet. Without `force`, fields that others own are not taken over.
///
/// # Errors
/// [`Error::Malformed`] when the configuration does not fit its type or carries managed fields,
/// [`Error::Conflict`] when others own what would change.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
    node: &Node<'_>,
) -> Result<Value, Error> {
    if !config.is_object() {
        return Err(Error::Malformed("an applied configuration is an object".into()));
    }
    let claimed = config.pointer("/metadata/managedFields").and_then(Value::as_array);
    if claimed.is_some_and(|list| !list.is_empty()) {
        return Err(Error::Malformed("metadata.managedFields must be nil".into()));
    }
    let mut config = config.clone();
    ignore(&mut config, manager.subresource, node);
    let mut wanted = Set::of(&config, node)?;
    strip(&mut wanted);

    let empty = Value::Object(serde_json::Map::new());
    let before = live.unwrap_or(&empty);
    let mut managers = Managers::read(before);
    if live.is_some() && managers.is_empty() {
        // What is there already belongs to somebody, whoever it was; but what kubectl applied by itself it may
        // go on to apply through the server.
        let mut all = compare::compare(&empty, before, node).added;
        strip(&mut all);
        if let Some(own) = last_applied(before, manager, node) {
            all.remove(&own);
            managers.put(Entry::new(manager.name, Operation::Apply, manager, own));
        }
        managers.put(Entry::new(BEFORE_FIRST_APPLY, Operation::Update, manager, all));
    }
    let previous = managers.take(manager.name, Operation::Apply, manager);
    let mut object = merge::merge(before, &config, node);
    if let Some(previous) = &previous {
        let mut kept = managers.all();
        kept.extend(&wanted);
        merge::prune(&mut object, &previous.set, &kept, &config, node);
    }
    let mut changes = compare::compare(before, &object, node);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        strip(set);
    }
    let mut written = changes.added;
    written.extend(&changes.modified);
    let conflicts = managers.conflicts(&written);
    if !force && !conflicts.is_empty() {
        // What kubectl applied by itself it may take over from whoever stands for it there.
        let own = last_applied(before, manager, node).unwrap_or_default();
        let (_, refused): (Vec<_>, Vec<_>) =
            conflicts.iter().cloned().partition(|conflict| conflict.set.is_within(&own));
        if !refused.is_empty() {
            return Err(managers::conflict_error(&refused));
        }
    }
    for (index, set) in conflicts.iter().map(|conflict| (conflict.index, &conflict.set)) {
        managers.take_away(index, set);
    }
    managers.remove_everywhere(&changes.removed);
    let mut entry = Entry::new(manager.name, Operation::Apply, manager, wanted);
    if let Some(previous) = previous
        && previous.set == entry.set
        && previous.api_version == entry.api_version
    {
        entry.time = previous.time;
    }
    managers.put(entry);
    managers.write(&mut object);
    note_applied(&mut object, before, &config, manager);
    Ok(object)
}

/// Records in `new` that `manager` changed `old` into it, by any write but an apply. To be called after
/// defaulting and before admission. `old` is `None` when the object is created. Nobody comes to own by this
/// write what lies below the paths `reset`: the server takes no change of them from it.
///
/// An object that exists and has no managers stays without: its first apply finds out what was there before.
pub fn track(
    new: &mut Value,
    old: Option<&Value>,
    manager: &Manager<'_>,
    node: &Node<'_>,
    reset: &[&[&str]],
) {
    let list = |object: &Value| object.pointer("/metadata/managedFields").cloned();
    let (sent, kept) = (list(new), old.and_then(list));
    // Clients may edit the list itself, as kubectl does when it hands fields over to apply: but not through a
    // subresource, and not by leaving it out, as those do who do not know it.
    let edited = sent.filter(|sent| manager.subresource.is_empty() && Some(sent) != kept.as_ref());
    if edited.as_ref().is_some_and(is_reset) {
        Managers::default().write(new);
        return;
    }
    let edited = edited.and_then(|sent| Managers::parse(&sent)).filter(|managers| !managers.is_empty());
    let empty = Value::Object(serde_json::Map::new());
    if old.is_some() && edited.is_none() && kept.is_none() {
        Managers::default().write(new);
        return;
    }
    let mut changes = compare::compare(old.unwrap_or(&empty), new, node);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        strip(set);
        reset.iter().for_each(|path| set.remove_below(path));
    }
    let mut managers = match (edited, kept) {
        (Some(edited), _) => edited,
        (None, Some(kept)) if changes.is_empty() => {
            // Most writes that change nothing end here, without the sets of all managers being read.
            new["metadata"]["managedFields"] = kept;
            return;
        }
        (None, kept) => kept.and_then(|kept| Managers::parse(&kept)).unwrap_or_default(),
    };
    if !changes.is_empty() {
        let mut written = changes.added;
        written.extend(&changes.modified);
        let previous = managers.take(manager.name, Operation::Update, manager);
        for conflict in managers.conflicts(&written) {
            managers.take_away(conflict.index, &conflict.set);
        }
        managers.remove_everywhere(&changes.removed);
        let mut own = previous.as_ref().map(|entry| entry.set.clone()).unwrap_or_default();
        own.remove(&changes.removed);
        own.extend(&written);
        let mut entry = Entry::new(manager.name, Operation::Update, manager, own);
        if let Some(previous) = previous
            && previous.set == entry.set
        {
            entry.time = previous.time;
        }
        managers.put(entry);
        managers.cap();
    }
    managers.write(new);
}

/// Returns what kubectl applied by itself before, as it noted in an annotation.
fn last_applied(live: &Value, manager: &Manager<'_>, node: &Node<'_>) -> Option<Set> {
    if manager.name != KUBECTL || !manager.subresource.is_empty() {
        return None;
    }
    let text = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
    let mut config: Value = serde_json::from_str(text).ok()?;
    config.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?.remove(LAST_APPLIED);
    ignore(&mut config, "", node);
    let mut set = Set::of(&config, node).ok()?;
    strip(&mut set);
    Some(set)
}

/// A list of one empty entry says that the object is not to be tracked any more.
fn is_reset(list: &Value) -> bool {
    matches!(list.as_array().map(Vec::as_slice), Some([Value::Object(only)]) if only.is_empty())
}

/// Keeps kubectl's own note of what it applied in step, where there is one, so that it can go back to
/// applying by itself.
fn note_applied(object: &mut Value, live: &Value, config: &Value, manager: &Manager<'_>) {
    let annotations =
        |object: &Value| object.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
    let noted = annotations(live).is_some_and(|notes| notes.contains_key(LAST_APPLIED));
    if manager.name != KUBECTL || !manager.subresource.is_empty() || !noted {
        return;
    }
    let mut config = config.clone();
    if let Some(meta) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
        if let Some(notes) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            notes.remove(LAST_APPLIED);
        }
    }
    let text = config.to_string();
    // All annotations of an object together have a limit; a note that does not fit is left empty.
    let fits = text.len() <= MOST_ANNOTATIONS;
    object["metadata"]["annotations"][LAST_APPLIED] = if fits { text + "\n" } else { String::new() }.into();
}

/// Takes out of a set what nobody owns.
fn strip(set: &mut Set) {
    for path in NOT_OWNED {
        set.remove_below(path);
    }
}

/// Takes out of an applied configuration what this way of writing does not write: the status on the object
/// itself, everything but the status on the subresource `status`.
fn ignore(config: &mut Value, subresource: &str, node: &Node<'_>) {
    let Some(map) = config.as_object_mut() else { return };
    if subresource == "status" {
        map.remove("spec");
        if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
        }
    } else if node.has_status() {
        map.remove("status");
    }
}
