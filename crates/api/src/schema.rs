//! Facts about the fields of upstream's kinds: types, required fields, list types, merge keys.
//!
//! The facts are one committed text (`src/facts/schema.txt`, written by `cargo xtask facts`). It is read
//! into flat tables on first use; names are slices of the text, so the tables take about 300 KiB.
//! Custom resources bring schemas of their own and do not come here.

use std::sync::OnceLock;

mod parse;

/// What an object of a definition looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Fields, as listed.
    Object,
    /// A quantity: a string or a number.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// A point in time with seconds.
    Time,
    /// A point in time with microseconds.
    MicroTime,
    /// An embedded object of any kind (`RawExtension`): an object whose fields are not known here.
    Raw,
    /// An object whose fields are not known here.
    Open,
    /// Any JSON value.
    Any,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// Bytes, in base64.
    Bytes,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A floating point number.
    Double,
    /// True or false.
    Bool,
    /// An object with any fields.
    Object,
    /// Any JSON value.
    Any,
    /// A list of values.
    List(&'static Self),
    /// A map from names to values.
    Map(&'static Self),
    /// A value of a definition.
    Ref(DefinitionId),
}

/// Names a definition within [`definition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DefinitionId(u16);

impl DefinitionId {
    /// Returns the definition.
    #[must_use]
    pub fn get(self) -> &'static Definition {
        &tables().definitions[usize::from(self.0)]
    }
}

/// How the items of a list are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    Atomic,
    /// Each item is its own key.
    Set,
    /// Items are told apart by these fields.
    Map(&'static [&'static str]),
}

/// How strategic merge patch merges a field (`x-kubernetes-patch-strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// Lists are merged instead of replaced.
    pub merge: bool,
    /// Keys that the patch does not name are dropped (`retainKeys`).
    pub retain_keys: bool,
    /// The value is replaced as a whole.
    pub replace: bool,
    /// The field by which items of a merged list are told apart; `None` for lists of plain values.
    pub merge_key: Option<&'static str>,
}

/// A field of a definition.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// Whether the document says that it must be there.
    pub required: bool,
    /// For lists: how items are told apart. `None` is atomic for server-side apply.
    pub list: Option<ListType>,
    /// Whether a map or object is one value for server-side apply.
    pub atomic_map: bool,
    /// How strategic merge patch treats it.
    pub patch: PatchStrategy,
}

/// A group, version and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupVersionKind {
    /// The group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
}

/// A type of upstream's API.
#[derive(Debug)]
pub struct Definition {
    /// Its name without `io.k8s.`: `api.core.v1.Pod`.
    pub name: &'static str,
    /// What it looks like.
    pub form: Form,
    /// Whether server-side apply treats it as one value.
    pub atomic: bool,
    /// The kinds that have this type at their top.
    pub kinds: &'static [GroupVersionKind],
    first: u16,
    count: u16,
}

impl Definition {
    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> Option<DefinitionId> {
        find(self.name)
    }

    /// Returns its fields, sorted by name.
    #[must_use]
    pub fn properties(&self) -> &'static [Property] {
        let first = usize::from(self.first);
        &tables().properties[first..first + usize::from(self.count)]
    }

    /// Returns the field called `name`.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&'static Property> {
        let properties = self.properties();
        properties.binary_search_by(|property| property.name.cmp(name)).ok().map(|index| &properties[index])
    }

    /// Returns the short name of the type, as Go code would call it: `v1.Pod`.
    #[must_use]
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let kind = parts.next().unwrap_or_default();
        let version = parts.next().unwrap_or_default();
        format!("{version}.{kind}")
    }
}

/// Returns every definition, sorted by name.
#[must_use]
pub fn definitions() -> &'static [Definition] {
    &tables().definitions
}

/// Returns the id of a definition by its name without `io.k8s.`.
#[must_use]
pub fn find(name: &str) -> Option<DefinitionId> {
    let definitions = &tables().definitions;
    let index = definitions.binary_search_by(|definition| definition.name.cmp(name)).ok()?;
    u16::try_from(index).ok().map(DefinitionId)
}

/// Returns a definition by its name without `io.k8s.`.
#[must_use]
pub fn definition(name: &str) -> Option<&'static Definition> {
    find(name).map(DefinitionId::get)
}

/// Returns the definition of a kind.
#[must_use]
pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<&'static Definition> {
    tables().definitions.iter().find(|definition| {
        definition
            .kinds
            .iter()
            .any(|known| known.kind == kind && known.version == version && known.group == group)
    })
}

struct Tables {
    definitions: Vec<Definition>,
    properties: Vec<Property>,
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| parse::parse(include_str!("facts/schema.txt")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_a_container_are_there() {
        let container = definition("api.core.v1.Container").unwrap();
        assert_eq!(container.go_name(), "v1.Container");
        let ports = container.property("ports").unwrap();
        assert_eq!(ports.list, Some(ListType::Map(&["containerPort", "protocol"])));
        assert!(ports.patch.merge);
        assert_eq!(ports.patch.merge_key, Some("containerPort"));
        let Type::List(Type::Ref(port)) = ports.ty else { panic!("{:?}", ports.ty) };
        assert_eq!(port.get().property("containerPort").unwrap().ty, Type::Int32);
        assert!(container.property("name").unwrap().required);
        assert!(container.property("nam").is_none());
    }

    #[test]
    fn forms_that_are_no_objects_are_known() {
        for (name, form) in [
            ("apimachinery.pkg.api.resource.Quantity", Form::Quantity),
            ("apimachinery.pkg.util.intstr.IntOrString", Form::IntOrString),
            ("apimachinery.pkg.apis.meta.v1.Time", Form::Time),
            ("apimachinery.pkg.apis.meta.v1.MicroTime", Form::MicroTime),
            ("apimachinery.pkg.runtime.RawExtension", Form::Raw),
            ("apimachinery.pkg.apis.meta.v1.FieldsV1", Form::Open),
            ("api.core.v1.Pod", Form::Object),
        ] {
            assert_eq!(definition(name).unwrap().form, form, "{name}");
        }
    }

    #[test]
    fn a_kind_leads_to_its_definition() {
        assert_eq!(of_kind("apps", "v1", "Deployment").unwrap().name, "api.apps.v1.Deployment");
        assert_eq!(of_kind("", "v1", "Pod").unwrap().name, "api.core.v1.Pod");
        assert!(of_kind("", "v1", "Deployment").is_none());
        let template = definition("api.core.v1.PodSpec").unwrap().property("volumes").unwrap();
        assert!(template.patch.merge && template.patch.retain_keys);
    }
}
