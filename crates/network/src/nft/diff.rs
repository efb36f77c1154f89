//! The changes that lead from one table to another, in an order that the kernel accepts.

use std::collections::BTreeMap;
use std::fmt;

use super::model::{Chain, Data, Rule, Set, Table, Value};

/// One step of a transaction on a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change<'a> {
    AddTable,
    DeleteTable,
    AddSet(&'a str, &'a Set),
    AddChain(&'a str, &'a Chain),
    DeleteElements(&'a str, Vec<&'a [Value]>),
    AddElements(&'a str, Vec<(&'a [Value], &'a Data)>),
    FlushChain(&'a str),
    AddRule(&'a str, &'a Rule),
    DeleteChain(&'a str),
    DeleteSet(&'a str),
}

impl Change<'_> {
    /// How many things it changes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::DeleteElements(_, keys) => keys.len(),
            Self::AddElements(_, elements) => elements.len(),
            _ => 1,
        }
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => f.write_str("add table"),
            Self::DeleteTable => f.write_str("delete table"),
            Self::AddSet(name, _) => write!(f, "add set {name}"),
            Self::AddChain(name, _) => write!(f, "add chain {name}"),
            Self::DeleteElements(name, keys) => write!(f, "delete {} elements of {name}", keys.len()),
            Self::AddElements(name, elements) => write!(f, "add {} elements to {name}", elements.len()),
            Self::FlushChain(name) => write!(f, "flush chain {name}"),
            Self::AddRule(chain, rule) => write!(f, "add rule {chain} {rule}"),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::DeleteSet(name) => write!(f, "delete set {name}"),
        }
    }
}

/// Returns the changes that replace whatever the kernel has under this name.
pub(super) fn replacement(new: &Table) -> Vec<Change<'_>> {
    // Adding first makes the deletion succeed also where there is no such table.
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    additions(None, new, &mut changes);
    changes
}

/// Returns the changes that lead from `old`, which the kernel has, to `new`.
/// `None` when they do not connect: a set or a base chain changed its shape.
pub(super) fn difference<'a>(old: &'a Table, new: &'a Table) -> Option<Vec<Change<'a>>> {
    let reshaped =
        new.sets.iter().any(|(name, set)| old.sets.get(name).is_some_and(|before| !before.same_shape(set)))
            || new
                .chains
                .iter()
                .any(|(name, chain)| old.chains.get(name).is_some_and(|before| before.hook != chain.hook));
    if reshaped {
        return None;
    }
    let mut changes = Vec::new();
    additions(Some(old), new, &mut changes);
    changes.extend(
        old.chains
            .keys()
            .filter(|name| !new.chains.contains_key(*name))
            .map(|name| Change::DeleteChain(name)),
    );
    changes.extend(
        old.sets.keys().filter(|name| !new.sets.contains_key(*name)).map(|name| Change::DeleteSet(name)),
    );
    Some(changes)
}

/// New sets and chains come first, since elements and rules refer to them; then elements, out before in
/// (a changed one is both); then rules; the chains that go are emptied, so that none refers to another.
fn additions<'a>(old: Option<&'a Table>, new: &'a Table, changes: &mut Vec<Change<'a>>) {
    let known_set = |name: &str| old.and_then(|table| table.sets.get(name));
    let known_chain = |name: &str| old.and_then(|table| table.chains.get(name));

    for (name, set) in &new.sets {
        if known_set(name).is_none() {
            changes.push(Change::AddSet(name, set));
        }
    }
    for (name, chain) in &new.chains {
        if known_chain(name).is_none() {
            changes.push(Change::AddChain(name, chain));
        }
    }
    if let Some(old) = old {
        for (name, set) in &old.sets {
            let kept = new.sets.get(name).map(|set| &set.elements);
            let gone: Vec<&[Value]> = set
                .elements
                .iter()
                .filter(|(key, data)| kept.and_then(|kept| kept.get(*key)) != Some(data))
                .map(|(key, _)| key.as_slice())
                .collect();
            if !gone.is_empty() {
                changes.push(Change::DeleteElements(name, gone));
            }
        }
    }
    for (name, set) in &new.sets {
        let had: Option<&BTreeMap<Vec<Value>, Data>> = known_set(name).map(|set| &set.elements);
        let fresh: Vec<(&[Value], &Data)> = set
            .elements
            .iter()
            .filter(|(key, data)| had.and_then(|had| had.get(*key)) != Some(data))
            .map(|(key, data)| (key.as_slice(), data))
            .collect();
        if !fresh.is_empty() {
            changes.push(Change::AddElements(name, fresh));
        }
    }
    for (name, chain) in &new.chains {
        let had = known_chain(name);
        if had.is_some_and(|had| had.rules == chain.rules) {
            continue;
        }
        if had.is_some_and(|had| !had.rules.is_empty()) {
            changes.push(Change::FlushChain(name));
        }
        changes.extend(chain.rules.iter().map(|rule| Change::AddRule(name, rule)));
    }
    if let Some(old) = old {
        let gone = old
            .chains
            .iter()
            .filter(|(name, chain)| !new.chains.contains_key(*name) && !chain.rules.is_empty());
        changes.extend(gone.map(|(name, _)| Change::FlushChain(name)));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::model::{DataType, Statement, Type, Verdict};
    use super::*;

    fn table(elements: &[(u16, &str)], chains: &[&str]) -> Table {
        let mut table = Table::new("t");
        let map = table.set("ports", &[Type::Port], Some(DataType::Verdict));
        for (port, chain) in elements {
            map.map(vec![Value::Port(*port)], Data::Verdict(Verdict::Goto((*chain).into())));
        }
        for name in chains {
            table.chain(name, vec![Rule(vec![Statement::Snat(Ipv4Addr::LOCALHOST)])]);
        }
        table
    }

    fn texts(changes: &[Change<'_>]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_tables_need_no_change() {
        let one = table(&[(1, "a"), (2, "a")], &["a"]);
        assert_eq!(difference(&one, &one.clone()), Some(vec![]));
    }

    #[test]
    fn a_changed_element_is_taken_out_and_put_in_before_its_old_chain_goes() {
        let (old, new) =
            (table(&[(1, "a"), (2, "b")], &["a", "b"]), table(&[(1, "c"), (2, "b")], &["b", "c"]));
        assert_eq!(
            texts(&difference(&old, &new).unwrap()),
            [
                "add chain c",
                "delete 1 elements of ports",
                "add 1 elements to ports",
                "add rule c snat to 127.0.0.1 fully-random",
                "flush chain a",
                "delete chain a"
            ]
        );
    }

    #[test]
    fn changed_rules_flush_their_chain_only() {
        let (old, mut new) = (table(&[], &["a", "b"]), table(&[], &["a", "b"]));
        new.chain("b", vec![Rule(vec![Statement::Masquerade])]);
        assert_eq!(
            texts(&difference(&old, &new).unwrap()),
            ["flush chain b", "add rule b masquerade fully-random"]
        );
    }

    #[test]
    fn a_set_of_another_shape_needs_a_replacement() {
        let (old, mut new) = (table(&[], &[]), table(&[], &[]));
        new.sets.get_mut("ports").unwrap().key = vec![Type::Address];
        assert_eq!(difference(&old, &new), None);
        assert_eq!(texts(&replacement(&new))[..3], ["add table", "delete table", "add table"]);
    }
}
