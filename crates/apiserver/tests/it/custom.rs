//! Custom kinds, from their definition to their end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Kit, kit};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// Reads `uri` until the answer is as wanted.
pub(crate) async fn until(kit: &Kit, uri: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
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

#[tokio::test]
async fn a_custom_kind_is_served_while_it_is_defined() {
    let kit = kit().await;
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"]},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1, "default": 3}}},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}});
    let created = kit.post(DEFINITIONS, &definition).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let own = format!("{DEFINITIONS}/widgets.example.com");
    until(&kit, &own, |_, definition| {
        definition["status"]["conditions"].as_array().is_some_and(|conditions| conditions.len() == 2)
    })
    .await;
    let discovered = kit.get("/apis/example.com/v1").await.json();
    assert_eq!(discovered["resources"][0]["shortNames"], json!(["wd"]));

    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
        "spec": {"unknown": 1}, "status": {"x": 1}});
    let created = kit.post(WIDGETS, &widget).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let created = created.json();
    assert_eq!((&created["spec"], created.get("status")), (&json!({"size": 3}), None));
    let merge = ["Content-Type: application/merge-patch+json"];
    let bad = kit.send("PATCH", &format!("{WIDGETS}/a"), &merge, r#"{"spec":{"size":0}}"#).await;
    assert_eq!(bad.code, 422, "{}", bad.text);
    let status = kit.send("PATCH", &format!("{WIDGETS}/a/status"), &merge, r#"{"status":{"x":2}}"#).await;
    assert_eq!(status.json()["status"]["x"], 2, "{}", status.text);
    let table = kit.send("GET", WIDGETS, &["Accept: application/json;as=Table;v=v1;g=meta.k8s.io"], "").await;
    assert_eq!(table.json()["rows"][0]["cells"][0], "a", "{}", table.text);

    kit.send("DELETE", &own, &[], "").await;
    until(&kit, &own, |code, _| code == 404).await;
    until(&kit, WIDGETS, |code, _| code == 404).await;
}
