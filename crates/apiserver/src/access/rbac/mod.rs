//! The RBAC authorizer: roles and bindings in memory, bindings indexed by subject.

mod escalation;
mod rule;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::{Attributes, Decision, UserInfo, list, text};

pub(crate) use escalation::check_write;
pub use escalation::missing_rules;
pub use rule::Rule;

type Names = HashMap<Box<str>, Vec<Arc<Binding>>>;

/// A namespace and a name.
type Named = (Box<str>, Box<str>);

/// What has been observed of roles and bindings.
#[derive(Debug, Default)]
pub(crate) struct Rbac {
    /// By namespace and name.
    roles: HashMap<Named, Arc<[Rule]>>,
    cluster_roles: BTreeMap<Box<str>, ClusterRole>,
    /// By namespace (empty for cluster role bindings) and name.
    bindings: HashMap<Named, Arc<Binding>>,
    /// The bindings of each namespace by their subjects.
    index: HashMap<Box<str>, Subjects>,
}

#[derive(Debug)]
struct ClusterRole {
    labels: BTreeMap<String, String>,
    /// The selectors of an aggregated role.
    aggregation: Option<Value>,
    /// The rules that stand in the object.
    own: Arc<[Rule]>,
    /// The rules that count: the collected ones for an aggregated role.
    effective: Arc<[Rule]>,
}

#[derive(Debug)]
struct Binding {
    namespace: Box<str>,
    name: Box<str>,
    role_kind: Box<str>,
    role_name: Box<str>,
    users: Vec<Box<str>>,
    groups: Vec<Box<str>>,
    /// Where a user's name is that of a service account: how upstream names the subject in reasons.
    accounts: Vec<(Box<str>, String)>,
}

#[derive(Debug, Default)]
struct Subjects {
    users: Names,
    groups: Names,
}

impl Rbac {
    /// Takes note of a change of a role or a binding.
    pub(crate) fn observe(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key = || (Box::from(namespace), Box::from(name));
        match (resource, object) {
            ("roles", Some(role)) => {
                self.roles.insert(key(), rules_of(role));
            }
            ("roles", None) => {
                self.roles.remove(&key());
            }
            ("clusterroles", Some(role)) => {
                let own = rules_of(role);
                let labels = role
                    .pointer("/metadata/labels")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                    .collect();
                let aggregation = role.get("aggregationRule").filter(|rule| rule.is_object()).cloned();
                let role = ClusterRole { labels, aggregation, effective: own.clone(), own };
                let collects = self.takes_part(&role);
                let old = self.cluster_roles.insert(name.into(), role);
                if collects || old.is_some_and(|old| self.takes_part(&old)) {
                    self.aggregate();
                }
            }
            ("clusterroles", None) => {
                if let Some(old) = self.cluster_roles.remove(name)
                    && self.takes_part(&old)
                {
                    self.aggregate();
                }
            }
            ("rolebindings" | "clusterrolebindings", object) => {
                if let Some(old) = self.bindings.remove(&key()) {
                    self.unindex(&old);
                }
                if let Some(object) = object {
                    let binding = Arc::new(Binding::read(namespace, name, object));
                    self.index(&binding);
                    self.bindings.insert(key(), binding);
                }
            }
            _ => {}
        }
    }

    fn index(&mut self, binding: &Arc<Binding>) {
        let subjects = self.index.entry(binding.namespace.clone()).or_default();
        for user in &binding.users {
            subjects.users.entry(user.clone()).or_default().push(binding.clone());
        }
        for group in &binding.groups {
            subjects.groups.entry(group.clone()).or_default().push(binding.clone());
        }
    }

    fn unindex(&mut self, binding: &Arc<Binding>) {
        let Some(subjects) = self.index.get_mut(&binding.namespace) else { return };
        for (names, map) in [(&binding.users, &mut subjects.users), (&binding.groups, &mut subjects.groups)] {
            for name in names {
                if let Some(bindings) = map.get_mut(name) {
                    bindings.retain(|other| !Arc::ptr_eq(other, binding));
                    if bindings.is_empty() {
                        map.remove(name);
                    }
                }
            }
        }
        if subjects.users.is_empty() && subjects.groups.is_empty() {
            self.index.remove(&binding.namespace);
        }
    }

    /// Says whether a role collects others or is collected.
    fn takes_part(&self, role: &ClusterRole) -> bool {
        role.aggregation.is_some()
            || self.cluster_roles.values().filter_map(|other| other.aggregation.as_ref()).any(|aggregation| {
                list(aggregation, "/clusterRoleSelectors")
                    .iter()
                    .any(|selector| selects(selector, &role.labels))
            })
    }

    /// Collects the rules of aggregated roles anew. A role may be collected that itself collects (admin
    /// collects edit, edit collects view), so this repeats until nothing changes; what collects in a circle
    /// settles, too, since rules are only ever added.
    fn aggregate(&mut self) {
        for role in self.cluster_roles.values_mut() {
            role.effective = if role.aggregation.is_some() { Arc::from([]) } else { role.own.clone() };
        }
        loop {
            let mut grown = Vec::new();
            for (name, role) in &self.cluster_roles {
                if let Some(aggregation) = &role.aggregation {
                    let rules = self.aggregated(aggregation);
                    if rules.len() > role.effective.len() {
                        grown.push((name.clone(), rules));
                    }
                }
            }
            if grown.is_empty() {
                return;
            }
            for (name, rules) in grown {
                if let Some(role) = self.cluster_roles.get_mut(&name) {
                    role.effective = rules.into();
                }
            }
        }
    }

