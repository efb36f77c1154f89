//! Admission webhooks, called over HTTPS by the server as a whole.

use serde_json::{Value, json};

use crate::hooks::{Hooks, patched, review};
use crate::kit::{Kit, kit};

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn hook(name: &str, client: Value, more: &Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    hook
}

async fn configure(kit: &Kit, path: &str, name: &str, hooks: &[Value]) {
    let answer = kit.post(path, &json!({"metadata": {"name": name}, "webhooks": hooks})).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"hook": "yes"}}, "data": {"a": "1"}})
}

#[tokio::test]
async fn a_mutating_webhook_sees_the_request_and_changes_the_object() {
    let (kit, hooks) = (kit().await, Hooks::start(&["127.0.0.1"]).await);
    hooks.on("/add", |body| patched(body, &json!([{"op": "add", "path": "/data/added", "value": "x"}])));
    configure(&kit, MUTATING, "m", &[hook("add", hooks.client("/add"), &Value::Null)]).await;
    let created = kit.post(&format!("{MAPS}?fieldManager=me"), &map("one")).await;
    assert_eq!(created.code, 201, "{}", created.text);
    assert_eq!(created.json()["data"], json!({"a": "1", "added": "x"}));

    let asked = hooks.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].headers["content-type"], "application/json");
    let request = &asked[0].body["request"];
    assert_eq!(asked[0].body["apiVersion"], "admission.k8s.io/v1");
    for (pointer, expect) in [
        ("/kind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("/requestKind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("/resource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("/requestResource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("/name", json!("one")),
        ("/namespace", json!("default")),
        ("/operation", json!("CREATE")),
        ("/userInfo/username", json!("kubernetes-admin")),
        ("/object/kind", json!("ConfigMap")),
        ("/object/data", json!({"a": "1"})),
        ("/oldObject", Value::Null),
        ("/dryRun", json!(false)),
        ("/options", json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})),
    ] {
        assert_eq!(request.pointer(pointer), Some(&expect), "{pointer}");
    }
    assert!(request["object"]["metadata"].get("uid").is_none(), "{request}");

    let generated = json!({"metadata": {"generateName": "g-"}, "data": {"a": "1"}});
    let generated = kit.post(&format!("{MAPS}?dryRun=All"), &generated).await.json();
    assert!(generated["metadata"]["name"].as_str().unwrap().starts_with("g-"), "{generated}");
    assert_eq!(generated["data"]["added"], "x");
    let request = &hooks.asked()[0].body["request"];
    assert_eq!((request.get("name"), &request["dryRun"]), (None, &json!(true)), "{request}");

    let own = format!("{MAPS}/one");
    let merge = ["Content-Type: application/merge-patch+json"];
    kit.send("PATCH", &own, &merge, r#"{"data":{"a":"2"}}"#).await;
    kit.send("DELETE", &format!("{own}?propagationPolicy=Background"), &[], "").await;
    let asked = hooks.asked();
    let of = |index: usize, pointer: &str| asked[index].body.pointer(&format!("/request{pointer}")).cloned();
    assert_eq!(of(0, "/operation"), Some(json!("UPDATE")));
    assert_eq!(of(0, "/oldObject/data/a"), Some(json!("1")));
    assert_eq!(of(0, "/object/data/a"), Some(json!("2")));
    assert_eq!(of(0, "/options/kind"), Some(json!("UpdateOptions")));
    assert_eq!(of(1, "/operation"), Some(json!("DELETE")));
    assert_eq!((of(1, "/object"), of(1, "/oldObject/data/a")), (Some(Value::Null), Some(json!("2"))));
    assert_eq!(of(1, "/options/propagationPolicy"), Some(json!("Background")));
    let peers: std::collections::HashSet<_> = asked.iter().map(|asked| asked.peer).collect();
    assert_eq!(peers.len(), 1, "connections are kept");
}

