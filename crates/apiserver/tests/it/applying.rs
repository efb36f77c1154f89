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

/// Returns manager, operation, subresource and fields of each entry.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let show = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let paths = api::apply::Set::read(&entry["fieldsV1"]).paths().join(" ");
        format!("{} {} {} {paths}", text("manager"), text("operation"), text("subresource"))
    };
    entries.iter().map(show).collect()
}

fn agent(name: &str) -> String {
    format!("User-Agent: {name}/v1.2.3 (linux/amd64) kubernetes/abc")
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const ONE: &str = "/apis/apps/v1/namespaces/default/deployments/d";
const JSON: &str = "Content-Type: application/json";
const MERGE: &str = "Content-Type: application/merge-patch+json";

async fn deployment(kit: &Kit) -> Value {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = kit.send("POST", DEPLOYMENTS, &[JSON, &agent("creator")], deployment.to_string()).await;
    assert_eq!(created.code, 201, "{}", created.text);
    created.json()
}

#[tokio::test]
async fn creates_updates_and_patches_are_recorded() {
    let kit = kit().await;
    let created = deployment(&kit).await;
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!(entry["time"], created["metadata"]["creationTimestamp"]);
    assert_eq!((&entry["fieldsType"], &entry["apiVersion"]), (&json!("FieldsV1"), &json!("apps/v1")));
    let own = &managers(&created)[0];
    assert!(own.starts_with("creator Update  .spec.progressDeadlineSeconds .spec.replicas"), "{own}");

    let mut changed = created.clone();
    changed["spec"]["replicas"] = json!(2);
    changed["status"] = json!({"replicas": 7});
    let put = kit.send("PUT", ONE, &[JSON, &agent("putter")], changed.to_string()).await.json();
    assert!(managers(&put).contains(&"putter Update  .spec.replicas".to_owned()), "{:?}", managers(&put));
    assert!(
        managers(&put).iter().all(|entry| entry.starts_with("putter") || !entry.contains(".spec.replicas"))
    );

    for (content, manager, body, path) in [
        ("application/merge-patch+json", "merger", r#"{"metadata":{"labels":{"m":"1"}}}"#, "labels.m"),
        (
            "application/json-patch+json",
            "patcher",
            r#"[{"op":"add","path":"/metadata/labels/j","value":"1"}]"#,
            "labels.j",
        ),
        (
            "application/strategic-merge-patch+json",
            "strategist",
            r#"{"metadata":{"labels":{"s":"1"}}}"#,
            "labels.s",
        ),
    ] {
        let headers = [&*format!("Content-Type: {content}"), &*agent(manager)];
        let patched = kit.send("PATCH", ONE, &headers, body).await.json();
        let own = managers(&patched).into_iter().find(|entry| entry.starts_with(manager)).unwrap();
        assert!(own.ends_with(path), "{own}");
    }
}

#[tokio::test]
async fn writes_of_subresources_are_recorded_apart() {
    let kit = kit().await;
    deployment(&kit).await;
    let status = r#"{"status":{"replicas":3},"spec":{"replicas":9}}"#;
    let headers = [MERGE, &*agent("controller")];
    let patched = kit.send("PATCH", &format!("{ONE}/status"), &headers, status).await.json();
    assert!(
        managers(&patched).contains(&"controller Update status .status.replicas".to_owned()),
        "{patched}"
    );
    let scale = kit.send("PATCH", &format!("{ONE}/scale"), &headers, r#"{"spec":{"replicas":5}}"#).await;
    assert_eq!(scale.code, 200, "{}", scale.text);
    let after = kit.get(ONE).await.json();
    assert!(managers(&after).contains(&"controller Update scale .spec.replicas".to_owned()), "{after}");
    assert_eq!(after["spec"]["replicas"], 5);
    // Through a subresource the list itself cannot be changed.
    let edit = r#"{"metadata":{"managedFields":[{}]}}"#;
    let patched = kit.send("PATCH", &format!("{ONE}/status"), &headers, edit).await.json();
    assert_eq!(patched["metadata"]["managedFields"], after["metadata"]["managedFields"]);
}

#[tokio::test]
async fn a_list_of_one_empty_entry_ends_the_tracking() {
    let kit = kit().await;
    let created = deployment(&kit).await;
    // What changes nothing leaves no trace, and leaving the list out does not lose it.
    let mut same = created.clone();
    same["metadata"].as_object_mut().unwrap().remove("managedFields");
    let again = kit.send("PUT", ONE, &[JSON, &agent("nobody")], same.to_string()).await.json();
    assert_eq!(again, created);
    same["metadata"]["managedFields"] = json!([]);
    let again = kit.send("PUT", ONE, &[JSON, &agent("nobody")], same.to_string()).await.json();
    assert_eq!(again, created, "an empty list is as good as none");
    same["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Dance"}]);
    let again = kit.send("PUT", ONE, &[JSON, &agent("nobody")], same.to_string()).await.json();
    assert_eq!(again, created, "a list that makes no sense, too");
    let reset = kit.send("PATCH", ONE, &[MERGE], r#"{"metadata":{"managedFields":[{}]}}"#).await.json();
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let after = kit.send("PATCH", ONE, &[MERGE], r#"{"metadata":{"labels":{"z":"1"}}}"#).await.json();
    assert_eq!(after["metadata"].get("managedFields"), None);
}

#[tokio::test]
async fn kubectl_goes_over_from_applying_by_itself_to_the_server() {
    let kit = kit().await;
    let note = r#"{"apiVersion":"v1","data":{"x":"1","y":"1"},"kind":"ConfigMap","metadata":{"annotations":{},"name":"a"}}"#;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "1", "y": "1"}, "metadata": {
        "name": "a", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": note}}});
    let uri = "/api/v1/namespaces/default/configmaps?fieldManager=kubectl-client-side-apply";
    assert_eq!(kit.post(uri, &map).await.code, 201);
    let refused = apply(&kit, "fieldManager=argo", &json!({"x": "2"})).await;
    assert_eq!(refused.code, 409);
    assert!(refused.text.contains("\\\"kubectl-client-side-apply\\\" using v1"), "{}", refused.text);
    let applied = apply(&kit, "fieldManager=kubectl", &json!({"x": "2"})).await;
    assert_eq!(applied.code, 200, "{}", applied.text);
    let object = applied.json();
    assert_eq!(object["data"], json!({"x": "2", "y": "1"}));
    let note = object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    assert_eq!(serde_json::from_str::<Value>(note.unwrap()).unwrap()["data"], json!({"x": "2"}));
    let owners = managers(&object);
    assert_eq!(owners[0], "kubectl Apply  .data.x");
    assert!(owners[1].starts_with("kubectl-client-side-apply Update  .data .data.y"), "{owners:?}");
}
