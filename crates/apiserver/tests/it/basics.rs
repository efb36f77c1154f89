//! Creating, reading, changing and deleting.

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::kit::kit;

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "1"}})).unwrap()
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let kit = kit().await;
    let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
    let created = api.create(&PostParams::default(), &config_map("one")).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    let version = created.metadata.resource_version.clone().unwrap();

    let again = api.create(&PostParams::default(), &config_map("one")).await.unwrap_err();
    assert!(again.to_string().contains("configmaps \"one\" already exists"), "{again}");

    let mut read = api.get("one").await.unwrap();
    assert_eq!(read, created);
    read.data.as_mut().unwrap().insert("b".into(), "2".into());
    let replaced = api.replace("one", &PostParams::default(), &read).await.unwrap();
    assert_ne!(replaced.metadata.resource_version, Some(version));

    let stale = api.replace("one", &PostParams::default(), &created).await.unwrap_err();
    assert!(stale.to_string().contains("the object has been modified"), "{stale}");

    let patch = json!({"data": {"a": null, "c": "3"}});
    let patched = api.patch("one", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(json!(patched.data), json!({"b": "2", "c": "3"}));
    let unchanged = api.patch("one", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(unchanged.metadata.resource_version, patched.metadata.resource_version);

    let gone = api.delete("one", &DeleteParams::default()).await.unwrap();
    assert_eq!(gone.right().unwrap().status, Some(kube::core::response::StatusSummary::Success));
    assert_eq!(api.get_opt("one").await.unwrap(), None);
}

#[tokio::test]
async fn generated_names_differ() {
    let kit = kit().await;
    let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
    let mut object = config_map("x");
    object.metadata.name = None;
    object.metadata.generate_name = Some("web-".into());
    let first = api.create(&PostParams::default(), &object).await.unwrap().metadata.name.unwrap();
    let second = api.create(&PostParams::default(), &object).await.unwrap().metadata.name.unwrap();
    assert!(first.starts_with("web-") && first.len() == 9 && first != second);
}

#[tokio::test]
async fn pages_show_one_state_of_the_world() {
    let kit = kit().await;
    let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
    for index in 0..7 {
        api.create(&PostParams::default(), &config_map(&format!("m{index}"))).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!(first.items.len(), 3);
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    // What happens between two pages is not seen.
    api.create(&PostParams::default(), &config_map("m3a")).await.unwrap();
    api.delete("m4", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = api.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    let names: Vec<_> = second.items.iter().filter_map(|item| item.metadata.name.clone()).collect();
    assert_eq!(names, ["m3", "m4", "m5"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    let token = second.metadata.continue_.clone().unwrap();
    let third = api.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    assert_eq!(third.items.len(), 1);
    assert_eq!(third.metadata.continue_.unwrap_or_default(), "");
}

#[tokio::test]
async fn a_cluster_begins_with_its_own_service_and_namespaces() {
    let kit = kit().await;
    let services: Api<Service> = Api::namespaced(kit.client.clone(), "default");
    let service = services.get("kubernetes").await.unwrap();
    assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.3.0.1"));
    for uri in [
        "/api/v1/namespaces/kube-system",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/healthz",
        "/readyz?verbose",
        "/version",
        "/api",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
    ] {
        let answer = kit.get(uri).await;
        assert_eq!(answer.code, 200, "{uri}: {}", answer.text);
    }
}

#[tokio::test]
async fn failures_are_told_in_upstreams_words() {
    let kit = kit().await;
    let pods = "/api/v1/namespaces/default/pods";
    let cases = [
        ("GET", format!("{pods}/x"), "", 404, "pods \"x\" not found"),
        (
            "GET",
            "/apis/none.example.com/v1/things".into(),
            "",
            404,
            "the server could not find the requested resource",
        ),
        ("GET", "/nothing".into(), "", 404, "the server could not find the requested resource"),
        ("POST", pods.into(), "{", 400, "json parse error"),
        ("POST", pods.into(), "[]", 400, "not an object"),
        ("POST", pods.into(), r#"{"kind":"Service","apiVersion":"v1"}"#, 400, "cannot be handled as a Pod"),
        (
            "POST",
            pods.into(),
            r#"{"metadata":{"name":"a","namespace":"b"}}"#,
            400,
            "does not match the namespace",
        ),
        ("DELETE", format!("{pods}/x"), "", 404, "pods \"x\" not found"),
        (
            "PUT",
            format!("{pods}/x"),
            r#"{"metadata":{"name":"y"}}"#,
            400,
            "does not match the name on the URL",
        ),
        ("GET", format!("{pods}?labelSelector=a+in"), "", 400, "unable to parse requirement"),
        ("GET", format!("{pods}?fieldSelector=spec.foo=1"), "", 400, "field label not supported: spec.foo"),
        ("POST", "/api/v1/pods".into(), "{}", 405, "does not allow this method"),
    ];
    for (method, uri, body, code, text) in cases {
        let answer = kit.send(method, &uri, &["Content-Type: application/json"], body).await;
        assert_eq!(answer.code, code, "{method} {uri}: {}", answer.text);
        let status = answer.json();
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)));
        assert!(status["message"].as_str().unwrap().contains(text), "{method} {uri}: {}", answer.text);
        assert!(answer.headers.contains_key("audit-id"));
    }
    let large = format!(r#"{{"data":{{"a":"{}"}}}}"#, "x".repeat(4 << 20));
    let answer = kit.send("POST", "/api/v1/namespaces/default/configmaps", &[], &large).await;
    assert_eq!(answer.code, 413, "{}", answer.text);
}
