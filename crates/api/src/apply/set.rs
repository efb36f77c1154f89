//! Sets of fields of an object, in the form of `fieldsV1`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{Error, Node};
use crate::apply::node::Shape;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of an object or an entry of a map.
    Field(String),
    /// The item of a list whose key fields have these values; JSON of an object.
    Key(String),
    /// The item of a set that is this value; JSON.
    Value(String),
    /// The item at a position.
    Index(usize),
}

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    children: BTreeMap<Element, Member>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Member {
    /// Whether the path that ends here is in the set.
    is_in: bool,
    /// What is below.
    below: Set,
}

impl Element {
    /// Reads an element as `fieldsV1` writes it.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "f" => Self::Field(rest.to_owned()),
            "k" => Self::Key(canonical(rest)?),
            "v" => Self::Value(canonical(rest)?),
            "i" => Self::Index(rest.parse().ok()?),
            _ => return None,
        })
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// Writes the element as paths in messages have it.
    fn show(&self, out: &mut String) {
        let written = match self {
            Self::Field(name) => write!(out, ".{name}"),
            Self::Key(json) => {
                let parts: Vec<String> = serde_json::from_str::<Map<String, Value>>(json)
                    .unwrap_or_default()
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                write!(out, "[{}]", parts.join(","))
            }
            Self::Value(json) => write!(out, "[={json}]"),
            Self::Index(index) => write!(out, "[{index}]"),
        };
        debug_assert!(written.is_ok(), "a String takes what is written to it");
    }
}

/// Writes JSON with sorted keys and without blanks, so that equal keys are equal texts.
fn canonical(json: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    Some(sorted(&value))
}

/// Encodes a value with its top keys sorted.
pub(super) fn sorted(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, &Value> = map.iter().collect();
            serde_json::to_string(&ordered).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

impl Set {
    /// Returns every field that an applied configuration sets.
    ///
    /// # Errors
    /// When an item of a list lacks a key field.
    pub fn of(value: &Value, node: &Node<'_>) -> Result<Self, Error> {
        let mut set = Self::default();
        collect(value, node, &mut set, &mut String::new())?;
        Ok(set)
    }

    /// Reads `fieldsV1`. What cannot be read is left out.
    #[must_use]
    pub fn read(fields: &Value) -> Self {
        let mut set = Self::default();
        for (name, below) in fields.as_object().into_iter().flatten() {
            let Some(element) = Element::parse(name) else { continue };
            let inner = below.as_object();
            let is_in = inner.is_none_or(|inner| inner.is_empty() || inner.contains_key("."));
            set.children.insert(element, Member { is_in, below: Self::read(below) });
        }
        set
    }

    /// Writes `fieldsV1`.
    #[must_use]
    pub fn write(&self) -> Value {
        let mut map = Map::new();
        for (element, member) in &self.children {
            let mut below = member.below.write();
            if member.is_in
                && !member.below.is_empty()
                && let Some(inner) = below.as_object_mut()
            {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.encode(), below);
        }
        Value::Object(map)
    }

    /// Says whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.values().all(|member| !member.is_in && member.below.is_empty())
    }

    /// Adds the path of one element, and returns what is below it.
    pub(super) fn insert(&mut self, element: Element) -> &mut Self {
        let member = self.children.entry(element).or_default();
        member.is_in = true;
        &mut member.below
    }

    /// Returns what is below an element, made when it is not there.
    pub(super) fn below(&mut self, element: Element) -> &mut Self {
        &mut self.children.entry(element).or_default().below
    }

    /// Adds an element that is not there yet, unless neither it nor anything below it is to be in.
    pub(super) fn attach(&mut self, element: impl Fn() -> Element, is_in: bool, below: Self) {
        if is_in || !below.children.is_empty() {
            self.children.insert(element(), Member { is_in, below });
        }
    }

    /// Says whether every path of this set is in another one.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.children.iter().all(|(element, member)| match other.children.get(element) {
            Some(theirs) => (theirs.is_in || !member.is_in) && member.below.is_within(&theirs.below),
            None => !member.is_in && member.below.is_empty(),
        })
    }

    /// Adds what is in another set.
    pub(super) fn extend(&mut self, other: &Self) {
        for (element, member) in &other.children {
            let mine = self.children.entry(element.clone()).or_default();
            mine.is_in |= member.is_in;
            mine.below.extend(&member.below);
        }
    }

    /// Takes out the paths that are in another set.
    pub(super) fn remove(&mut self, other: &Self) {
        for (element, member) in &other.children {
            if let Some(mine) = self.children.get_mut(element) {
                mine.is_in &= !member.is_in;
                mine.below.remove(&member.below);
            }
        }
        self.tidy();
    }

    /// Takes out a path of fields and everything below it.
    pub(super) fn remove_below(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let element = Element::Field((*first).to_owned());
        if rest.is_empty() {
            self.children.remove(&element);
        } else if let Some(member) = self.children.get_mut(&element) {
            member.below.remove_below(rest);
            self.tidy();
        }
    }

    /// Returns the paths that are in both.
    pub(super) fn common(&self, other: &Self) -> Self {
        let mut found = Self::default();
        for (element, member) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let both =
                    Member { is_in: member.is_in && theirs.is_in, below: member.below.common(&theirs.below) };
                if both.is_in || !both.below.is_empty() {
                    found.children.insert(element.clone(), both);
                }
            }
        }
        found
    }

    /// Drops parts that hold nothing.
    fn tidy(&mut self) {
        self.children.retain(|_, member| {
            member.below.tidy();
            member.is_in || !member.below.children.is_empty()
        });
    }

    /// Walks over the elements at the top, each with what is below it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Element, &Self)> {
        self.children.iter().map(|(element, member)| (element, &member.below))
    }

    /// Returns what is below an element; `None` when neither it nor anything below it is in the set.
    pub(super) fn get(&self, element: &Element) -> Option<&Self> {
        let member = self.children.get(element)?;
        (member.is_in || !member.below.is_empty()).then_some(&member.below)
    }

    /// Returns every path, as messages write them.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.walk(&mut String::new(), &mut found);
        found
    }

    fn walk(&self, at: &mut String, found: &mut Vec<String>) {
        for (element, member) in &self.children {
            let length = at.len();
            element.show(at);
            if member.is_in {
                found.push(at.clone());
            }
            member.below.walk(at, found);
            at.truncate(length);
        }
    }
}

/// Adds the fields of `value` to `set`, which stands for its place.
fn collect(value: &Value, node: &Node<'_>, set: &mut Set, at: &mut String) -> Result<(), Error> {
    match (node.shape(), value) {
        (shape @ (Shape::Struct | Shape::Map), Value::Object(map)) => {
            for (name, value) in map {
                let child = node.field(name);
                let element = Element::Field(name.clone());
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                let below = if empty || shape == Shape::Map || child.is_leaf(value) {
                    set.insert(element)
                } else {
                    set.below(element)
                };
                let length = at.len();
                at.push('.');
                at.push_str(name);
                collect(value, &child, below, at)?;
                at.truncate(length);
            }
            Ok(())
        }
        (Shape::Set | Shape::List, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let element = node
                    .element(item)
                    .map_err(|why| Error::Malformed(format!("{at}: element {index}: {why}")))?;
                collect(item, &node.item(), set.insert(element), at)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
