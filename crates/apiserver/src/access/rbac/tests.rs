use serde_json::json;

use super::*;
use crate::access::Access;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and bindings for all tests. Users are named after what they hold.
fn access() -> Access {
    let access = Access::new();
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    let named = |verbs: &[&str], resources: &[&str], names: &[&str]| json!({"verbs": verbs, "apiGroups": [""], "resources": resources, "resourceNames": names});
    let url = |urls: &[&str]| json!({"verbs": ["get"], "nonResourceURLs": urls});
    for (name, rules) in [
        ("reader", json!([rule(&["get", "list", "watch"], &[""], &["pods", "pods/log"])])),
        ("all", json!([rule(&["*"], &["*"], &["*"])])),
        ("apps", json!([rule(&["*"], &["apps"], &["*"])])),
        ("scaler", json!([rule(&["update"], &["*"], &["*/scale"])])),
        ("named", json!([named(&["get", "update"], &["configmaps"], &["a", "b"])])),
        ("urls", json!([url(&["/metrics", "/logs/*"])])),
        ("any-url", json!([url(&["*"])])),
        ("escalator", json!([rule(&["escalate", "bind"], &[GROUP], &["*"])])),
        (
            "binder",
            json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["all"]}]),
        ),
    ] {
        access.observe(&format!("clusterroles.{GROUP}"), "", name, Some(&json!({"rules": rules})));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": name}, {"kind": "Group", "name": format!("{name}s")},
                         {"kind": "ServiceAccount", "namespace": "sa", "name": name}]});
        access.observe(&format!("clusterrolebindings.{GROUP}"), "", name, Some(&binding));
        let mut local = binding.clone();
        local["subjects"] = json!([{"kind": "User", "name": format!("local-{name}")}]);
        access.observe(&format!("rolebindings.{GROUP}"), "ns", name, Some(&local));
    }
    access.observe(
        &format!("roles.{GROUP}"),
        "ns",
        "writer",
        Some(&json!({"rules": [rule(&["create"], &[""], &["pods"])]})),
    );
    access.observe(
        &format!("rolebindings.{GROUP}"),
        "ns",
        "writer",
        Some(&json!({"roleRef": {"kind": "Role", "name": "writer"},
            "subjects": [{"kind": "User", "name": "writer"}, {"kind": "ServiceAccount", "name": "own"}]})),
    );
    access.observe(
        &format!("clusterrolebindings.{GROUP}"),
        "",
        "dangling",
        Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "nowhere"}, "subjects": [{"kind": "User", "name": "dangling"}]})),
    );
    access
}

fn request(text: &str) -> Attributes<'_> {
    let words: Vec<&str> = text.split(' ').collect();
    let [verb, what, place] = words[..] else { panic!("{text}") };
    if what.starts_with('/') {
        return Attributes { verb, path: what, ..Attributes::default() };
    }
    let (resource, group) = what.split_once('.').unwrap_or((what, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() }
}

