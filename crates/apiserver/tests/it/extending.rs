//! What other servers add: conversion of custom kinds, aggregated APIs; and what is written down of requests.

use std::time::Duration;

use apiserver::{ApiServer, Config, audit, testing};
use machinery::clock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::hooks::Hooks;
use crate::kit::{Kit, kit};

const MERGE: [&str; 1] = ["Content-Type: application/merge-patch+json"];

async fn until(kit: &Kit, uri: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let answer = kit.get(uri).await;
        let value: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        if wanted(answer.code.as_u16(), &value) {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{uri} stays at {}", answer.text);
        tokio::task::yield_now().await;
    }
}

/// Version v1 has `spec.host`, v2 has `spec.hosts`.
fn convert(body: &Value) -> Option<Value> {
    let wanted = body["request"]["desiredAPIVersion"].as_str().unwrap();
    let converted: Vec<Value> = body["request"]["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let mut object = object.clone();
            if object["spec"]["host"] == "bad" {
                return json!({});
            }
            object["apiVersion"] = wanted.into();
            object["spec"] = if wanted.ends_with("v1") {
                json!({"host": object["spec"]["hosts"].as_array().and_then(|hosts| hosts.first()).cloned()})
            } else {
                json!({"hosts": [object["spec"]["host"]]})
            };
            object
        })
        .collect();
    Some(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": body["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": converted}}))
}

