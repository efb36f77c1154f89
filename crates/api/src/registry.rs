//! The descriptors of kinds and the registry that finds them.
//!
//! [`builtin`] returns the kinds of upstream's API. A registry is a value: the API server keeps the current
//! one behind an atomic pointer and puts a changed copy there when a custom kind comes or goes.

mod facts;
mod kind;
mod scale;
mod strategy;
mod table;

use std::sync::{Arc, OnceLock};

pub use kind::{Kind, Part, Scope, Storage, Subresource};
pub use scale::ScalePaths;
pub use strategy::{Read, SelectableField, Strategy};
pub(crate) use strategy::{drop_status, keep_other_parts};
pub(crate) use table::{AGE, NAME};
pub use table::{Cells, CellsFn, Column, Table};

/// A set of kinds.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Sorted by group, version, plural.
    kinds: Vec<Arc<Kind>>,
}

/// A group of the API with its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<'a> {
    /// Its name; empty for the core group.
    pub name: &'a str,
    /// Its versions, the preferred one first.
    pub versions: Vec<&'a str>,
}

/// Returns the kinds of upstream's API.
#[must_use]
pub fn builtin() -> &'static Registry {
    static BUILTIN: OnceLock<Registry> = OnceLock::new();
    BUILTIN.get_or_init(|| {
        let mut registry = Registry::default();
        for kind in facts::kinds() {
            registry.insert(Arc::new(kind));
        }
        registry
    })
}

impl Registry {
    /// Adds a kind, or replaces the one of the same group, version and plural.
    pub fn insert(&mut self, kind: Arc<Kind>) {
        match self.position(&kind.group, &kind.version, &kind.plural) {
            Ok(index) => self.kinds[index] = kind,
            Err(index) => self.kinds.insert(index, kind),
        }
    }

    /// Removes a kind; returns it if it was there.
    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.position(group, version, plural).ok().map(|index| self.kinds.remove(index))
    }

    /// Returns the kind that is served as this resource.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.position(group, version, plural).ok().map(|index| &self.kinds[index])
    }

    /// Returns the kind of this name.
    #[must_use]
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|known| known.kind == kind && known.version == version && known.group == group)
    }

    /// Returns the kind of an object by its `apiVersion` and `kind`.
    #[must_use]
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kind(group, version, kind)
    }

    /// Returns the kind at the version in which its objects are stored.
    #[must_use]
    pub fn stored(&self, kind: &Kind) -> Option<&Arc<Kind>> {
        let storage = kind.storage.as_ref()?;
        self.kind(&storage.group, &storage.version, &storage.kind)
    }

    /// Walks over all kinds, sorted by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// Returns the groups in the order of discovery: core, upstream's own, then the others by name.
    #[must_use]
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for kind in &self.kinds {
            let group = match groups.iter_mut().find(|group| group.name == kind.group) {
                Some(group) => group,
                None => {
                    groups.push(Group { name: &kind.group, versions: Vec::new() });
                    groups.last_mut().expect("one was just added")
                }
            };
            if !group.versions.contains(&kind.version.as_ref()) {
                group.versions.push(&kind.version);
            }
        }
        for group in &mut groups {
            group.versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        groups.sort_by_key(|group| (facts::group_order(group.name), group.name));
        groups
    }

    fn position(&self, group: &str, version: &str, plural: &str) -> Result<usize, usize> {
        self.kinds.binary_search_by(|kind| {
            (kind.group.as_ref(), kind.version.as_ref(), kind.plural.as_ref()).cmp(&(group, version, plural))
        })
    }
}

/// Orders versions as upstream does: stable above beta above alpha, then by number; others are last.
fn priority(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..end].parse().ok()?;
        let rest = &rest[end..];
        Some(match rest {
            "" => (3, major, 0),
            rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
                (Some(minor), _) => (2, major, minor.parse().ok()?),
                (_, Some(minor)) => (1, major, minor.parse().ok()?),
                _ => return None,
            },
        })
    };
    parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_maturity_then_number() {
        let mut versions = ["v1alpha1", "v1", "v2beta1", "v10", "foo", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn kinds_are_found_by_resource_and_by_name() {
        let registry = builtin();
        let pods = registry.resource("", "v1", "pods").unwrap();
        assert_eq!((pods.kind.as_ref(), pods.scope), ("Pod", Scope::Namespaced));
        assert_eq!(pods.singular, "pod");
        assert_eq!(pods.short_names, ["po"]);
        assert!(pods.verbs.contains(&"watch"));
        assert_eq!(registry.of("apps/v1", "Deployment").unwrap().plural, "deployments");
        assert_eq!(registry.of("v1", "Endpoints").unwrap().singular, "endpoints");
        assert!(registry.resource("apps", "v1", "pods").is_none());
    }

    #[test]
    fn what_is_only_computed_has_no_storage() {
        let registry = builtin();
        for (group, plural) in [
            ("", "bindings"),
            ("authentication.k8s.io", "tokenreviews"),
            ("authorization.k8s.io", "subjectaccessreviews"),
            ("", "componentstatuses"),
        ] {
            assert!(registry.resource(group, "v1", plural).unwrap().storage.is_none(), "{plural}");
        }
    }

    #[test]
    fn one_object_under_two_versions_is_stored_once() {
        let registry = builtin();
        for (a, b) in [
            (("", "v1", "events"), ("events.k8s.io", "v1", "events")),
            (
                ("autoscaling", "v1", "horizontalpodautoscalers"),
                ("autoscaling", "v2", "horizontalpodautoscalers"),
            ),
        ] {
            let a = registry.resource(a.0, a.1, a.2).unwrap();
            let b = registry.resource(b.0, b.1, b.2).unwrap();
            let key = |kind: &Kind| kind.storage.as_ref().unwrap().key("ns", "x");
            assert_eq!(key(a), key(b));
        }
    }

    #[test]
    fn groups_come_with_core_first_and_the_preferred_version_first() {
        let groups = builtin().groups();
        assert_eq!(groups[0].name, "");
        let autoscaling = groups.iter().find(|group| group.name == "autoscaling").unwrap();
        assert_eq!(autoscaling.versions, ["v2", "v1"]);
    }
}
