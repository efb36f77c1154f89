//! Roles and their bindings.

use jiff::Timestamp;
use serde_json::Value;

use super::{cells, check};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, each_mut, list, object, same, set, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Completes the descriptors of the four kinds.
pub(super) fn describe(kind: &mut Kind) {
    let common =
        Strategy { name_errors: meta::path_segment_errors, create_on_update: true, ..Strategy::GENERIC };
    match kind.kind.as_ref() {
        "Role" | "ClusterRole" => {
            kind.strategy =
                Strategy { validate: |kind, role, errors| validate_role(kind, role, errors), ..common };
        }
        _ => {
            kind.strategy = Strategy {
                default: |_, binding| default_binding(binding),
                validate: validate_binding,
                validate_update: |kind, new, old, part, errors| {
                    if part != Part::Main {
                        return;
                    }
                    validate_binding(kind, new, errors);
                    if !same(&new["roleRef"], &old["roleRef"]) {
                        errors.invalid(
                            &Path::new("roleRef"),
                            new["roleRef"].clone(),
                            "cannot change roleRef",
                        );
                    }
                },
                ..common
            };
            kind.table = Table::new(
                vec![
                    NAME,
                    Column::text("Role", "The role that is granted."),
                    AGE,
                    Column::wide("Users", "The users that get the role."),
                    Column::wide("Groups", "The groups that get the role."),
                    Column::wide("ServiceAccounts", "The service accounts that get the role."),
                ],
                row,
            );
        }
    }
}

fn row(binding: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let found = list(binding, "subjects").iter().filter(|subject| text(subject, "kind") == kind);
        let names: Vec<String> = found
            .map(|subject| match kind {
                "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
                _ => text(subject, "name").to_owned(),
            })
            .collect();
        Value::from(names.join(", "))
    };
    vec![
        cells::name(binding),
        format!("{}/{}", text(binding, "roleRef.kind"), text(binding, "roleRef.name")).into(),
        cells::age(binding, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn default_binding(binding: &mut Value) {
    if let Some(role) = object(binding, "roleRef") {
        default(role, "apiGroup", GROUP);
    }
    each_mut(binding, "subjects", |subject| {
        if matches!(text(subject, "kind"), "User" | "Group") && text(subject, "apiGroup").is_empty() {
            set(subject, "apiGroup", GROUP);
        }
    });
}

fn validate_role(kind: &Kind, role: &Value, errors: &mut Errors) {
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let at = Path::new("rules").index(index);
        if list(rule, "verbs").is_empty() {
            errors.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        if !list(rule, "nonResourceURLs").is_empty() {
            if kind.is_namespaced() {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&at.child("nonResourceURLs"), rule["nonResourceURLs"].clone(), why);
            }
            if !list(rule, "apiGroups").is_empty() || !list(rule, "resources").is_empty() {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at.child("nonResourceURLs"), rule["nonResourceURLs"].clone(), why);
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(&at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if list(rule, "resources").is_empty() {
            errors.required(&at.child("resources"), "resource rules must supply at least one resource");
        }
    }
    for (index, selector) in list(role, "aggregationRule.clusterRoleSelectors").iter().enumerate() {
        let at = Path::new("aggregationRule").child("clusterRoleSelectors").index(index);
        meta::validate_selector(selector, &at, errors);
    }
}

fn validate_binding(kind: &Kind, binding: &Value, errors: &mut Errors) {
    let (role, path) = (&binding["roleRef"], Path::new("roleRef"));
    if text(role, "apiGroup") != GROUP {
        errors.not_supported(&path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if kind.is_namespaced() { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.not_supported(&path.child("kind"), text(role, "kind"), kinds);
    }
    if let Some(name) = check::required(role, "name", &path, errors) {
        check::named(name, meta::path_segment_errors, &path.child("name"), errors);
    }
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        let at = Path::new("subjects").index(index);
        if text(subject, "name").is_empty() {
            errors.required(&at.child("name"), "");
        }
        match text(subject, "kind") {
            "ServiceAccount" => {
                let name = text(subject, "name");
                if !name.is_empty() {
                    check::named(name, meta::dns_subdomain_errors, &at.child("name"), errors);
                }
                if !text(subject, "apiGroup").is_empty() {
                    errors.not_supported(&at.child("apiGroup"), text(subject, "apiGroup"), &[""]);
                }
                if text(subject, "namespace").is_empty() {
                    errors.required(&at.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if text(subject, "apiGroup") != GROUP {
                    errors.not_supported(&at.child("apiGroup"), text(subject, "apiGroup"), &[GROUP]);
                }
            }
            other => errors.not_supported(&at.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_knows_the_group_of_roles_and_subjects() {
        let mut binding = json!({"roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        default_binding(&mut binding);
        assert_eq!(binding["roleRef"]["apiGroup"], GROUP);
        assert_eq!(binding["subjects"][0]["apiGroup"], GROUP);
        assert!(binding["subjects"][1].get("apiGroup").is_none());
        let row = row(&binding, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!((&row[1], &row[5]), (&json!("Role/r"), &json!("n/s")));
    }
}
