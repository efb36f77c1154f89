//! Writes beyond the plain ones: graceful deletion, finalizers, services' addresses, scale, binding,
//! eviction, dry runs, strict fields.

use serde_json::{Value, json};

use crate::kit::{Kit, kit};

const DEFAULT: &str = "/api/v1/namespaces/default";

async fn account(kit: &Kit) {
    let answer =
        kit.post(&format!("{DEFAULT}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn create(kit: &Kit, uri: &str, object: &Value) -> Value {
    let answer = kit.post(uri, object).await;
    assert_eq!(answer.code, 201, "{uri}: {}", answer.text);
    answer.json()
}

async fn delete(kit: &Kit, uri: &str, options: &Value) -> (u16, Value) {
    let answer = kit.send("DELETE", uri, &["Content-Type: application/json"], &options.to_string()).await;
    (answer.code.as_u16(), answer.json())
}

#[tokio::test]
async fn a_placed_pod_ends_in_its_own_time() {
    let kit = kit().await;
    account(&kit).await;
    let pods = format!("{DEFAULT}/pods");
    create(&kit, &pods, &pod("unplaced")).await;
    let (code, gone) = delete(&kit, &format!("{pods}/unplaced"), &json!({})).await;
    assert_eq!((code, &gone["kind"], &gone["metadata"]["name"]), (200, &json!("Pod"), &json!("unplaced")));
    assert_eq!(kit.get(&format!("{pods}/unplaced")).await.code, 404);

    create(&kit, &pods, &pod("placed")).await;
    let binding = json!({"metadata": {"name": "placed"}, "target": {"kind": "Node", "name": "n1"}});
    create(&kit, &format!("{pods}/placed/binding"), &binding).await;
    let again = kit.post(&format!("{pods}/placed/binding"), &binding).await;
    assert_eq!(again.code, 409, "{}", again.text);
    let placed = kit.get(&format!("{pods}?fieldSelector=spec.nodeName%3Dn1")).await.json();
    assert_eq!(placed["items"][0]["status"]["conditions"][0]["type"], "PodScheduled");

    let (code, marked) = delete(&kit, &format!("{pods}/placed"), &json!({"gracePeriodSeconds": 7})).await;
    assert_eq!((code, &marked["kind"]), (200, &json!("Pod")));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    let (_, again) = delete(&kit, &format!("{pods}/placed"), &json!({"gracePeriodSeconds": 3})).await;
    assert_eq!(again["metadata"]["deletionGracePeriodSeconds"], 3);
    let wrong = json!({"preconditions": {"uid": "not-this-one"}, "gracePeriodSeconds": 0});
    assert_eq!(delete(&kit, &format!("{pods}/placed"), &wrong).await.0, 409);
    let (code, gone) = delete(&kit, &format!("{pods}/placed"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((code, &gone["kind"]), (200, &json!("Pod")));
    assert_eq!(kit.get(&format!("{pods}/placed")).await.code, 404);
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_until_it_is_taken() {
    let kit = kit().await;
    let maps = format!("{DEFAULT}/configmaps");
    create(&kit, &maps, &json!({"metadata": {"name": "a", "finalizers": ["example.com/keep"]}})).await;
    let (_, kept) = delete(&kit, &format!("{maps}/a"), &json!({})).await;
    assert!(kept["metadata"]["deletionTimestamp"].is_string());
    let patch = json!({"metadata": {"finalizers": ["example.com/keep", "example.com/more"]}});
    let merge = ["Content-Type: application/merge-patch+json"];
    let refused = kit.send("PATCH", &format!("{maps}/a"), &merge, &patch.to_string()).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let patch = json!({"metadata": {"finalizers": null}});
    let last = kit.send("PATCH", &format!("{maps}/a"), &merge, &patch.to_string()).await;
    assert_eq!(last.code, 200, "{}", last.text);
    assert_eq!(kit.get(&format!("{maps}/a")).await.code, 404);
}

#[tokio::test]
async fn services_made_at_once_get_different_addresses_and_ports() {
    let kit = kit().await;
    let services = format!("{DEFAULT}/services");
    let made = futures::future::join_all((0..40).map(|index| {
        let object = json!({"metadata": {"name": format!("s{index}")},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let (kit, services) = (&kit, &services);
        async move { create(kit, services, &object).await }
    }))
    .await;
    let distinct = |path: fn(&Value) -> &Value| {
        made.iter().map(|service| path(service).to_string()).collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(distinct(|service| &service["spec"]["clusterIP"]), 40);
    assert_eq!(distinct(|service| &service["spec"]["ports"][0]["nodePort"]), 40);
    let taken = made[0]["spec"]["clusterIP"].as_str().unwrap();
    let clash = json!({"metadata": {"name": "clash"}, "spec": {"clusterIP": taken, "ports": [{"port": 80}]}});
    let answer = kit.post(&services, &clash).await;
    assert_eq!(answer.code, 422);
    assert!(answer.text.contains("provided IP is already allocated"), "{}", answer.text);
    // What a service had is free again once it is gone.
    delete(&kit, &format!("{services}/s0"), &json!({})).await;
    create(&kit, &services, &clash).await;
}

#[tokio::test]
async fn the_own_service_comes_back() {
    let kit = kit().await;
    let uri = format!("{DEFAULT}/services/kubernetes");
    let before = kit.get(&uri).await.json()["metadata"]["uid"].clone();
    delete(&kit, &uri, &json!({})).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answer = kit.get(&uri).await;
        if answer.code == 200 {
            let service = answer.json();
            assert_ne!(service["metadata"]["uid"], before);
            assert_eq!(service["spec"]["clusterIP"], "10.3.0.1");
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the service did not come back");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn scale_is_a_view_of_the_replicas() {
    let kit = kit().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    create(&kit, uri, &deployment).await;
    let scale = kit.get(&format!("{uri}/web/scale")).await.json();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "a=b");
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(5);
    let put = ["Content-Type: application/json"];
    let answer = kit.send("PUT", &format!("{uri}/web/scale"), &put, &wanted.to_string()).await;
    assert_eq!(answer.json()["spec"]["replicas"], 5, "{}", answer.text);
    let stale = kit.send("PUT", &format!("{uri}/web/scale"), &put, &wanted.to_string()).await;
    assert_eq!(stale.code, 409, "{}", stale.text);
    let table = ["Accept: application/json;as=Table;g=meta.k8s.io;v=v1"];
    let table = kit.send("GET", &format!("{uri}/web/scale"), &table, "").await.json();
    let names: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"], "{table}");
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(5), json!(0)]);
    let merge = ["Content-Type: application/merge-patch+json"];
    let patched = kit.send("PATCH", &format!("{uri}/web/scale"), &merge, r#"{"spec":{"replicas":1}}"#).await;
    assert_eq!(patched.json()["spec"]["replicas"], 1, "{}", patched.text);
    let after = kit.get(&format!("{uri}/web")).await.json();
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(1), &json!(3)));
    // A status write changes the status and nothing else, and counts no generation.
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 1}});
    let merged = kit.send("PATCH", &format!("{uri}/web/status"), &merge, &status.to_string()).await.json();
    assert_eq!((&merged["spec"]["replicas"], &merged["status"]["replicas"]), (&json!(1), &json!(1)));
    assert_eq!(merged["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_budget_holds_evictions_back() {
    let kit = kit().await;
    account(&kit).await;
    let pods = format!("{DEFAULT}/pods");
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    create(&kit, budgets, &budget).await;
    let merge = ["Content-Type: application/merge-patch+json"];
    let generation = kit.get(&format!("{budgets}/b")).await.json()["metadata"]["generation"].clone();
    let status = json!({"status": {"disruptionsAllowed": 1, "observedGeneration": generation, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    kit.send("PATCH", &format!("{budgets}/b/status"), &merge, &status.to_string()).await;
    for (name, code) in [("one", 201), ("two", 429)] {
        create(&kit, &pods, &pod(name)).await;
        let running = json!({"status": {"phase": "Running"}});
        kit.send("PATCH", &format!("{pods}/{name}/status"), &merge, &running.to_string()).await;
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let answer = kit.post(&format!("{pods}/{name}/eviction"), &eviction).await;
        assert_eq!(answer.code, code, "{}", answer.text);
        if code == 429 {
            assert!(answer.text.contains("would violate the pod's disruption budget"), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_and_strict_fields_are_strict() {
    let kit = kit().await;
    let maps = format!("{DEFAULT}/configmaps");
    let answer = kit.post(&format!("{maps}?dryRun=All"), &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(answer.code, 201);
    assert_eq!(kit.get(&format!("{maps}/a")).await.code, 404);
    let odd = r#"{"metadata":{"name":"a","name":"a"},"dota":{}}"#;
    let json = ["Content-Type: application/json"];
    let strict = kit.send("POST", &format!("{maps}?fieldValidation=Strict"), &json, odd).await;
    assert_eq!(strict.code, 400, "{}", strict.text);
    assert!(
        strict.text.contains("unknown field") && strict.text.contains("duplicate field"),
        "{}",
        strict.text
    );
    let warned = kit.send("POST", &maps, &json, odd).await;
    assert_eq!((warned.code.as_u16(), warned.headers.get_all("warning").iter().count()), (201, 2));
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\ndata:\n  x: z\n";
    let answer =
        kit.send("POST", &maps, &["Content-Type: application/yaml", "Accept: application/yaml"], yaml).await;
    assert!(answer.code == 201 && answer.text.contains("x: z"), "{}", answer.text);
}

#[tokio::test]
async fn what_a_user_may_not_do_is_forbidden_in_upstreams_words() {
    let kit = kit().await;
    let bob = kit.server.local_client("bob", &[]);
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(bob, "default");
    let error = pods.list(&kube::api::ListParams::default()).await.unwrap_err().to_string();
    let text = r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert!(error.contains(text), "{error}");
    let review = json!({"spec": {"user": "bob", "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let answer = kit.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    assert_eq!(answer.json()["status"]["allowed"], false, "{}", answer.text);
    account(&kit).await;
    let token =
        kit.post(&format!("{DEFAULT}/serviceaccounts/default/token"), &json!({"spec": {}})).await.json();
    let review = json!({"spec": {"token": token["status"]["token"]}});
    let answer = kit.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.json();
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:default");
}

#[tokio::test]
async fn documents_and_discovery_are_there_in_every_form() {
    let kit = kit().await;
    for (uri, accept, text) in [
        ("/openapi/v2", "application/json", "io.k8s.api.core.v1.Pod"),
        ("/openapi/v3", "application/json", "apis/apps/v1"),
        ("/openapi/v3/apis/apps/v1", "application/json", "io.k8s.api.apps.v1.Deployment"),
        ("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "deployments"),
        ("/metrics", "*/*", "apiserver_storage_objects"),
        ("/openid/v1/jwks", "*/*", "ES256"),
        ("/api/v1/nodes", "application/json;as=Table;v=v1;g=meta.k8s.io", "columnDefinitions"),
        (
            "/api/v1/namespaces",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            "PartialObjectMetadata",
        ),
    ] {
        let answer = kit.send("GET", uri, &[&format!("Accept: {accept}")], "").await;
        assert_eq!(answer.code, 200, "{uri}");
        assert!(answer.text.contains(text), "{uri}: {}", &answer.text[..answer.text.len().min(500)]);
        if let Some(etag) = answer.headers.get("etag") {
            let known = format!("If-None-Match: {}", etag.to_str().unwrap());
            let again = kit.send("GET", uri, &[&format!("Accept: {accept}"), &known], "").await;
            assert_eq!(again.code, 304, "{uri}");
        }
    }
    assert_eq!(kit.send("GET", "/api/v1/nodes", &["Accept: text/html"], "").await.code, 406);
}

#[tokio::test]
async fn a_patch_that_does_not_fit_is_refused_in_the_words_of_its_language() {
    let kit = kit().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    create(&kit, uri, &deployment).await;
    for (language, patch, code, text) in [
        (
            "strategic-merge-patch",
            r#"{"spec":{"replicas":"many"}}"#,
            422,
            r#"patch: Invalid value: "map[spec:map[replicas:many]]": unrecognized type: int32"#,
        ),
        (
            "merge-patch",
            r#"{"spec":{"replicas":"many"}}"#,
            422,
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "json-patch",
            r#"[{"op":"test","path":"/spec/replicas","value":7}]"#,
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            "json-patch",
            r#"[{"op":"remove","path":"/spec/none"}]"#,
            422,
            "the server rejected our request due to an error in our request",
        ),
    ] {
        let kind = format!("Content-Type: application/{language}+json");
        let answer = kit.send("PATCH", &format!("{uri}/web"), &[&kind], patch).await;
        assert_eq!(answer.code, code, "{language}: {}", answer.text);
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with(text), "{language}: {message}");
    }
}

#[tokio::test]
async fn a_signing_request_says_who_made_it_and_nobody_else_can() {
    let kit = kit().await;
    let uri = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let params = rcgen::CertificateParams::default();
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let sent = json!({"metadata": {"name": "a"}, "spec": {"request": request, "signerName": "example.com/one",
        "usages": ["client auth"], "username": "somebody", "groups": ["system:masters"], "uid": "1",
        "extra": {"a": ["b"]}}});
    let made = kit.post(uri, &sent).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let me = kit.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.json();
    let (spec, me) = (&made.json()["spec"], &me["status"]["userInfo"]);
    for key in ["username", "uid", "groups", "extra"] {
        assert_eq!(spec.get(key), me.get(key), "{key}");
    }
    assert_ne!(spec["username"], "somebody");
}

#[tokio::test]
async fn a_deletion_answers_with_what_the_documents_say() {
    let kit = kit().await;
    for (uri, kind) in [
        ("/api/v1/namespaces/default/serviceaccounts", "ServiceAccount"),
        ("/api/v1/namespaces/default/configmaps", "Status"),
    ] {
        create(&kit, uri, &json!({"metadata": {"name": "a"}})).await;
        let gone = kit.send("DELETE", &format!("{uri}/a"), &[], "").await;
        assert_eq!((gone.code.as_u16(), &gone.json()["kind"]), (200, &json!(kind)), "{}", gone.text);
        assert_eq!(kit.get(&format!("{uri}/a")).await.code, 404);
    }
}
