//! Reads the text of the facts; its form is described at the generator (`crates/xtask/src/schema.rs`).
//!
//! The text is part of this crate, so what is wrong in it is a defect here and not a failure to handle.

use super::{
    Definition, DefinitionId, Form, GroupVersionKind, ListType, PatchStrategy, Property, Tables, Type,
};

pub(super) fn parse(text: &'static str) -> Tables {
    let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut names: Vec<&'static str> =
        lines().filter_map(|line| line.strip_prefix('@')?.split(' ').next()).collect();
    names.sort_unstable();
    let mut reader = Reader { names, lists: Vec::new(), maps: Vec::new() };
    let mut definitions: Vec<Definition> = Vec::with_capacity(reader.names.len());
    let mut properties: Vec<Property> = Vec::with_capacity(2600);
    for line in lines() {
        if let Some(head) = line.strip_prefix('@') {
            definitions.push(definition(head, short(properties.len())));
        } else {
            properties.push(reader.property(line));
            let current = definitions.last_mut().expect("a property stands below a definition");
            current.count += 1;
        }
    }
    for definition in &definitions {
        let first = usize::from(definition.first);
        properties[first..first + usize::from(definition.count)]
            .sort_unstable_by_key(|property| property.name);
    }
    definitions.sort_unstable_by_key(|definition| definition.name);
    properties.shrink_to_fit();
    Tables { definitions, properties }
}

fn short(index: usize) -> u16 {
    u16::try_from(index).expect("there are fewer than 65536 facts")
}

fn definition(head: &'static str, first: u16) -> Definition {
    let mut words = head.split(' ');
    let name = words.next().unwrap_or_default();
    let form = match words.next() {
        Some("quantity") => Form::Quantity,
        Some("intstr") => Form::IntOrString,
        Some("time") => Form::Time,
        Some("microtime") => Form::MicroTime,
        Some("raw") => Form::Raw,
        Some("open") => Form::Open,
        Some("any") => Form::Any,
        _ => Form::Object,
    };
    let mut kinds = Vec::new();
    let mut atomic = false;
    for word in words {
        if word == "map=atomic" {
            atomic = true;
        } else if let [group, version, kind] = word.split('/').collect::<Vec<_>>()[..] {
            kinds.push(GroupVersionKind { group: if group == "-" { "" } else { group }, version, kind });
        }
    }
    Definition { name, form, atomic, kinds: kinds.leak(), first, count: 0 }
}

struct Reader {
    names: Vec<&'static str>,
    lists: Vec<&'static Type>,
    maps: Vec<&'static Type>,
}

impl Reader {
    fn property(&mut self, line: &'static str) -> Property {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let (required, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
        let ty = self.ty(words.next().unwrap_or("*"));
        let mut property =
            Property { name, ty, required, list: None, atomic_map: false, patch: PatchStrategy::default() };
        for word in words {
            if let Some(list) = word.strip_prefix("list=") {
                property.list = Some(match list.split_once(':') {
                    Some((_, keys)) => ListType::Map(keys.split(',').collect::<Vec<_>>().leak()),
                    None if list == "set" => ListType::Set,
                    None => ListType::Atomic,
                });
            } else if let Some(patch) = word.strip_prefix("patch=") {
                let (strategies, key) =
                    patch.split_once(':').map_or((patch, None), |(s, key)| (s, Some(key)));
                property.patch = PatchStrategy {
                    merge: strategies.split(',').any(|strategy| strategy == "merge"),
                    retain_keys: strategies.split(',').any(|strategy| strategy == "retainKeys"),
                    replace: strategies == "replace",
                    merge_key: key,
                };
            } else if word == "map=atomic" {
                property.atomic_map = true;
            }
        }
        property
    }

    fn ty(&mut self, text: &'static str) -> Type {
        match text.as_bytes().first() {
            Some(b's') => Type::String,
            Some(b'y') => Type::Bytes,
            Some(b'i') => Type::Int32,
            Some(b'l') => Type::Int64,
            Some(b'd') => Type::Double,
            Some(b'b') => Type::Bool,
            Some(b'o') => Type::Object,
            Some(b'[') => {
                let inner = self.ty(&text[1..]);
                Type::List(shared(&mut self.lists, inner))
            }
            Some(b'{') => {
                let inner = self.ty(&text[1..]);
                Type::Map(shared(&mut self.maps, inner))
            }
            Some(b'#') => {
                let index = self.names.binary_search(&&text[1..]).expect("a type that is named is defined");
                Type::Ref(DefinitionId(short(index)))
            }
            _ => Type::Any,
        }
    }
}

/// Returns the one shared copy of `ty`: the tables are made once and live as long as the process.
fn shared(known: &mut Vec<&'static Type>, ty: Type) -> &'static Type {
    if let Some(found) = known.iter().find(|found| ***found == ty) {
        return found;
    }
    let leaked: &'static Type = Box::leak(Box::new(ty));
    known.push(leaked);
    leaked
}