#[test]
fn rules_allow_what_they_say() {
    let access = access();
    for (user, text, expect) in [
        ("reader", "get pods ns/p", true),
        ("reader", "list pods other/", true),
        ("reader", "list pods /", true),
        ("reader", "get pods/log ns/p", true),
        ("reader", "get pods/exec ns/p", false),
        ("reader", "create pods ns/", false),
        ("reader", "get pods.metrics.k8s.io ns/p", false),
        ("reader", "get secrets ns/p", false),
        ("reader", "get /api x", false),
        ("local-reader", "get pods ns/p", true),
        ("local-reader", "get pods other/p", false),
        ("local-reader", "list pods /", false),
        ("all", "frob things.example.com ns/x", true),
        ("all", "frob things/sub.example.com ns/x", true),
        ("all", "get /metrics x", false),
        ("apps", "delete deployments.apps ns/x", true),
        ("apps", "update deployments/scale.apps ns/x", true),
        ("apps", "get pods ns/x", false),
        ("scaler", "update deployments/scale.apps ns/x", true),
        ("scaler", "update replicationcontrollers/scale ns/x", true),
        ("scaler", "update deployments.apps ns/x", false),
        ("scaler", "update deployments/status.apps ns/x", false),
        ("named", "get configmaps ns/a", true),
        ("named", "update configmaps ns/b", true),
        ("named", "get configmaps ns/c", false),
        ("named", "list configmaps ns/", false),
        ("urls", "get /metrics x", true),
        ("urls", "get /metrics/slis x", false),
        ("urls", "get /logs/a/b x", true),
        ("urls", "get /logs x", false),
        ("urls", "post /metrics x", false),
        ("any-url", "get /whatever x", true),
        ("writer", "create pods ns/", true),
        ("writer", "create pods other/", false),
        ("dangling", "get pods ns/p", false),
        ("stranger", "get pods ns/p", false),
        ("system:serviceaccount:sa:reader", "get pods ns/p", true),
        ("system:serviceaccount:other:reader", "get pods ns/p", false),
        ("system:serviceaccount:ns:own", "create pods ns/", true),
    ] {
        let decision = access.authorize(&UserInfo::new(user, &[]), &request(text));
        assert_eq!(decision.allowed, expect, "{user}: {text}: {decision:?}");
    }
    let grouped = UserInfo::new("x", &["readers"]);
    assert!(access.authorize(&grouped, &request("get pods ns/p")).allowed);
}

#[test]
fn decisions_say_why() {
    let access = access();
    for (user, group, text, expect) in [
        (
            "reader",
            "",
            "get pods ns/p",
            r#"RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to User "reader""#,
        ),
        (
            "x",
            "readers",
            "get pods ns/p",
            r#"RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to Group "readers""#,
        ),
        (
            "writer",
            "",
            "create pods ns/",
            r#"RBAC: allowed by RoleBinding "writer/ns" of Role "writer" to User "writer""#,
        ),
        (
            "system:serviceaccount:sa:reader",
            "",
            "get pods ns/p",
            r#"RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to ServiceAccount "reader/sa""#,
        ),
        (
            "dangling",
            "",
            "get pods ns/p",
            r#"RBAC: clusterrole.rbac.authorization.k8s.io "nowhere" not found"#,
        ),
        ("stranger", "", "get pods ns/p", ""),
    ] {
        let groups: Vec<&str> = [group].into_iter().filter(|group| !group.is_empty()).collect();
        assert_eq!(access.authorize(&UserInfo::new(user, &groups), &request(text)).reason, expect);
    }
}

#[test]
fn what_is_taken_away_is_gone() {
    let access = access();
    let user = UserInfo::new("reader", &[]);
    let get = request("get pods ns/p");
    access.observe(&format!("clusterrolebindings.{GROUP}"), "", "reader", None);
    assert!(!access.authorize(&user, &get).allowed);
    let access = self::access();
    access.observe(&format!("clusterroles.{GROUP}"), "", "reader", None);
    assert!(!access.authorize(&user, &get).allowed);
    let access = self::access();
    let other = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "new"}]});
    access.observe(&format!("clusterrolebindings.{GROUP}"), "", "reader", Some(&other));
    assert!(!access.authorize(&user, &get).allowed);
    assert!(access.authorize(&UserInfo::new("new", &[]), &get).allowed);
}

#[test]
fn aggregated_roles_collect_by_label_also_in_chains_and_circles() {
    let access = Access::new();
    let role = |name: &str, label: &str, collects: &str, verb: &str| {
        let mut role = json!({"metadata": {"labels": {label: "true"}}});
        if collects.is_empty() {
            role["rules"] = json!([{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]);
        } else {
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {collects: "true"}}]});
        }
        access.observe(&format!("clusterroles.{GROUP}"), "", name, Some(&role));
    };
    role("admin", "none", "to-admin", "");
    role("edit", "to-admin", "to-edit", "");
    role("base", "to-edit", "", "get");
    role("circle-a", "c1", "c2", "");
    role("circle-b", "c2", "c1", "");
    role("circle-c", "c1", "", "list");
    for (role, verb) in [("admin", "get"), ("edit", "get"), ("circle-a", "list"), ("circle-b", "list")] {
        let rules = access.role_rules("ClusterRole", "", role).unwrap();
        assert_eq!(rules.len(), 1, "{role}");
        assert_eq!(rules[0].verbs, [verb], "{role}");
    }
    access.observe(&format!("clusterroles.{GROUP}"), "", "base", None);
    assert!(access.role_rules("ClusterRole", "", "admin").unwrap().is_empty());
}