#[tokio::test]
async fn a_webhook_converts_between_the_versions_of_a_custom_kind() {
    let (kit, hooks) = (kit().await, Hooks::start(&["127.0.0.1"]).await);
    hooks.on("/convert", convert);
    let version = |name: &str, storage: bool, property: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": property}}}}})
    };
    let definition = json!({"metadata": {"name": "sites.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"kind": "Site", "plural": "sites"},
        "versions": [version("v1", false, json!({"host": {"type": "string"}})),
            version("v2", true, json!({"hosts": {"type": "array", "items": {"type": "string"}}}))],
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": hooks.client("/convert"), "conversionReviewVersions": ["v1"]}}}});
    let made = kit.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let (old, new) =
        ("/apis/example.com/v1/namespaces/default/sites", "/apis/example.com/v2/namespaces/default/sites");
    until(&kit, old, |code, _| code == 200).await;
    let site = |host: &str, name: &str| json!({"apiVersion": "example.com/v1", "kind": "Site", "metadata": {"name": name}, "spec": {"host": host}});
    let created = kit.post(old, &site("a.b", "s")).await;
    assert_eq!(created.code, 201, "{}", created.text);
    assert_eq!(
        (&created.json()["apiVersion"], &created.json()["spec"]),
        (&json!("example.com/v1"), &json!({"host": "a.b"}))
    );
    let shown = kit.get(&format!("{new}/s")).await.json();
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]),
        (&json!("example.com/v2"), &json!({"hosts": ["a.b"]}))
    );
    let stored = kit
        .store
        .range(store::Range { prefix: "/registry/sites.example.com/".into(), ..store::Range::default() });
    let stored = stored.await.unwrap().entries;
    assert!(String::from_utf8_lossy(&stored[0].value).contains("\"hosts\":[\"a.b\"]"));
    let patched = kit.send("PATCH", &format!("{old}/s"), &MERGE, r#"{"spec":{"host":"c.d"}}"#).await;
    assert_eq!(patched.json()["spec"], json!({"host": "c.d"}), "{}", patched.text);
    let list = kit.get(old).await.json();
    assert_eq!(list["items"][0]["spec"], json!({"host": "c.d"}));
    let watch = kit.get(&format!("{old}?watch=1&timeoutSeconds=1")).await;
    assert!(watch.text.contains(r#""host":"c.d""#) && !watch.text.contains("hosts"), "{}", watch.text);
    let bad = kit.post(old, &site("bad", "bad")).await;
    assert_eq!(bad.code, 500);
    assert!(
        bad.text.contains(
            "conversion webhook for example.com/v1, Kind=Site failed: invalid converted object at index 0"
        ),
        "{}",
        bad.text
    );
}

#[tokio::test]
async fn another_server_serves_a_group_and_is_told_who_asks() {
    let (kit, hooks) = (kit().await, Hooks::start(&["things.default.svc"]).await);
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "other.example.com/v1", "resources": [
        {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"]},
        {"name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]});
    hooks.on("/apis/other.example.com/v1", move |_| Some(list.clone()));
    let object = json!({"metadata": {"name": "v1.other.example.com"}, "spec": {"group": "other.example.com", "version": "v1",
        "groupPriorityMinimum": 100, "versionPriority": 10, "caBundle": hooks.bundle,
        "service": {"name": "things", "namespace": "default", "port": 443}}});
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let made = kit.post(services, &object).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let own = format!("{services}/v1.other.example.com");
    let condition = |object: &Value, status: &str, reason: &str| {
        let one = &object["status"]["conditions"][0];
        one["type"] == "Available" && one["status"] == status && one["reason"] == reason
    };
    until(&kit, &own, |_, object| condition(object, "False", "ServiceNotFound")).await;
    let away = kit.get("/apis/other.example.com/v1/namespaces/default/things").await;
    assert_eq!(away.code, 503, "{}", away.text);

    let service = json!({"metadata": {"name": "things"}, "spec": {"ports": [{"port": 443}]}});
    assert_eq!(kit.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    // Loopback is no address that a client may give an endpoint; the played server has no other.
    let endpoints = format!(
        r#"{{"kind":"Endpoints","apiVersion":"v1","metadata":{{"name":"things","namespace":"default","uid":"u"}},"subsets":[{{"addresses":[{{"ip":"127.0.0.1"}}],"ports":[{{"port":{}}}]}}]}}"#,
        hooks.address.port()
    );
    kit.store
        .put("/registry/endpoints/default/things", endpoints.into(), store::Expect::Absent)
        .await
        .unwrap();
    until(&kit, &own, |_, object| condition(object, "True", "Passed")).await;
    hooks.asked();
    let answer = kit
        .send(
            "GET",
            "/apis/other.example.com/v1/namespaces/default/things?limit=5",
            &["X-Remote-User: root", "Authorization: Bearer x"],
            "",
        )
        .await;
    assert_eq!(
        answer.json()["answer to"],
        "/apis/other.example.com/v1/namespaces/default/things",
        "{}",
        answer.text
    );
    let asked = hooks.asked().into_iter().find(|asked| asked.path.ends_with("/things")).unwrap();
    let users: Vec<_> = asked.headers.get_all("x-remote-user").iter().collect();
    assert_eq!(users, ["kubernetes-admin"]);
    assert_eq!(asked.headers["x-remote-group"], "system:masters");
    assert!(asked.headers.get("authorization").is_none());

    let groups = kit.get("/apis").await.json();
    let group =
        groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "other.example.com");
    assert_eq!(group.unwrap()["preferredVersion"]["version"], "v1");
    let accept = ["Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"];
    let all = kit.send("GET", "/apis", &accept, "").await.json();
    let group =
        all["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "other.example.com");
    let version = &group.unwrap()["versions"][0];
    assert_eq!(version["freshness"], "Current");
    assert_eq!(version["resources"][0]["resource"], "things");
    assert_eq!(version["resources"][0]["subresources"][0]["subresource"], "status");
    let header =
        kit.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.json();
    assert!(header["data"]["requestheader-client-ca-file"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(header["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");

    kit.send("DELETE", &own, &[], "").await;
    until(&kit, "/apis/other.example.com/v1", |code, _| code == 404).await;
}

#[tokio::test]
async fn requests_are_written_down_as_the_policy_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let policy = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, resources: [{group: '', resources: [secrets]}]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], omitManagedFields: true}
- {level: Metadata, verbs: [watch]}
- {level: None}
";
    let settings = audit::Settings {
        policy: audit::Policy::parse(policy).unwrap(),
        log: audit::LogFile { path: path.clone(), max_bytes: 1 << 20, max_backups: 1 },
    };
    let tasks = Tasks::new(CancellationToken::new());
    let store = std::sync::Arc::new(store::MemoryStore::new());
    let config = Config { audit: Some(settings), ..testing::config() };
    let server =
        ApiServer::open(config, store, clock::system(), Random::from_os(), tasks.clone()).await.unwrap();
    let kit = Kit::of(server, tasks.clone());
    let maps = "/api/v1/namespaces/default/configmaps";
    kit.post(maps, &json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    kit.post("/api/v1/namespaces/default/secrets", &secret).await;
    kit.get(&format!("{maps}/none")).await;
    kit.get("/api/v1/pods").await;
    kit.get("/api/v1/pods?watch=1&timeoutSeconds=1").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let events = loop {
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if events.len() >= 5 {
            assert!(!text.contains("hunter2"));
            break events;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
        tokio::task::yield_now().await;
    };
    let [created, secret, missing, started, ended] = &events[..] else { panic!("{events:?}") };
    for (pointer, expect) in [
        ("/kind", json!("Event")),
        ("/level", json!("RequestResponse")),
        ("/stage", json!("ResponseComplete")),
        ("/verb", json!("create")),
        ("/requestURI", json!(maps)),
        ("/user/username", json!("kubernetes-admin")),
        ("/objectRef/resource", json!("configmaps")),
        ("/objectRef/namespace", json!("default")),
        ("/requestObject/data/a", json!("1")),
        ("/responseObject/metadata/name", json!("m")),
        ("/responseStatus/code", json!(201)),
        ("/annotations/authorization.k8s.io~1decision", json!("allow")),
    ] {
        assert_eq!(created.pointer(pointer), Some(&expect), "{pointer} {created}");
    }
    assert!(created["auditID"].as_str().is_some_and(|id| !id.is_empty()));
    assert_eq!((&secret["level"], secret.get("requestObject")), (&json!("Metadata"), None));
    assert_eq!(
        (&missing["responseStatus"]["code"], &missing["responseStatus"]["reason"]),
        (&json!(404), &json!("NotFound"))
    );
    assert_eq!((&started["stage"], &started["verb"]), (&json!("ResponseStarted"), &json!("watch")));
    assert_eq!((&ended["stage"], &ended["auditID"]), (&json!("ResponseComplete"), &started["auditID"]));
}

#[tokio::test]
async fn answers_say_which_flow_they_belong_to() {
    let kit = kit().await;
    let schema = kit.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt").await;
    let level =
        kit.get("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/exempt").await.json();
    assert_eq!(
        schema.headers["x-kubernetes-pf-flowschema-uid"],
        schema.json()["metadata"]["uid"].as_str().unwrap()
    );
    assert_eq!(
        schema.headers["x-kubernetes-pf-prioritylevel-uid"],
        level["metadata"]["uid"].as_str().unwrap()
    );
}
