//! The roles and bindings that every cluster begins with, as data.
//!
//! The names and rules are those that upstream documents, so that manifests and people who know them find
//! them here. [`objects`] builds them; the API server creates what is missing and puts back rules and
//! subjects that were taken away, unless the object says `autoupdate: "false"`.

mod controllers;
mod roles;

use serde_json::{Value, json};

use super::Rule;

/// The annotation that lets the API server put an object back to its default.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const GROUP: &str = "rbac.authorization.k8s.io";
const VERSION: &str = "rbac.authorization.k8s.io/v1";
/// The user that the controllers in this process run as.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// One rule, each part a list of words. `-` is the core group. A rule whose resources begin with `/` is for
/// paths.
struct Row {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
}

/// A row without object names.
const fn allow(verbs: &'static str, groups: &'static str, resources: &'static str) -> Row {
    Row { verbs, groups, resources, names: "" }
}

/// A row for named objects only.
const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> Row {
    Row { verbs, groups, resources, names }
}

/// A row for paths that are no resources.
const fn paths(urls: &'static str) -> Row {
    Row { verbs: "get", groups: "", resources: urls, names: "" }
}

/// What may be done about events by whoever reports them.
const EVENTS: Row = allow("create patch update", "- events.k8s.io", "events");

impl Row {
    fn rule(&self) -> Rule {
        let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let things = words(self.resources);
        let are_paths = self.groups.is_empty();
        Rule {
            verbs: words(self.verbs),
            groups: words(self.groups)
                .into_iter()
                .map(|group| if group == "-" { String::new() } else { group })
                .collect(),
            resources: if are_paths { Vec::new() } else { things.clone() },
            urls: if are_paths { things } else { Vec::new() },
            names: words(self.names),
        }
    }
}

/// A default object, and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Default {
    /// `clusterroles`, `clusterrolebindings`, `roles` or `rolebindings`.
    pub resource: &'static str,
    /// The namespace; empty for cluster-scoped ones.
    pub namespace: &'static str,
    /// The object's name.
    pub name: String,
    /// The object.
    pub object: Value,
}

/// Returns the rules of a default cluster role; none when there is no such role.
pub(crate) fn rules_of(name: &str) -> Vec<Rule> {
    roles::ROLES
        .iter()
        .chain(controllers::ROLES)
        .filter(|(role, _)| *role == name)
        .flat_map(|(_, rows)| rows.iter().map(Row::rule))
        .collect()
}

/// Returns every default object, roles before the bindings that name them.
#[must_use]
pub fn objects() -> Vec<Default> {
    let mut found = Vec::new();
    let mut put = |resource, namespace, name: &str, object| {
        found.push(Default { resource, namespace, name: name.to_owned(), object });
    };
    for (name, rows) in roles::ROLES.iter().chain(controllers::ROLES) {
        let rules: Vec<Value> = rows.iter().map(|row| row.rule().to_value()).collect();
        let mut role = object("ClusterRole", "", name);
        role["rules"] = rules.into();
        if let Some((_, label)) = roles::AGGREGATES.iter().find(|(role, _)| role == name) {
            role["metadata"]["labels"][format!("{GROUP}/aggregate-to-{label}")] = "true".into();
        }
        if let Some((_, collected)) = roles::AGGREGATED.iter().find(|(role, _)| role == name) {
            role["aggregationRule"] = json!({"clusterRoleSelectors": [
                {"matchLabels": {format!("{GROUP}/aggregate-to-{name}"): "true"}}
            ]});
            // What the aggregation comes to at the beginning, so that the object shows it from the first moment.
            let rules: Vec<Value> =
                collected.iter().flat_map(|role| rules_of(role)).map(|rule| rule.to_value()).collect();
            role["rules"] = rules.into();
        }
        put("clusterroles", "", name, role);
    }
    for (name, role, subjects) in roles::BINDINGS {
        put(
            "clusterrolebindings",
            "",
            name,
            binding("ClusterRoleBinding", "", name, "ClusterRole", role, subjects),
        );
    }
    for (name, _) in controllers::ROLES {
        let account = name.rsplit(':').next().unwrap_or(name);
        let mut object = object("ClusterRoleBinding", "", name);
        object["roleRef"] = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": name});
        // Upstream runs each controller as a service account of its own; here all of them are one user.
        object["subjects"] = json!([
            {"kind": "ServiceAccount", "name": account, "namespace": "kube-system"},
            {"apiGroup": GROUP, "kind": "User", "name": CONTROLLER_MANAGER},
        ]);
        put("clusterrolebindings", "", name, object);
    }
    for (namespace, name, rows) in roles::NAMESPACED {
        let mut role = object("Role", namespace, name);
        let rules: Vec<Value> = rows.iter().map(|row| row.rule().to_value()).collect();
        role["rules"] = rules.into();
        put("roles", namespace, name, role);
    }
    for (namespace, name, role, subjects) in roles::NAMESPACED_BINDINGS {
        put("rolebindings", namespace, name, binding("RoleBinding", namespace, name, "Role", role, subjects));
    }
    found
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": VERSION, "kind": kind, "metadata": metadata})
}

