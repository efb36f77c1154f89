//! Admission policies, match conditions and rules of custom kinds: expressions in CEL at work.

use serde_json::{Value, json};

use crate::hooks::{Hooks, review};
use crate::kit::{Kit, kit};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(kit: &Kit, path: &str, object: &Value) {
    let answer = kit.post(path, object).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

fn map(name: &str, size: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"size": size}})
}

#[tokio::test]
async fn validating_policies_deny_warn_and_take_parameters() {
    let kit = kit().await;
    let policy = json!({"metadata": {"name": "sizes"}, "spec": {
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": constraints(),
        "matchConditions": [{"name": "not-params", "expression": "object.metadata.name != 'limits'"}],
        "variables": [{"name": "size", "expression": "int(object.data.size)"}],
        "validations": [
            {"expression": "variables.size <= int(params.data.most)",
                "messageExpression": "'size must be at most ' + params.data.most", "reason": "Forbidden"},
            {"expression": "request.userInfo.username == 'kubernetes-admin' && authorizer.group('').resource('pods').namespace('default').check('create').allowed()"},
        ],
        "auditAnnotations": [{"key": "size", "valueExpression": "string(variables.size)"}]}});
    create(&kit, &format!("{GROUP}/validatingadmissionpolicies"), &policy).await;
    // A policy that is bound nowhere does nothing.
    create(&kit, MAPS, &map("before", "100")).await;
    create(&kit, MAPS, &json!({"metadata": {"name": "limits"}, "data": {"most": "5"}})).await;
    let binding = |name: &str, actions: &[&str], label: &str| {
        json!({"metadata": {"name": name}, "spec": {"policyName": "sizes", "validationActions": actions,
            "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"},
            "matchResources": {"objectSelector": {"matchExpressions": [{"key": "kind", "operator": label}]}}}})
    };
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    create(&kit, &bindings, &binding("deny", &["Deny"], "DoesNotExist")).await;
    create(&kit, &bindings, &binding("warn", &["Warn", "Audit"], "Exists")).await;

    create(&kit, MAPS, &map("small", "5")).await;
    let big = kit.post(MAPS, &map("big", "6")).await;
    assert_eq!(big.code, 403, "{}", big.text);
    let message = "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'sizes' with binding 'deny' denied \
                   request: size must be at most 5";
    assert_eq!((&big.json()["message"], &big.json()["reason"]), (&json!(message), &json!("Forbidden")));
    let bad = kit.post(MAPS, &map("bad", "x")).await;
    assert_eq!(bad.code, 422, "{}", bad.text);
    assert!(bad.text.contains("composited variable \\\"size\\\" fails to evaluate"), "{}", bad.text);
    let mut warned = map("warned", "7");
    warned["metadata"]["labels"] = json!({"kind": "x"});
    let warned = kit.post(MAPS, &warned).await;
    assert_eq!(warned.code, 201, "{}", warned.text);
    let text = "299 - \"Validation failed for ValidatingAdmissionPolicy 'sizes' with binding 'warn': size must be at most 5\"";
    assert_eq!(warned.headers["warning"], text);
    kit.send("DELETE", &format!("{MAPS}/limits"), &[], "").await;
    let lost = kit.post(MAPS, &map("small2", "5")).await;
    assert!(
        lost.text.contains("no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{}",
        lost.text
    );

    let wrong = json!({"metadata": {"name": "wrong"}, "spec": {"matchConstraints": constraints(),
        "validations": [{"expression": "obj.metadata.name == 'x'"}]}});
    let wrong = kit.post(&format!("{GROUP}/validatingadmissionpolicies"), &wrong).await;
    assert_eq!(wrong.code, 422);
    assert!(wrong.text.contains("spec.validations[0].expression: Invalid value: \\\"obj.metadata.name == 'x'\\\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'obj' (in container '')"), "{}", wrong.text);
}

#[tokio::test]
async fn mutating_policies_apply_and_patch() {
    let kit = kit().await;
    let policy = json!({"metadata": {"name": "m"}, "spec": {
    "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
    "failurePolicy": "Fail", "reinvocationPolicy": "Never",
    "matchConditions": [{"name": "once", "expression": "!has(object.metadata.labels) || !('seen' in object.metadata.labels)"}],
    "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{annotations: {'by': 'policy'}}, spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 'side:1'}]}}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/spec/replicas', value: object.spec.replicas + 1}, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"}},
    ]}});
    create(&kit, &format!("{GROUP}/mutatingadmissionpolicies"), &policy).await;
    let binding = json!({"metadata": {"name": "m"}, "spec": {"policyName": "m"}});
    create(&kit, &format!("{GROUP}/mutatingadmissionpolicybindings"), &binding).await;
    let labels = json!({"a": "b"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = kit.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let made = made.json();
    assert_eq!(made["spec"]["replicas"], 2);
    assert_eq!(made["metadata"]["annotations"], json!({"by": "policy", "a/b": "c"}));
    let names: Vec<&Value> = made["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(made["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"], "IfNotPresent");
}

#[tokio::test]
async fn match_conditions_decide_whether_a_webhook_is_called() {
    let (kit, hooks) = (kit().await, Hooks::start(&["127.0.0.1"]).await);
    hooks.on("/see", |body| review(body, json!({"allowed": true})));
    let configuration = |name: &str, expression: &str, policy: &str| {
        json!({"metadata": {"name": name}, "webhooks": [{"name": format!("{name}.b.c"), "clientConfig": hooks.client("/see"),
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": policy,
            "matchConditions": [{"name": "c", "expression": expression}],
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]})
    };
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    create(&kit, &path, &configuration("yes", "object.data.size == '1'", "Ignore")).await;
    create(&kit, MAPS, &map("two", "2")).await;
    assert!(hooks.asked().is_empty());
    create(&kit, MAPS, &map("one", "1")).await;
    assert_eq!(hooks.asked().len(), 1);
    create(&kit, &path, &configuration("no", "object.data.other == '1'", "Fail")).await;
    let refused = kit.post(MAPS, &map("three", "3")).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.text.contains("expression 'object.data.other == '1'' resulted in error: no such key: other"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn rules_of_a_custom_kind_hold_over_its_updates() {
    let kit = kit().await;
    let schema = |rule: &str| {
        json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [{"rule": rule, "message": "size may only grow"}],
            "properties": {"size": {"type": "integer"}}}}})
    };
    let definition = |rule: &str| {
        json!({"metadata": {"name": "boxes.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"kind": "Box", "plural": "boxes"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema(rule)}}]}})
    };
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let refused = kit.post(definitions, &definition("self.sizes > 1")).await;
    assert_eq!(refused.code, 422);
    assert!(refused.text.contains("undefined field 'sizes'"), "{}", refused.text);
    create(&kit, definitions, &definition("self.size >= oldSelf.size")).await;
    let boxes = "/apis/example.com/v1/namespaces/default/boxes";
    let object = json!({"apiVersion": "example.com/v1", "kind": "Box", "metadata": {"name": "b"}, "spec": {"size": 5}});
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while kit.get(boxes).await.code != 200 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    create(&kit, boxes, &object).await;
    let merge = ["Content-Type: application/merge-patch+json"];
    let own = format!("{boxes}/b");
    assert_eq!(kit.send("PATCH", &own, &merge, r#"{"spec":{"size":6}}"#).await.code, 200);
    let smaller = kit.send("PATCH", &own, &merge, r#"{"spec":{"size":4}}"#).await;
    assert_eq!(smaller.code, 422);
    assert_eq!(
        smaller.json()["message"],
        "Box.example.com \"b\" is invalid: spec: Invalid value: \"object\": size may only grow"
    );
}