#[test]
fn selectors_of_aggregation_know_expressions() {
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    for (selector, expect) in [
        (json!({}), true),
        (json!({"matchLabels": {"a": "1"}}), true),
        (json!({"matchLabels": {"a": "2"}}), false),
        (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), true),
        (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false),
        (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}), true),
        (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}), false),
        (json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}), true),
        (json!({"matchExpressions": [{"key": "b", "operator": "Frob"}]}), false),
    ] {
        assert_eq!(selects(&selector, &labels), expect, "{selector}");
    }
}

#[test]
fn nobody_grants_what_they_do_not_hold() {
    let access = access();
    let role = |rules: Value| json!({"metadata": {"name": "r", "namespace": "ns"}, "rules": rules});
    let pods = |verbs: &[&str]| json!([{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]);
    let binding = |role: &str| {
        json!({"metadata": {"name": "b", "namespace": "ns"}, "roleRef": {"kind": "ClusterRole", "name": role},
               "subjects": [{"kind": "User", "name": "somebody"}]})
    };
    for (user, resource, object, allowed) in [
        ("reader", "roles", role(pods(&["get"])), true),
        ("reader", "roles", role(pods(&["get", "list"])), true),
        ("reader", "roles", role(pods(&["delete"])), false),
        ("reader", "roles", role(pods(&["*"])), false),
        (
            "reader",
            "roles",
            role(
                json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}]),
            ),
            true,
        ),
        (
            "reader",
            "roles",
            role(json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"]}])),
            false,
        ),
        ("local-reader", "roles", role(pods(&["get"])), true),
        (
            "named",
            "roles",
            role(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}])),
            false,
        ),
        (
            "named",
            "roles",
            role(
                json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}]),
            ),
            true,
        ),
        ("all", "roles", role(pods(&["*"])), true),
        ("apps", "clusterroles", role(json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}])), false),
        (
            "urls",
            "clusterroles",
            role(json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/x"]}])),
            true,
        ),
        ("escalator", "roles", role(pods(&["*"])), true),
        ("reader", "rolebindings", binding("reader"), true),
        ("reader", "rolebindings", binding("all"), false),
        ("binder", "rolebindings", binding("all"), true),
        ("binder", "rolebindings", binding("reader"), false),
        ("escalator", "clusterrolebindings", binding("all"), true),
        ("all", "rolebindings", binding("all"), true),
    ] {
        let result = access.check_rbac_write(&UserInfo::new(user, &[]), resource, &object, None);
        assert_eq!(result.is_ok(), allowed, "{user} {resource} {object}: {result:?}");
    }
    let object = role(pods(&["delete"]));
    let user = UserInfo::new("reader", &[]);
    assert!(access.check_rbac_write(&user, "roles", &object, Some(&object)).is_ok(), "unchanged rules pass");
    let error =
        access.check_rbac_write(&user, "roles", &role(pods(&["delete", "create", "get"])), None).unwrap_err();
    assert_eq!(
        error.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"reader\" (groups=[\"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], \
         Verbs:[\"delete\" \"create\"]}"
    );
    let missing = access.check_rbac_write(&user, "rolebindings", &binding("nowhere"), None).unwrap_err();
    assert_eq!(missing.code, 404);
    let collects = json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
    assert_eq!(access.check_rbac_write(&user, "clusterroles", &collects, None).unwrap_err().code, 403);
    assert!(
        access
            .check_rbac_write(&UserInfo::new("m", &["system:masters"]), "clusterroles", &collects, None)
            .is_ok()
    );
}