#[tokio::test]
async fn a_validating_webhook_refuses_warns_and_may_fail_open_or_closed() {
    let (kit, hooks) = (kit().await, Hooks::start(&["127.0.0.1"]).await);
    hooks.on("/deny", |body| {
        let bad = body["request"]["object"]["data"]["a"] == "bad";
        let status = json!({"message": "it is bad", "code": 403, "reason": "Forbidden"});
        review(body, json!({"allowed": !bad, "warnings": ["careful"], "status": status}))
    });
    hooks.on("/wrong", |_| Some(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"})));
    hooks.on("/silent", |_| None);
    let deny = hook("deny", hooks.client("/deny"), &Value::Null);
    configure(&kit, VALIDATING, "deny", &[deny]).await;
    let mut object = map("v");
    let good = kit.post(MAPS, &object).await;
    assert_eq!(good.code, 201, "{}", good.text);
    assert_eq!(good.headers["warning"], "299 - \"careful\"");
    object["metadata"]["name"] = json!("w");
    object["data"]["a"] = json!("bad");
    let bad = kit.post(MAPS, &object).await;
    assert_eq!(bad.code, 403);
    let status = bad.json();
    assert_eq!(status["message"], "admission webhook \"deny.example.com\" denied the request: it is bad");
    assert_eq!(status["reason"], "Forbidden");
    assert_eq!(kit.get(&format!("{MAPS}/w")).await.code, 404);
    kit.send("DELETE", &format!("{VALIDATING}/deny"), &[], "").await;

    let place = hooks.address;
    let nowhere = json!({"url": "https://127.0.0.1:1/x", "caBundle": hooks.bundle});
    let other = Hooks::start(&["127.0.0.1"]).await;
    let untrusted = json!({"url": format!("https://{place}/deny"), "caBundle": other.bundle});
    for (client, expect) in [
        (hooks.client("/wrong"), "received invalid webhook response: webhook response was absent".to_owned()),
        (
            hooks.client("/silent"),
            format!(
                "failed to call webhook: Post \"https://{place}/silent?timeout=1s\": context deadline exceeded"
            ),
        ),
        (
            nowhere,
            "failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=1s\": dial tcp: 127.0.0.1:1: "
                .to_owned(),
        ),
        (
            untrusted,
            format!(
                "failed to call webhook: Post \"https://{place}/deny?timeout=1s\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
            ),
        ),
    ] {
        for policy in ["Fail", "Ignore"] {
            let more = json!({"failurePolicy": policy, "timeoutSeconds": 1});
            configure(&kit, VALIDATING, "x", &[hook("x", client.clone(), &more)]).await;
            let answer = kit.post(&format!("{MAPS}?dryRun=All"), &map("z")).await;
            if policy == "Ignore" {
                assert_eq!(answer.code, 201, "{}", answer.text);
            } else {
                assert_eq!(answer.code, 500, "{}", answer.text);
                let start =
                    format!("Internal error occurred: failed calling webhook \"x.example.com\": {expect}");
                let message = answer.json()["message"].as_str().unwrap().to_owned();
                assert!(message.starts_with(&start), "{message}\n{start}");
            }
            kit.send("DELETE", &format!("{VALIDATING}/x"), &[], "").await;
        }
    }
}

#[tokio::test]
async fn webhooks_come_in_order_and_those_that_want_to_are_called_again() {
    let (kit, hooks) = (kit().await, Hooks::start(&["127.0.0.1"]).await);
    for path in ["/a", "/b"] {
        hooks.on(path, move |body| {
            let seen = body["request"]["object"]["data"]["seen"].as_str().unwrap_or_default().to_owned();
            let add = json!([{"op": "add", "path": "/data/seen", "value": format!("{seen}{}", &path[1..])}]);
            if seen.ends_with(&path[1..]) {
                review(body, json!({"allowed": true}))
            } else {
                patched(body, &add)
            }
        });
    }
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    configure(&kit, MUTATING, "m2", &[hook("b", hooks.client("/b"), &Value::Null)]).await;
    configure(&kit, MUTATING, "m1", &[hook("a", hooks.client("/a"), &again)]).await;
    let created = kit.post(MAPS, &map("one")).await.json();
    assert_eq!(created["data"]["seen"], "aba", "{created}");
    let paths: Vec<String> = hooks.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths, ["/a", "/b", "/a"]);
}

#[tokio::test]
async fn selectors_and_equivalent_kinds_decide_who_is_asked() {
    let (kit, hooks) = (kit().await, Hooks::start(&["127.0.0.1"]).await);
    hooks.on("/see", |body| review(body, json!({"allowed": true})));
    let labelled = json!({"objectSelector": {"matchLabels": {"hook": "yes"}},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}});
    let rules = json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"],
        "resources": ["horizontalpodautoscalers"]}]});
    let mut exact = rules.clone();
    exact["matchPolicy"] = json!("Exact");
    configure(
        &kit,
        VALIDATING,
        "v",
        &[
            hook("maps", hooks.client("/see"), &labelled),
            hook("scalers", hooks.client("/see"), &rules),
            hook("exact", hooks.client("/see"), &exact),
        ],
    )
    .await;
    let mut plain = map("plain");
    plain["metadata"].as_object_mut().unwrap().remove("labels");
    kit.post(MAPS, &plain).await;
    kit.post("/api/v1/namespaces/kube-system/configmaps", &map("elsewhere")).await;
    assert!(hooks.asked().is_empty());
    kit.post(MAPS, &map("here")).await;
    assert_eq!(hooks.asked().len(), 1);
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 70,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let made = kit.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", &scaler).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let asked = hooks.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let request = &asked[0].body["request"];
    assert_eq!(
        request["kind"],
        json!({"group": "autoscaling", "version": "v2", "kind": "HorizontalPodAutoscaler"})
    );
    assert_eq!(request["requestKind"]["version"], "v1");
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v2");
    assert_eq!(request["object"]["spec"]["metrics"][0]["resource"]["name"], "cpu", "{request}");

    // Configurations are nobody's business but their own.
    let all = json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]});
    configure(&kit, VALIDATING, "all", &[hook("all", hooks.client("/nothing"), &all)]).await;
    let removed = kit.send("DELETE", &format!("{VALIDATING}/all"), &[], "").await;
    assert_eq!(removed.code, 200, "{}", removed.text);
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_found_by_its_endpoints() {
    let (kit, hooks) = (kit().await, Hooks::start(&["s.default.svc"]).await);
    hooks.on("/scale", |body| {
        let replicas = body["request"]["object"]["spec"]["replicas"].as_i64().unwrap_or(0);
        patched(body, &json!([{"op": "replace", "path": "/spec/replicas", "value": replicas + 1}]))
    });
    let client = json!({"service": {"name": "s", "namespace": "default", "path": "/scale", "port": 8443}, "caBundle": hooks.bundle});
    let rules = json!({"rules": [{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["deployments/scale"]}]});
    configure(&kit, MUTATING, "s", &[hook("s", client, &rules)]).await;
    let labels = json!({"a": "b"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(kit.post(deployments, &deployment).await.code, 201);
    let merge = ["Content-Type: application/merge-patch+json"];
    let scale = format!("{deployments}/d/scale");
    let refused = kit.send("PATCH", &scale, &merge, r#"{"spec":{"replicas":4}}"#).await;
    assert_eq!(refused.code, 500);
    assert!(refused.text.contains("service \\\"s\\\" not found"), "{}", refused.text);

    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 8443, "targetPort": 1}]}});
    assert_eq!(kit.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    // Loopback is no address that a client may give an endpoint; the webhook server has no other.
    let endpoints = json!({"kind": "Endpoints", "apiVersion": "v1",
        "metadata": {"name": "s", "namespace": "default", "uid": "u"},
        "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": hooks.address.port()}]}]});
    let bytes = endpoints.to_string().replace("\"metadata\": {", "\"metadata\":{");
    let put = kit.store.put("/registry/endpoints/default/s", bytes.into(), store::Expect::Absent);
    put.await.unwrap();
    let scaled = kit.send("PATCH", &scale, &merge, r#"{"spec":{"replicas":4}}"#).await;
    assert_eq!(scaled.json()["spec"]["replicas"], 5, "{}", scaled.text);
    let request = &hooks.asked()[0].body["request"];
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&request["subResource"], &request["object"]["kind"]), (&json!("scale"), &json!("Scale")));
    assert_eq!(request["oldObject"]["spec"]["replicas"], 1);
}
