//! What the options of requests do: dry runs, strictness, deletions, pages.

use serde_json::{Value, json};

use crate::kit::{Kit, kit};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ONE: &str = "/api/v1/namespaces/default/configmaps/a";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "Content-Type: application/json";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// The revision of the whole store.
async fn revision(kit: &Kit) -> Value {
    kit.get(MAPS).await.json()["metadata"]["resourceVersion"].clone()
}

#[tokio::test]
async fn a_dry_run_answers_as_the_real_one_and_writes_nothing() {
    let kit = kit().await;
    assert_eq!(kit.post(MAPS, &map("a")).await.code, 201);
    assert_eq!(kit.post(DEPLOYMENTS, &deployment("d")).await.code, 201);
    assert_eq!(
        kit.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
            .await
            .code,
        201
    );
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(kit.post("/api/v1/namespaces/default/pods", &pod).await.code, 201);
    let space = json!({"metadata": {"name": "short-lived"}});
    assert_eq!(kit.post("/api/v1/namespaces", &space).await.code, 201);
    let before = revision(&kit).await;
    let one = format!("{DEPLOYMENTS}/d");
    let changed = {
        let mut map = map("a");
        map["data"]["k"] = json!("w");
        map.to_string()
    };
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "type": "NodePort"}});
    let generated = json!({"metadata": {"generateName": "g-"}});
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let merge = "Content-Type: application/merge-patch+json";
    let apply = "Content-Type: application/apply-patch+yaml";
    for (request, header, body, code, pointer, shown) in [
        (format!("POST {MAPS}"), JSON, map("b").to_string(), 201, "/metadata/name", json!("b")),
        (format!("POST {MAPS}"), JSON, generated.to_string(), 201, "/metadata/generateName", json!("g-")),
        (
            "POST /api/v1/namespaces/default/services".into(),
            JSON,
            service.to_string(),
            201,
            "/spec/type",
            json!("NodePort"),
        ),
        (
            "POST /api/v1/namespaces".into(),
            JSON,
            json!({"metadata": {"name": "n"}}).to_string(),
            201,
            "/metadata/name",
            json!("n"),
        ),
        (format!("PUT {ONE}"), JSON, changed, 200, "/data/k", json!("w")),
        (format!("PATCH {ONE}"), merge, r#"{"data":{"k":"x"}}"#.into(), 200, "/data/k", json!("x")),
        (
            format!("PATCH {ONE}"),
            "Content-Type: application/json-patch+json",
            r#"[{"op":"replace","path":"/data/k","value":"y"}]"#.into(),
            200,
            "/data/k",
            json!("y"),
        ),
        (
            format!("PATCH {ONE}"),
            "Content-Type: application/strategic-merge-patch+json",
            r#"{"data":{"k":"z"}}"#.into(),
            200,
            "/data/k",
            json!("z"),
        ),
        (
            format!("PATCH {MAPS}/new?fieldManager=m"),
            apply,
            map("new").to_string(),
            201,
            "/data/k",
            json!("v"),
        ),
        (
            format!("PATCH {ONE}?fieldManager=m&force=true"),
            apply,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "u"}}).to_string(),
            200,
            "/data/k",
            json!("u"),
        ),
        (
            format!("PATCH {one}/status"),
            merge,
            r#"{"status":{"replicas":3}}"#.into(),
            200,
            "/status/replicas",
            json!(3),
        ),
        (
            format!("PATCH {one}/scale"),
            merge,
            r#"{"spec":{"replicas":7}}"#.into(),
            200,
            "/spec/replicas",
            json!(7),
        ),
        (
            "POST /api/v1/namespaces/default/pods/p/binding".into(),
            JSON,
            binding.to_string(),
            201,
            "/status",
            json!("Success"),
        ),
        (
            "POST /api/v1/namespaces/default/pods/p/eviction".into(),
            JSON,
            json!({"metadata": {"name": "p"}}).to_string(),
            201,
            "/status",
            json!("Success"),
        ),
        (format!("DELETE {ONE}"), JSON, String::new(), 200, "/status", json!("Success")),
        (
            format!("DELETE {one}?propagationPolicy=Foreground"),
            JSON,
            String::new(),
            200,
            "/metadata/finalizers/0",
            json!("foregroundDeletion"),
        ),
        (format!("DELETE {MAPS}"), JSON, String::new(), 200, "/items/0/metadata/name", json!("a")),
        (
            "DELETE /api/v1/namespaces/short-lived".into(),
            JSON,
            String::new(),
            200,
            "/metadata/name",
            json!("short-lived"),
        ),
    ] {
        let (method, uri) = request.split_once(' ').unwrap();
        let uri = format!("{uri}{}dryRun=All", if uri.contains('?') { "&" } else { "?" });
        let answer = kit.send(method, &uri, &[header], &body).await;
        assert_eq!(answer.code, code, "{request}: {}", answer.text);
        assert_eq!(answer.json().pointer(pointer), Some(&shown), "{request}: {}", answer.text);
        assert_eq!(revision(&kit).await, before, "{request} wrote something");
    }
    // What cannot be, cannot be in a dry run either.
    assert_eq!(kit.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.code, 409);
    let body = r#"{"dryRun":["All"]}"#;
    assert_eq!(kit.send("DELETE", ONE, &[JSON], body).await.code, 200);
    assert_eq!(revision(&kit).await, before);
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_treated_as_asked() {
    let kit = kit().await;
    let body = r#"{"metadata":{"name":"NAME","nope":1},"data":{"a":"1","a":"2"},"extra":true}"#;
    for (index, (query, code, warnings)) in [
        ("", 201, 3),
        ("fieldValidation=Warn", 201, 3),
        ("fieldValidation=Ignore", 201, 0),
        ("fieldValidation=Strict", 400, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let body = body.replace("NAME", &format!("m{index}"));
        let answer = kit.send("POST", &format!("{MAPS}?{query}"), &[JSON], &body).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.text);
        let told: Vec<_> =
            answer.headers.get_all("warning").iter().map(|text| text.to_str().unwrap()).collect();
        assert_eq!(told.len(), warnings, "{query}: {told:?}");
        if code == 201 {
            assert_eq!(answer.json()["data"], json!({"a": "2"}), "the last value counts");
        } else {
            for problem in [
                "duplicate field \\\"data.a\\\"",
                "unknown field \\\"metadata.nope\\\"",
                "unknown field \\\"extra\\\"",
            ] {
                assert!(answer.text.contains(problem), "{}", answer.text);
            }
        }
        if warnings > 0 {
            assert!(told.contains(&"299 - \"unknown field \\\"extra\\\"\""), "{told:?}");
        }
    }
}

