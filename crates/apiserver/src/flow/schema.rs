//! Which requests belong to a flow schema.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde_json::Value;

use super::level::Level;
use crate::access::{UserInfo, list, strings, text};
use crate::path::RequestInfo;

/// A flow schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: Arc<str>,
    pub(super) precedence: i64,
    pub(super) level: Arc<Level>,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name; the name may be `*`.
    Account(String, String),
}

#[derive(Debug)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

#[derive(Debug)]
struct Paths {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn listed(list: &[String], found: &str) -> bool {
    list.iter().any(|one| one == "*" || one == found)
}

impl Schema {
    /// Reads a schema; `None` when its level does not exist.
    pub(super) fn read(object: &Value, levels: &BTreeMap<String, Arc<Level>>) -> Option<Self> {
        let spec = &object["spec"];
        let level = levels.get(text(spec, "/priorityLevelConfiguration/name"))?.clone();
        Some(Self {
            name: api::meta::name(object).to_owned(),
            uid: api::meta::uid(object).into(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            level,
            distinguisher: match text(spec, "/distinguisherMethod/type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(spec, "/rules").iter().map(Rule::read).collect(),
        })
    }

    pub(super) fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// Returns a number that is the same for requests of one flow.
    pub(super) fn flow(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::None => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => {
                info.resource.as_ref().map_or("", |target| &target.namespace).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let subject = |subject: &Value| match text(subject, "/kind") {
            "User" => Subject::User(text(subject, "/user/name").to_owned()),
            "Group" => Subject::Group(text(subject, "/group/name").to_owned()),
            _ => Subject::Account(
                text(subject, "/serviceAccount/namespace").to_owned(),
                text(subject, "/serviceAccount/name").to_owned(),
            ),
        };
        let resources = |rule: &Value| Resources {
            verbs: strings(rule, "/verbs"),
            groups: strings(rule, "/apiGroups"),
            resources: strings(rule, "/resources"),
            cluster: rule["clusterScope"] == true,
            namespaces: strings(rule, "/namespaces"),
        };
        let paths =
            |rule: &Value| Paths { verbs: strings(rule, "/verbs"), paths: strings(rule, "/nonResourceURLs") };
        Self {
            subjects: list(rule, "/subjects").iter().map(subject).collect(),
            resources: list(rule, "/resourceRules").iter().map(resources).collect(),
            paths: list(rule, "/nonResourceRules").iter().map(paths).collect(),
        }
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let subject = self.subjects.iter().any(|subject| match subject {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::Account(namespace, name) => user
                .as_service_account()
                .is_some_and(|(own, account)| *namespace == own && (name == "*" || *name == account)),
        });
        subject
            && match &info.resource {
                Some(target) => self.resources.iter().any(|rule| {
                    let whole = |one: &String| {
                        one == "*"
                            || match one.split_once('/') {
                                None => *one == target.resource && target.subresource.is_empty(),
                                Some((resource, subresource)) => {
                                    resource == target.resource && subresource == target.subresource
                                }
                            }
                    };
                    let place = if target.namespace.is_empty() {
                        rule.cluster
                    } else {
                        listed(&rule.namespaces, &target.namespace)
                    };
                    place
                        && listed(&rule.verbs, &info.verb)
                        && listed(&rule.groups, &target.group)
                        && rule.resources.iter().any(whole)
                }),
                None => self.paths.iter().any(|rule| {
                    listed(&rule.verbs, &info.verb)
                        && rule.paths.iter().any(|path| match path.strip_suffix('*') {
                            Some(start) => info.path.starts_with(start),
                            None => *path == info.path,
                        })
                }),
            }
    }
}
