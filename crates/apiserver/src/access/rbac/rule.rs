//! One rule of a role: verbs on resources, or on paths.

use serde_json::{Map, Value};

use crate::access::{Attributes, strings};

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The API groups; `*` is every one.
    pub groups: Vec<String>,
    /// The resources, with their subresource after a slash; `*` is every one, `*/scale` that of every one.
    pub resources: Vec<String>,
    /// The paths that are no resources; a `*` at the end stands for anything.
    pub urls: Vec<String>,
    /// The names of objects that the rule is limited to; empty is no limit.
    pub names: Vec<String>,
    /// The verbs; `*` is every one.
    pub verbs: Vec<String>,
}

impl Rule {
    /// Reads a rule as it stands in a role.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        Self {
            groups: strings(value, "/apiGroups"),
            resources: strings(value, "/resources"),
            urls: strings(value, "/nonResourceURLs"),
            names: strings(value, "/resourceNames"),
            verbs: strings(value, "/verbs"),
        }
    }

    /// Returns the rule that allows every verb on every resource.
    #[must_use]
    pub fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self { groups: all(), resources: all(), verbs: all(), ..Self::default() }
    }

    /// Returns the rule that allows every verb on every path.
    #[must_use]
    pub fn every_url() -> Self {
        Self { urls: vec!["*".into()], verbs: vec!["*".into()], ..Self::default() }
    }

    /// Returns the rule as it stands in a role.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                map.insert(key.into(), list.clone().into());
            }
        }
        Value::Object(map)
    }

    /// Says whether the rule allows a request.
    #[must_use]
    pub fn allows(&self, request: &Attributes<'_>) -> bool {
        if !has(&self.verbs, request.verb) {
            return false;
        }
        if !request.is_resource() {
            return self.urls.iter().any(|url| url_matches(url, request.path));
        }
        has(&self.groups, request.group)
            && self.resources.iter().any(|rule| resource_matches(rule, request.resource, request.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }

    /// Writes the rule as upstream writes it in messages.
    #[must_use]
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(key, list)| format!("{key}:{}", quoted(list)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// Writes a list of strings as Go's `%q` does.
pub(crate) fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// Says whether a list of a rule holds a value, or everything.
pub(super) fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == "*" || item == value)
}

pub(super) fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

pub(super) fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((rule, sub)) => {
            !subresource.is_empty() && sub == subresource && (rule == "*" || rule == resource)
        }
    }
}
