//! Server-side apply through the API.

use serde_json::{Value, json};

use crate::kit::{Answer, Kit, kit};

const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

async fn apply(kit: &Kit, query: &str, data: &Value) -> Answer {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let header = ["Content-Type: application/apply-patch+yaml"];
    kit.send("PATCH", &format!("{MAP}?{query}"), &header, &config.to_string()).await
}

#[tokio::test]
async fn managers_own_what_they_apply() {
    let kit = kit().await;
    let created = apply(&kit, "fieldManager=one", &json!({"x": "1", "y": "1"})).await;
    assert_eq!(created.code, 201, "{}", created.text);
    assert_eq!(created.json()["metadata"]["managedFields"][0]["manager"], "one");
    let again = apply(&kit, "fieldManager=one", &json!({"x": "1", "y": "1"})).await;
    assert_eq!(
        again.json()["metadata"]["resourceVersion"],
        created.json()["metadata"]["resourceVersion"],
        "applying the same again changes nothing"
    );
    let conflict = apply(&kit, "fieldManager=two", &json!({"x": "2"})).await;
    assert_eq!(conflict.code, 409);
    assert!(conflict.text.contains("conflict with \\\"one\\\""), "{}", conflict.text);
    assert_eq!(apply(&kit, "fieldManager=two&force=true", &json!({"x": "2"})).await.code, 200);
    // What a manager no longer applies goes, unless another one owns it too.
    let less = apply(&kit, "fieldManager=one", &json!({})).await;
    assert_eq!(less.json()["data"], json!({"x": "2"}), "{}", less.text);
    assert_eq!(apply(&kit, "", &json!({})).await.code, 422);
}

#[tokio::test]
async fn what_others_write_is_theirs_once_somebody_applied() {
    let kit = kit().await;
    apply(&kit, "fieldManager=one", &json!({"x": "1"})).await;
    let merge = ["Content-Type: application/merge-patch+json"];
    let patch = json!({"data": {"x": "3"}}).to_string();
    kit.send("PATCH", &format!("{MAP}?fieldManager=editor"), &merge, &patch).await;
    let conflict = apply(&kit, "fieldManager=one", &json!({"x": "1"})).await;
    assert_eq!(conflict.code, 409);
    assert!(conflict.text.contains("conflict with \\\"editor\\\""), "{}", conflict.text);
}

#[tokio::test]
async fn patches_of_the_same_object_at_once_all_get_through() {
    let kit = kit().await;
    apply(&kit, "fieldManager=one", &json!({})).await;
    let merge = ["Content-Type: application/merge-patch+json"];
    futures::future::join_all((0..20).map(|index| {
        let (kit, merge) = (&kit, &merge);
        async move {
            let patch = json!({"data": {format!("k{index}"): "v"}}).to_string();
            let answer = kit.send("PATCH", MAP, merge, &patch).await;
            assert_eq!(answer.code, 200, "{}", answer.text);
        }
    }))
    .await;
    assert_eq!(kit.get(MAP).await.json()["data"].as_object().unwrap().len(), 20);
}