    /// Returns the rules of every cluster role that an `aggregationRule` selects, each once.
    fn aggregated(&self, aggregation: &Value) -> Vec<Rule> {
        let selectors = list(aggregation, "/clusterRoleSelectors");
        let mut rules: Vec<Rule> = Vec::new();
        for role in self.cluster_roles.values() {
            if selectors.iter().any(|selector| selects(selector, &role.labels)) {
                for rule in role.effective.iter() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        rules
    }

    pub(crate) fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.role(kind, namespace, name).map(|rules| rules.to_vec())
    }

    fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&Arc<[Rule]>> {
        if kind == "ClusterRole" {
            self.cluster_roles.get(name).map(|role| &role.effective)
        } else {
            self.roles.get(&(namespace.into(), name.into()))
        }
    }

    pub(crate) fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        let mut missing = String::new();
        let decided = self.visit(user, attributes.namespace, |binding, subject, rules| match rules {
            Some(rules) => rules
                .iter()
                .any(|rule| rule.allows(attributes))
                .then(|| Decision::allow(binding.reason(&subject()))),
            None => {
                let kind = binding.role_kind.to_ascii_lowercase();
                missing = format!("RBAC: {kind}.rbac.authorization.k8s.io {:?} not found", binding.role_name);
                None
            }
        });
        decided.unwrap_or_else(|| Decision::deny(missing))
    }

    pub(crate) fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut found = Vec::new();
        let none: Option<()> = self.visit(user, namespace, |_, _, rules| {
            found.extend(rules.into_iter().flat_map(|rules| rules.iter().cloned()));
            None
        });
        debug_assert!(none.is_none());
        found
    }

    /// Calls `each` with every binding that speaks of the user, those of the whole cluster first, until it
    /// returns something.
    fn visit<'a, T>(
        &'a self,
        user: &UserInfo,
        namespace: &str,
        mut each: impl FnMut(&'a Binding, &dyn Fn() -> String, Option<&'a Arc<[Rule]>>) -> Option<T>,
    ) -> Option<T> {
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for scope in scopes {
            let Some(subjects) = self.index.get(*scope) else { continue };
            for binding in subjects.users.get(user.name.as_str()).into_iter().flatten() {
                let rules = self.role(&binding.role_kind, &binding.namespace, &binding.role_name);
                let found = each(binding, &|| binding.user_subject(&user.name), rules);
                if found.is_some() {
                    return found;
                }
            }
            for group in &user.groups {
                for binding in subjects.groups.get(group.as_str()).into_iter().flatten() {
                    let rules = self.role(&binding.role_kind, &binding.namespace, &binding.role_name);
                    let found = each(binding, &|| format!("Group {group:?}"), rules);
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }
}

impl Binding {
    fn read(namespace: &str, name: &str, object: &Value) -> Self {
        let mut binding = Self {
            namespace: namespace.into(),
            name: name.into(),
            role_kind: text(object, "/roleRef/kind").into(),
            role_name: text(object, "/roleRef/name").into(),
            users: Vec::new(),
            groups: Vec::new(),
            accounts: Vec::new(),
        };
        for subject in list(object, "/subjects") {
            let name = text(subject, "/name");
            match text(subject, "/kind") {
                "User" => binding.users.push(name.into()),
                "Group" => binding.groups.push(name.into()),
                "ServiceAccount" => {
                    let namespace = match text(subject, "/namespace") {
                        "" => namespace,
                        namespace => namespace,
                    };
                    let user: Box<str> = format!("system:serviceaccount:{namespace}:{name}").into();
                    binding.accounts.push((user.clone(), format!("{name}/{namespace}")));
                    binding.users.push(user);
                }
                _ => {}
            }
        }
        binding
    }

    fn user_subject(&self, user: &str) -> String {
        match self.accounts.iter().find(|(name, _)| **name == *user) {
            Some((_, account)) => format!("ServiceAccount {account:?}"),
            None => format!("User {user:?}"),
        }
    }

    fn reason(&self, subject: &str) -> String {
        let Self { namespace, name, role_kind, role_name, .. } = self;
        if namespace.is_empty() {
            format!("RBAC: allowed by ClusterRoleBinding {name:?} of {role_kind} {role_name:?} to {subject}")
        } else {
            let full = format!("{name}/{namespace}");
            format!("RBAC: allowed by RoleBinding {full:?} of {role_kind} {role_name:?} to {subject}")
        }
    }
}

pub(crate) fn rules_of(role: &Value) -> Arc<[Rule]> {
    list(role, "/rules").iter().map(Rule::read).collect()
}

/// Says whether a label selector (as in an object) selects labels. An empty selector selects everything.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    equal
        && list(selector, "/matchExpressions").iter().all(|expression| {
            let value = labels.get(text(expression, "/key"));
            let among = value
                .is_some_and(|value| list(expression, "/values").iter().any(|other| other == value.as_str()));
            match text(expression, "/operator") {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests;
