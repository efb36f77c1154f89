//! The list `metadata.managedFields`.

use serde_json::{Value, json};

use super::{Error, Manager, Set};

/// So many entries of updates are kept apart; older ones are put together.
const MOST_UPDATES: usize = 10;
/// The manager of what was put together.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    operation: Operation,
    pub(super) api_version: String,
    subresource: String,
    pub(super) time: String,
    pub(super) set: Set,
}

/// Everybody who owns something of an object.
#[derive(Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

/// Fields that another manager owns and that would change.
#[derive(Debug, Clone)]
pub(super) struct Conflict {
    pub(super) index: usize,
    pub(super) set: Set,
    who: String,
    name: String,
}

impl Entry {
    pub(super) fn new(name: &str, operation: Operation, manager: &Manager<'_>, set: Set) -> Self {
        Self {
            name: name.into(),
            operation,
            api_version: manager.api_version.into(),
            subresource: manager.subresource.into(),
            time: manager.now.into(),
            set,
        }
    }

    /// Says whether this is the entry of a manager's operation. An applier is the same in every version.
    fn is(&self, name: &str, operation: Operation, manager: &Manager<'_>) -> bool {
        self.name == name
            && self.operation == operation
            && self.subresource == manager.subresource
            && (operation == Operation::Apply || self.api_version == manager.api_version)
    }

    fn who(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }
}

impl Managers {
    /// Reads the list of an object. One that cannot be read is as good as none.
    pub(super) fn read(object: &Value) -> Self {
        object.pointer("/metadata/managedFields").and_then(Self::parse).unwrap_or_default()
    }

    /// Reads a list; `None` when an entry of it makes no sense.
    pub(super) fn parse(list: &Value) -> Option<Self> {
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let entries = list.as_array()?.iter().map(|entry| {
            let operation = match entry["operation"].as_str()? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            if entry["fieldsType"] != "FieldsV1" {
                return None;
            }
            Some(Entry {
                name: text(entry, "manager"),
                operation,
                api_version: text(entry, "apiVersion"),
                subresource: text(entry, "subresource"),
                time: text(entry, "time"),
                set: Set::read(&entry["fieldsV1"]),
            })
        });
        entries.collect::<Option<_>>().map(Self)
    }

    /// Writes the list into an object: appliers first, then by time.
    pub(super) fn write(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.set.is_empty());
        self.0.sort_by(|a, b| {
            let key = |entry: &Entry| {
                (
                    entry.operation,
                    entry.time.clone(),
                    entry.name.clone(),
                    entry.api_version.clone(),
                    entry.subresource.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        let entries: Vec<Value> = self
            .0
            .iter()
            .map(|entry| {
                let mut value = json!({
                    "manager": entry.name,
                    "operation": if entry.operation == Operation::Apply { "Apply" } else { "Update" },
                    "apiVersion": entry.api_version,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": entry.set.write(),
                });
                if !entry.time.is_empty() {
                    value["time"] = entry.time.as_str().into();
                }
                if !entry.subresource.is_empty() {
                    value["subresource"] = entry.subresource.as_str().into();
                }
                value
            })
            .collect();
        if entries.is_empty() {
            if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("managedFields");
            }
        } else {
            object["metadata"]["managedFields"] = entries.into();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    /// Takes out the entry of a manager's operation.
    pub(super) fn take(&mut self, name: &str, operation: Operation, manager: &Manager<'_>) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.is(name, operation, manager))?;
        Some(self.0.remove(at))
    }

    /// Returns what any manager owns.
    pub(super) fn all(&self) -> Set {
        let mut all = Set::default();
        self.0.iter().for_each(|entry| all.extend(&entry.set));
        all
    }

    /// Returns who owns what of the fields that are written.
    pub(super) fn conflicts(&self, written: &Set) -> Vec<Conflict> {
        self.0
            .iter()
            .enumerate()
            .map(|(index, entry)| Conflict {
                index,
                set: entry.set.common(written),
                who: entry.who(),
                name: entry.name.clone(),
            })
            .filter(|conflict| !conflict.set.is_empty())
            .collect()
    }

    pub(super) fn take_away(&mut self, index: usize, set: &Set) {
        if let Some(entry) = self.0.get_mut(index) {
            entry.set.remove(set);
        }
    }

    pub(super) fn remove_everywhere(&mut self, set: &Set) {
        self.0.iter_mut().for_each(|entry| entry.set.remove(set));
    }

    /// Puts the oldest updates of a version together, so that the list does not grow without bound.
    pub(super) fn cap(&mut self) {
        let updates =
            |entries: &[Entry]| entries.iter().filter(|entry| entry.operation == Operation::Update).count();
        if updates(&self.0) <= MOST_UPDATES {
            return;
        }
        self.0.sort_by(|a, b| (&a.time, &a.name).cmp(&(&b.time, &b.name)));
        let mut at = 0;
        while updates(&self.0) > MOST_UPDATES && at < self.0.len() {
            let Entry { operation, api_version, .. } = &self.0[at];
            // The oldest of a version waits for the next one of it to be put together with.
            let older = self.0[..at].iter().position(|entry| {
                *operation == Operation::Update
                    && entry.operation == Operation::Update
                    && entry.api_version == *api_version
            });
            match older {
                Some(older) => {
                    let merged = self.0.remove(at);
                    let bucket = &mut self.0[older];
                    bucket.name = ANCIENT.into();
                    bucket.subresource.clear();
                    bucket.set.extend(&merged.set);
                    bucket.time = merged.time;
                }
                None => at += 1,
            }
        }
    }
}

/// Returns the error that tells of conflicts, in upstream's words.
pub(super) fn conflict_error(conflicts: &[Conflict]) -> Error {
    let mut all: Vec<(&Conflict, String)> = conflicts
        .iter()
        .flat_map(|conflict| conflict.set.paths().into_iter().map(move |path| (conflict, path)))
        .collect();
    let causes = all
        .iter()
        .map(|(conflict, path)| (format!("conflict with {}", conflict.who), path.clone()))
        .collect();
    let message = if let [(conflict, path)] = &all[..] {
        format!("Apply failed with 1 conflict: conflict with {}: {path}", conflict.who)
    } else {
        all.sort_by(|(a, _), (b, _)| (&a.name, &a.who).cmp(&(&b.name, &b.who)));
        let mut lines: Vec<String> = Vec::new();
        let mut last = "";
        for (conflict, path) in &all {
            if conflict.who != last {
                lines.push(format!("conflicts with {}:", conflict.who));
                last = &conflict.who;
            }
            lines.push(format!("- {path}"));
        }
        format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
    };
    Error::Conflict { message, causes }
}