#[tokio::test]
async fn options_of_a_deletion_come_from_the_body_or_else_from_the_query() {
    let kit = kit().await;
    let create = async |name: &str| assert_eq!(kit.post(MAPS, &map(name)).await.code, 201);
    create("a").await;
    // A body speaks for all options: those in the query are not read beside it.
    let answer = kit
        .send("DELETE", &format!("{ONE}?dryRun=All"), &[JSON], r#"{"propagationPolicy":"Background"}"#)
        .await;
    assert_eq!(answer.code, 200);
    assert_eq!(kit.get(ONE).await.code, 404);
    create("a").await;
    for (query, body, finalizer) in [
        ("?propagationPolicy=Foreground", "", "foregroundDeletion"),
        ("", r#"{"orphanDependents":true}"#, "orphan"),
        (
            "",
            r#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Foreground"}"#,
            "foregroundDeletion",
        ),
        (
            "",
            r#"{"apiVersion":"meta.k8s.io/v1","kind":"DeleteOptions","propagationPolicy":"Orphan"}"#,
            "orphan",
        ),
    ] {
        let answer = kit.send("DELETE", &format!("{ONE}{query}"), &[JSON], body).await;
        assert_eq!(
            answer.json()["metadata"]["finalizers"],
            json!([finalizer]),
            "{query} {body}: {}",
            answer.text
        );
    }
    let uid = kit.get(ONE).await.json()["metadata"]["uid"].as_str().unwrap().to_owned();
    let merge = "Content-Type: application/merge-patch+json";
    let gone = kit.send("PATCH", ONE, &[merge], r#"{"metadata":{"finalizers":null}}"#).await;
    assert_eq!(gone.code, 200, "{}", gone.text);
    assert_eq!(kit.get(ONE).await.code, 404, "the last finalizer takes the object along");
    create("a").await;
    let stale = json!({"preconditions": {"uid": uid}}).to_string();
    let answer = kit.send("DELETE", ONE, &[JSON], &stale).await;
    assert_eq!(answer.code, 409, "{}", answer.text);
    assert!(answer.text.contains("Precondition failed: UID in precondition:"), "{}", answer.text);
}

#[tokio::test]
async fn a_list_that_took_too_long_can_be_continued_all_the_same() {
    let kit = kit().await;
    for name in ["a", "b", "c", "d"] {
        assert_eq!(kit.post(MAPS, &map(name)).await.code, 201);
    }
    let first = kit.get(&format!("{MAPS}?limit=2")).await.json();
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let selected = kit.get(&format!("{MAPS}?limit=2&labelSelector=%21x")).await.json();
    assert_eq!(selected["metadata"].get("remainingItemCount"), None, "selected ones are not counted");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let merge = "Content-Type: application/merge-patch+json";
    let filler = "x".repeat(100 << 10);
    for round in 0..220 {
        let patch = json!({"data": {"k": format!("{round}{filler}")}}).to_string();
        assert_eq!(kit.send("PATCH", ONE, &[merge], &patch).await.code, 200);
    }
    let expired = kit.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!(expired.code, 410, "{}", expired.text);
    let status = expired.json();
    assert_eq!(status["reason"], "Expired");
    assert!(status["message"].as_str().unwrap().starts_with("The provided continue parameter is too old"));
    let token = status["metadata"]["continue"].as_str().unwrap();
    let rest = kit.get(&format!("{MAPS}?limit=1&continue={token}")).await.json();
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
    let token = rest["metadata"]["continue"].as_str().unwrap();
    let last = kit.get(&format!("{MAPS}?limit=5&continue={token}")).await.json();
    assert_eq!(last["items"][0]["metadata"]["name"], "d");
    assert_eq!(
        last["metadata"]["resourceVersion"], rest["metadata"]["resourceVersion"],
        "one state from there on"
    );
    let old = kit.get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await;
    assert_eq!((old.code.as_u16(), &old.json()["reason"]), (410, &json!("Expired")));
    let ahead = kit.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(ahead.code, 504);
    assert_eq!(ahead.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(ahead.headers["retry-after"], "1");
}
