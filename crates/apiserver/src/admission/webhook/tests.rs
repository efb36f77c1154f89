use api::selector::Selector;
use serde_json::json;

use super::rules::{Matching, Rule};
use super::*;
use crate::access::UserInfo;
use crate::admission::GroupVersionKind;

/// Says whether a rule is for a request: `CREATE group/version/resource/subresource namespace/name`.
fn matches(rule: Value, request: &str) -> bool {
    let words: Vec<&str> = request.split(' ').collect();
    let [operation, what, place] = words[..] else { panic!("{request}") };
    let what: Vec<&str> = what.split('/').collect();
    let (namespace, name) = place.split_once('/').unwrap();
    let (user, mut object) = (UserInfo::new("u", &[]), json!({"metadata": {"name": name}}));
    let request = Request {
        user: &user,
        operation: match operation {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            "DELETE" => Operation::Delete,
            _ => Operation::Connect,
        },
        group: what[0],
        version: what[1],
        kind: GroupVersionKind::default(),
        descriptor: None,
        resource: what[2],
        subresource: what.get(3).copied().unwrap_or_default(),
        namespace,
        name,
        object: &mut object,
        old: None,
        options: Value::Null,
        generated: false,
        dry_run: false,
        warnings: Vec::new(),
        annotations: Vec::new(),
    };
    Rule::read_all(&[rule])[0].matches(&request, request.named())
}

#[test]
fn rules_match_as_upstreams_do() {
    let rule = |operations: &str, group: &str, resource: &str, scope: &str| {
        json!({"operations": operations.split(',').collect::<Vec<_>>(), "apiGroups": [group],
            "apiVersions": ["v1"], "resources": [resource], "scope": scope})
    };
    for (rule, request, expect) in [
        (rule("CREATE", "", "pods", "*"), "CREATE /v1/pods ns/a", true),
        (rule("CREATE", "", "pods", "*"), "UPDATE /v1/pods ns/a", false),
        (rule("CREATE,UPDATE", "", "pods", "*"), "UPDATE /v1/pods ns/a", true),
        (rule("*", "", "pods", "*"), "CONNECT /v1/pods ns/a", true),
        (rule("*", "", "pods", "*"), "CONNECT /v1/pods/exec ns/a", false),
        (rule("*", "", "pods/exec", "*"), "CONNECT /v1/pods/exec ns/a", true),
        (rule("*", "", "pods/*", "*"), "CONNECT /v1/pods/exec ns/a", true),
        (rule("*", "", "pods/*", "*"), "CREATE /v1/pods ns/a", true),
        (rule("*", "", "*", "*"), "CREATE /v1/pods ns/a", true),
        (rule("*", "", "*", "*"), "UPDATE /v1/pods/status ns/a", false),
        (rule("*", "", "*/status", "*"), "UPDATE /v1/pods/status ns/a", true),
        (rule("*", "", "*/*", "*"), "UPDATE /v1/pods/status ns/a", true),
        (rule("*", "*", "*", "*"), "CREATE apps/v1/deployments ns/a", true),
        (rule("*", "apps", "*", "*"), "CREATE /v1/pods ns/a", false),
        (rule("*", "*", "*", "*"), "CREATE apps/v1beta1/deployments ns/a", false),
        (rule("*", "*", "*", "Namespaced"), "CREATE /v1/pods ns/a", true),
        (rule("*", "*", "*", "Cluster"), "CREATE /v1/pods ns/a", false),
        (rule("*", "*", "*", "Namespaced"), "CREATE /v1/nodes /a", false),
        (rule("*", "*", "*", "Cluster"), "CREATE /v1/nodes /a", true),
        (rule("*", "*", "*", "Cluster"), "UPDATE /v1/namespaces /a", true),
        (rule("*", "*", "*", "Namespaced"), "UPDATE /v1/namespaces /a", false),
    ] {
        assert_eq!(matches(rule.clone(), request), expect, "{rule} {request}");
    }
    let mut named = rule("*", "*", "*", "*");
    named["resourceNames"] = json!(["a"]);
    assert!(matches(named.clone(), "DELETE /v1/pods ns/a"));
    assert!(!matches(named, "DELETE /v1/pods ns/b"));
}

#[test]
fn a_webhook_without_selectors_takes_everything() {
    let matching = Matching::of_webhook(&json!({"rules": []})).unwrap();
    assert!(matching.equivalent && matching.namespaces.is_everything() && matching.objects.is_everything());
    let matching =
        Matching::of_webhook(&json!({"objectSelector": {"matchLabels": {"a": "b"}}, "matchPolicy": "Exact"}));
    let matching = matching.unwrap();
    assert!(!matching.equivalent);
    assert_eq!(matching.objects.to_string(), Selector::parse("a=b").unwrap().to_string());
}