/// Builds a binding. Subjects are words: `user=NAME`, `group=NAME`, `account=NAMESPACE/NAME`.
fn binding(kind: &str, namespace: &str, name: &str, role_kind: &str, role: &str, subjects: &str) -> Value {
    let subjects: Vec<Value> = subjects
        .split_whitespace()
        .filter_map(|word| {
            Some(match word.split_once('=')? {
                ("account", account) => {
                    let (namespace, name) = account.split_once('/')?;
                    json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
                }
                ("user", name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
                (_, name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            })
        })
        .collect();
    let mut value = object(kind, namespace, name);
    value["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        value["subjects"] = subjects.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::access::{Access, Attributes, UserInfo};

    fn access() -> Access {
        let access = Access::new();
        for Default { resource, namespace, name, object } in objects() {
            access.observe(&format!("{resource}.{GROUP}"), namespace, &name, Some(&object));
        }
        access
    }

    #[track_caller]
    fn check(access: &Access, user: &UserInfo, request: &str, expect: bool) {
        let words: Vec<&str> = request.split(' ').collect();
        let [verb, what, place] = words[..] else { panic!("{request}") };
        let attributes = if what.starts_with('/') {
            Attributes { verb, path: what, ..Attributes::default() }
        } else {
            let (resource, group) = what.split_once('.').unwrap_or((what, ""));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let (namespace, name) = place.split_once('/').unwrap_or(("", place));
            Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() }
        };
        let decision = access.authorize(user, &attributes);
        assert_eq!(decision.allowed, expect, "{}: {request}: {decision:?}", user.name);
    }

    #[test]
    fn names_are_given_once_and_bindings_find_their_roles() {
        let objects = objects();
        let names: BTreeSet<_> = objects.iter().map(|it| (it.resource, it.namespace, &it.name)).collect();
        assert_eq!(names.len(), objects.len());
        for it in &objects {
            if let Some(role) = it.object.get("roleRef") {
                let kind = if role["kind"] == "ClusterRole" { "clusterroles" } else { "roles" };
                let name = role["name"].as_str().unwrap();
                assert!(objects.iter().any(|other| other.resource == kind && other.name == name), "{name}");
            }
            for rule in it.object["rules"].as_array().into_iter().flatten() {
                assert!(!rule["verbs"].as_array().unwrap().is_empty(), "{}", it.name);
            }
        }
        assert!(objects.len() > 100);
    }

    #[test]
    fn the_parts_of_the_control_plane_may_do_their_work() {
        let access = access();
        let manager = UserInfo::new(CONTROLLER_MANAGER, &[]);
        for request in [
            "list pods /",
            "watch anything.example.com /",
            "create pods ns/",
            "delete pods ns/p",
            "patch pods ns/p",
            "update replicationcontrollers/status ns/r",
            "create replicasets.apps ns/",
            "update replicasets.apps ns/r",
            "update deployments/status.apps ns/d",
            "create endpoints ns/",
            "update endpoints ns/e",
            "create endpointslices.discovery.k8s.io ns/",
            "update endpointslices.discovery.k8s.io ns/e",
            "delete endpointslices.discovery.k8s.io ns/e",
            "create serviceaccounts ns/",
            "create serviceaccounts/token kube-system/x",
            "create configmaps ns/",
            "update configmaps ns/kube-root-ca.crt",
            "update namespaces/finalize ns",
            "update namespaces/status ns",
            "deletecollection pods ns/",
            "delete anything.example.com ns/x",
            "patch anything.example.com ns/x",
            "update nodes n",
            "patch nodes n",
            "patch nodes/status n",
            "delete nodes n",
            "update pods/status ns/p",
            "patch services/status ns/s",
            "create events ns/",
            "patch events.events.k8s.io ns/e",
            "create leases.coordination.k8s.io kube-system/",
            "update leases.coordination.k8s.io kube-system/kube-controller-manager",
            "create jobs.batch ns/",
            "update cronjobs/status.batch ns/c",
            "create pods ns/",
            "update statefulsets/status.apps ns/s",
            "create persistentvolumeclaims ns/",
            "update daemonsets/status.apps ns/s",
            "create controllerrevisions.apps ns/",
            "update poddisruptionbudgets/status.policy ns/b",
            "update resourcequotas/status ns/q",
            "update certificatesigningrequests/status.certificates.k8s.io c",
            "update certificatesigningrequests/approval.certificates.k8s.io c",
        ] {
            check(&access, &manager, request, true);
        }
        for request in [
            "create pods/exec ns/p",
            "create clusterrolebindings.rbac.authorization.k8s.io x",
            "impersonate users x",
        ] {
            check(&access, &manager, request, false);
        }
        let scheduler = UserInfo::new("system:kube-scheduler", &[]);
        for request in [
            "watch nodes /",
            "watch pods /",
            "create pods/binding ns/p",
            "patch pods/status ns/p",
            "delete pods ns/p",
            "list replicasets.apps /",
            "list persistentvolumeclaims /",
            "list poddisruptionbudgets.policy /",
            "create events ns/",
            "create events.events.k8s.io ns/",
            "get leases.coordination.k8s.io kube-system/kube-scheduler",
        ] {
            check(&access, &scheduler, request, true);
        }
        for request in ["list secrets /", "create pods ns/", "update nodes n"] {
            check(&access, &scheduler, request, false);
        }
    }

    #[test]
    fn a_node_agent_is_also_proxy_and_dns() {
        let access = access();
        let node = UserInfo::new("system:node:n1", &["system:nodes"]);
        for (request, expect) in [
            ("list services /", true),
            ("watch services /", true),
            ("watch endpointslices.discovery.k8s.io /", true),
            ("list endpoints /", true),
            ("list nodes /", true),
            ("get nodes n2", true),
            ("list namespaces /", true),
            ("update nodes n2", false),
            ("list secrets /", false),
            ("list pods /", false),
            ("create pods/exec ns/p", false),
        ] {
            check(&access, &node, request, expect);
        }
    }

    #[test]
    fn people_get_what_their_role_says() {
        let access = access();
        let bind = |name: &str, role: &str| {
            let object = json!({"roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": name}]});
            access.observe("rolebindings.rbac.authorization.k8s.io", "ns", name, Some(&object));
            UserInfo::new(name, &[])
        };
        for (role, requests) in [
            (
                "view",
                &[
                    ("get pods ns/p", true),
                    ("get pods/log ns/p", true),
                    ("list deployments.apps ns/", true),
                    ("list secrets ns/", false),
                    ("create pods ns/", false),
                    ("list pods other/", false),
                    ("list roles.rbac.authorization.k8s.io ns/", false),
                ][..],
            ),
            (
                "edit",
                &[
                    ("get pods ns/p", true),
                    ("create deployments.apps ns/", true),
                    ("patch deployments/scale.apps ns/", true),
                    ("list secrets ns/", true),
                    ("create pods/exec ns/p", true),
                    ("get pods/portforward ns/p", true),
                    ("create pods/eviction ns/p", true),
                    ("create roles.rbac.authorization.k8s.io ns/", false),
                    ("delete nodes n", false),
                    ("create resourcequotas ns/", false),
                ],
            ),
            (
                "admin",
                &[
                    ("get pods ns/p", true),
                    ("create deployments.apps ns/", true),
                    ("create rolebindings.rbac.authorization.k8s.io ns/", true),
                    ("create localsubjectaccessreviews.authorization.k8s.io ns/", true),
                    ("update resourcequotas ns/q", false),
                    ("create namespaces x", false),
                ],
            ),
        ] {
            let user = bind(role, role);
            for (request, expect) in requests {
                check(&access, &user, request, *expect);
            }
        }
        let anybody = UserInfo::new("x", &[]);
        for (request, expect) in [
            ("get /api x", true),
            ("get /apis/apps/v1 x", true),
            ("get /openapi/v2 x", true),
            ("get /version x", true),
            ("get /healthz x", true),
            ("get /metrics x", false),
            ("create selfsubjectaccessreviews.authorization.k8s.io x", true),
            ("create selfsubjectreviews.authentication.k8s.io x", true),
            ("create subjectaccessreviews.authorization.k8s.io x", false),
            ("list pods ns/", false),
        ] {
            check(&access, &anybody, request, expect);
        }
        let nobody = UserInfo::anonymous();
        for (request, expect) in [
            ("get /healthz x", true),
            ("get /livez x", true),
            ("get /version x", true),
            ("get /api x", false),
            ("post /healthz x", false),
            ("create selfsubjectreviews.authentication.k8s.io x", false),
        ] {
            check(&access, &nobody, request, expect);
        }
        let master = UserInfo::new("kubernetes-admin", &["system:masters"]);
        check(&access, &master, "frob things.example.com ns/x", true);
        check(&Access::new(), &master, "get /metrics x", true);
    }
}
