//! Nobody may grant what they do not hold: the check of writes to roles and bindings.

use api::status::{Resource, Status};
use serde_json::Value;

use super::rule::{has, quoted, resource_matches, url_matches};
use super::{Rule, rules_of};
use crate::access::{Access, Attributes, MASTERS, UserInfo, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Returns what `wanted` allows beyond `held`, in rules of one group, resource, path and name each, verbs
/// together.
#[must_use]
pub fn missing_rules(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for single in wanted.iter().flat_map(break_down) {
        if held.iter().any(|rule| covers(rule, &single)) {
            continue;
        }
        let Some(verb) = single.verbs.first().cloned() else { continue };
        let place = |rule: &&mut Rule| {
            rule.groups == single.groups
                && rule.resources == single.resources
                && rule.names == single.names
                && rule.urls == single.urls
        };
        match missing.iter_mut().find(place) {
            Some(rule) if rule.verbs.contains(&verb) => {}
            Some(rule) => rule.verbs.push(verb),
            None => missing.push(single),
        }
    }
    missing
}

/// Breaks a rule into rules of one verb on one thing.
fn break_down(rule: &Rule) -> Vec<Rule> {
    let mut singles = Vec::new();
    let one = |value: &String| vec![value.clone()];
    for verb in &rule.verbs {
        for url in &rule.urls {
            singles.push(Rule { urls: one(url), verbs: one(verb), ..Rule::default() });
        }
        for group in &rule.groups {
            for resource in &rule.resources {
                let single = Rule {
                    groups: one(group),
                    resources: one(resource),
                    verbs: one(verb),
                    ..Rule::default()
                };
                if rule.names.is_empty() {
                    singles.push(single);
                } else {
                    singles.extend(rule.names.iter().map(|name| Rule { names: one(name), ..single.clone() }));
                }
            }
        }
    }
    singles
}

/// Says whether a held rule covers a rule of one verb on one thing.
fn covers(held: &Rule, single: &Rule) -> bool {
    let verb = single.verbs.first().is_some_and(|verb| has(&held.verbs, verb));
    if let Some(url) = single.urls.first() {
        return verb && held.urls.iter().any(|rule| url_matches(rule, url));
    }
    let group = single.groups.first().is_some_and(|group| has(&held.groups, group));
    let resource = single.resources.first().is_some_and(|resource| {
        let (name, sub) = resource.split_once('/').unwrap_or((resource, ""));
        held.resources.iter().any(|rule| rule == resource || resource_matches(rule, name, sub))
    });
    let name = held.names.is_empty() || single.names.first().is_some_and(|name| held.names.contains(name));
    verb && group && resource && name
}

pub(crate) fn check_write(
    access: &Access,
    user: &UserInfo,
    resource: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if user.in_group(MASTERS) {
        return Ok(());
    }
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let may = |verb: &str, resource: &str, name: &str, namespace: &str| {
        let attributes = Attributes {
            verb,
            group: GROUP,
            version: "v1",
            resource,
            namespace,
            name,
            ..Attributes::default()
        };
        access.authorize(user, &attributes).allowed
    };
    let about = Resource { group: GROUP, name: resource };
    match resource {
        "roles" | "clusterroles" => {
            let unchanged = old.is_some_and(|old| {
                old.get("rules") == object.get("rules")
                    && old.get("aggregationRule") == object.get("aggregationRule")
            });
            if unchanged || may("escalate", resource, name, namespace) {
                return Ok(());
            }
            let collects =
                |role: &Value| role.get("aggregationRule").filter(|rule| rule.is_object()).cloned();
            if let Some(aggregation) = collects(object)
                && old.and_then(collects).as_ref() != Some(&aggregation)
            {
                // What is collected may grow at any time, so only who may do everything may collect.
                let all = [Rule::everything(), Rule::every_url()];
                if !missing_rules(&access.rules_for(user, ""), &all).is_empty() {
                    return Err(Status::forbidden(
                        about,
                        name,
                        "must have cluster-admin privileges to use the aggregationRule",
                    ));
                }
            }
            confirm(access, user, about, name, namespace, &rules_of(object))
        }
        "rolebindings" | "clusterrolebindings" => {
            let unchanged = old.is_some_and(|old| {
                old.get("subjects") == object.get("subjects") && old.get("roleRef") == object.get("roleRef")
            });
            let (kind, role) = (text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
            let role_resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
            if unchanged || may("bind", role_resource, role, namespace) {
                return Ok(());
            }
            let rules = access
                .role_rules(kind, namespace, role)
                .ok_or_else(|| Status::not_found(Resource { group: GROUP, name: role_resource }, role))?;
            confirm(access, user, about, name, namespace, &rules)
        }
        _ => Ok(()),
    }
}

fn confirm(
    access: &Access,
    user: &UserInfo,
    about: Resource<'_>,
    name: &str,
    namespace: &str,
    wanted: &[Rule],
) -> Result<(), Status> {
    let missing = missing_rules(&access.rules_for(user, namespace), wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(Rule::compact).collect();
    lines.sort();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    Err(Status::forbidden(about, name, &why))
}
