//! Which form an answer takes and which a body may have.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::kit::{Answer, Kit, kit};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

/// Sends an object in protobuf and asks for the answer in it.
async fn send(kit: &Kit, method: &str, uri: &str, object: &Value) -> Answer {
    let body = api::protobuf::encode(object).unwrap();
    let headers = [&*format!("Accept: {PROTOBUF}"), &*format!("Content-Type: {PROTOBUF}")];
    kit.send(method, uri, &headers, body).await
}

async fn read(kit: &Kit, uri: &str, accept: &str) -> Answer {
    kit.send("GET", uri, &[&format!("Accept: {accept}")], "").await
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

async fn custom_kind(kit: &Kit) {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    let answer =
        send(kit, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(
        answer.protobuf()["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    );
    let things = "/apis/example.com/v1/namespaces/default/things";
    crate::custom::until(kit, things, |code, _| code == 200).await;
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    assert_eq!(kit.post(things, &thing).await.code, 201);
}

#[tokio::test]
async fn the_accept_header_decides() {
    let kit = kit().await;
    custom_kind(&kit).await;
    assert_eq!(kit.post(MAPS, &map("a")).await.code, 201);
    let map = &format!("{MAPS}/a");
    let things = "/apis/example.com/v1/namespaces/default/things";
    let watch = &format!("{MAPS}?watch=true&timeoutSeconds=1");
    let json = "application/json";
    let only = "only the following media types are accepted: application/json, application/yaml, \
                application/vnd.kubernetes.protobuf";
    let streams = "only the following media types are accepted: application/json;stream=watch, \
                   application/vnd.kubernetes.protobuf;stream=watch";
    let p = PROTOBUF;
    for (uri, accept, code, content_type, text) in [
        (map.as_str(), "".to_owned(), 200, json, "ConfigMap"),
        (map, "*/*".into(), 200, json, "ConfigMap"),
        (map, "application/*;q=0.1".into(), 200, json, "ConfigMap"),
        (map, "application/yaml".into(), 200, "application/yaml", "kind: ConfigMap"),
        (map, "application/json;q=0.2,application/yaml;q=0.7".into(), 200, "application/yaml", "kind: "),
        (map, p.into(), 200, p, "k8s\0"),
        (map, format!("{p},{json}"), 200, p, "k8s\0"),
        (map, format!("{p};q=0.1,{json};q=0.2"), 200, json, "ConfigMap"),
        (map, "application/cbor,application/json".into(), 200, json, "ConfigMap"),
        (map, "application/cbor".into(), 406, json, only),
        (map, "text/html".into(), 406, json, only),
        (map, "application/json;as=Table;v=v9;g=meta.k8s.io".into(), 406, json, only),
        (map, "application/json;as=Pod;v=v1;g=meta.k8s.io".into(), 406, json, only),
        (map, format!("application/json;{TABLE}"), 200, json, "columnDefinitions"),
        (map, format!("application/yaml;{TABLE}"), 200, "application/yaml", "columnDefinitions:"),
        (map, format!("{p};{TABLE}"), 406, json, only),
        (map, format!("{p};{TABLE},{json};{TABLE},{json}"), 200, json, "columnDefinitions"),
        (map, format!("{p};{METADATA},{json};{METADATA}"), 200, p, "PartialObjectMetadata"),
        (
            MAPS,
            format!("{p};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            200,
            p,
            "PartialObjectMetadataList",
        ),
        (
            MAPS,
            format!("{p};as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io"),
            200,
            p,
            "meta.k8s.io/v1beta1",
        ),
        (MAPS, p.into(), 200, p, "ConfigMapList"),
        (watch, p.into(), 200, "application/vnd.kubernetes.protobuf;stream=watch", "ADDED"),
        (
            watch,
            format!("{p};stream=watch"),
            200,
            "application/vnd.kubernetes.protobuf;stream=watch",
            "ADDED",
        ),
        (watch, format!("{p};{METADATA}"), 200, "application/vnd.kubernetes.protobuf;stream=watch", "ADDED"),
        (watch, format!("{json};{METADATA}"), 200, json, "PartialObjectMetadata"),
        (watch, format!("{json};{TABLE}"), 200, json, "columnDefinitions"),
        (watch, "application/yaml".into(), 406, "application/yaml", streams),
        (watch, "application/cbor".into(), 406, json, streams),
        // Custom resources have no protobuf encoding, but their metadata has.
        (things, p.into(), 406, p, only),
        (things, format!("{p},{json}"), 200, json, "ThingList"),
        (
            things,
            format!("{p};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            200,
            p,
            "PartialObjectMetadataList",
        ),
        // Failures and discovery.
        ("/api/v1/namespaces/default/configmaps/none", p.into(), 404, p, "not found"),
        ("/api/v1/namespaces/default/configmaps/none", format!("{json};{TABLE}"), 404, json, "not found"),
        (
            "/api/v1/namespaces/default/configmaps/none",
            "application/yaml".into(),
            404,
            "application/yaml",
            "code: 404",
        ),
        ("/apis", p.into(), 200, p, "APIGroupList"),
        ("/apis/apps/v1", p.into(), 200, p, "APIResourceList"),
        ("/api", format!("{p},{json}"), 200, p, "APIVersions"),
        ("/apis", "text/html".into(), 406, json, only),
    ] {
        let answer = read(&kit, uri, &accept).await;
        assert_eq!(answer.code, code, "{uri} {accept}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], content_type, "{uri} {accept}: {}", answer.text);
        assert!(answer.text.contains(text), "{uri} {accept}: {}", answer.text);
    }
}

#[tokio::test]
async fn every_kind_of_read_says_in_protobuf_what_it_says_in_json() {
    let kit = kit().await;
    for kind in api::registry::builtin().iter().filter(|kind| kind.verbs.contains(&"list")) {
        let prefix = if kind.group.is_empty() { "/api".into() } else { format!("/apis/{}", kind.group) };
        let uri = format!("{prefix}/{}/{}", kind.version, kind.plural);
        let json = kit.get(&uri).await;
        if json.code != 200 {
            continue;
        }
        let protobuf = read(&kit, &uri, PROTOBUF).await;
        let mut expect = json.json();
        for item in expect["items"].as_array_mut().unwrap() {
            // What is nested says no version of its own.
            let item = item.as_object_mut().unwrap();
            item.remove("apiVersion");
            item.remove("kind");
        }
        if expect["items"] == json!([]) {
            expect.as_object_mut().unwrap().remove("items");
        }
        assert_eq!(protobuf.protobuf(), expect, "{uri}");
    }
}

#[tokio::test]
async fn objects_are_written_in_protobuf() {
    let kit = kit().await;
    let created = send(&kit, "POST", MAPS, &map("a")).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let mut object = created.protobuf();
    assert_eq!(object, kit.get(&format!("{MAPS}/a")).await.json());
    object["data"]["k"] = json!("w");
    let updated = send(&kit, "PUT", &format!("{MAPS}/a"), &object).await;
    assert_eq!((updated.code.as_u16(), &updated.protobuf()["data"]["k"]), (200, &json!("w")));
    let stale = send(&kit, "PUT", &format!("{MAPS}/a"), &object).await;
    assert_eq!((stale.code.as_u16(), &stale.protobuf()["reason"]), (409, &json!("Conflict")));
    let again = send(&kit, "POST", MAPS, &map("a")).await;
    let status = again.protobuf();
    assert_eq!((&status["details"]["name"], &status["details"]["kind"]), (&json!("a"), &json!("configmaps")));
    let accept = format!("Accept: {PROTOBUF}");
    let headers = [&*accept, "Content-Type: application/merge-patch+json"];
    let patched = kit.send("PATCH", &format!("{MAPS}/a"), &headers, r#"{"data":{"k":"x"}}"#).await;
    assert_eq!(patched.protobuf()["data"]["k"], "x");
    let uid = |uid: &str| json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    let refused = send(&kit, "DELETE", &format!("{MAPS}/a"), &uid("other")).await;
    assert_eq!(refused.code, 409, "{}", refused.text);
    let uid = uid(patched.protobuf()["metadata"]["uid"].as_str().unwrap());
    let deleted = send(&kit, "DELETE", &format!("{MAPS}/a"), &uid).await;
    assert_eq!((deleted.code.as_u16(), &deleted.protobuf()["status"]), (200, &json!("Success")));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let review = send(&kit, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
    assert_eq!(review.protobuf()["status"]["allowed"], true);
}

#[tokio::test]
async fn custom_resources_take_no_protobuf() {
    let kit = kit().await;
    custom_kind(&kit).await;
    let headers = [&*format!("Content-Type: {PROTOBUF}")];
    let body = api::protobuf::encode(&map("a")).unwrap();
    let answer = kit.send("POST", "/apis/example.com/v1/namespaces/default/things", &headers, body).await;
    assert_eq!(answer.code, 415, "{}", answer.text);
    assert!(answer.text.contains("accepted media types include: application/json, application/yaml"));
}

#[tokio::test]
async fn a_protobuf_watch_is_cut_into_events_by_their_length() {
    let kit = kit().await;
    assert_eq!(kit.post(MAPS, &map("a")).await.code, 201);
    let uri = format!("{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1");
    let request = http::Request::get(uri)
        .header("Accept", format!("{PROTOBUF};stream=watch"))
        .body(kube::client::Body::empty())
        .unwrap();
    let response = kit.client.send(request).await.unwrap();
    assert_eq!(kit.post(MAPS, &map("b")).await.code, 201);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let (mut rest, mut seen) = (&bytes[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (event, after) = after.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap());
        // An event is its type, a message around the object and that object.
        let at = event.windows(4).position(|window| window == b"k8s\0").unwrap();
        let object = api::protobuf::decode(&event[at..]).unwrap();
        let kind = std::str::from_utf8(&event[2..2 + usize::from(event[1])]).unwrap();
        seen.push(format!("{kind} {} {}", object["kind"], object["metadata"]["name"]));
        rest = after;
    }
    assert_eq!(
        seen,
        [r#"ADDED "ConfigMap" "a""#, r#"ADDED "ConfigMap" "b""#, r#"BOOKMARK "ConfigMap" null"#]
    );
}

#[tokio::test]
async fn people_get_lines_and_programs_do_not() {
    let kit = kit().await;
    for (uri, agent, pretty) in [
        ("/api/v1/namespaces/default", "kubectl/v1", false),
        ("/api/v1/namespaces/default", "curl/8.0", true),
        ("/api/v1/namespaces/default?pretty=false", "curl/8.0", false),
        ("/api/v1/namespaces/default?pretty=true", "kubectl/v1", true),
        ("/api/v1/namespaces/none?pretty=true", "kubectl/v1", true),
        ("/apis", "Mozilla/5.0 (X11)", true),
    ] {
        let answer = kit.send("GET", uri, &[&format!("User-Agent: {agent}")], "").await;
        assert_eq!(answer.text.starts_with("{\n  \""), pretty, "{uri} {agent}: {}", answer.text);
    }
}

#[tokio::test]
async fn yaml_goes_in_and_comes_out() {
    let kit = kit().await;
    let headers = ["Content-Type: application/yaml", "Accept: application/yaml"];
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: \"1\"\n  b: |\n    two\n    lines\n";
    let answer = kit.send("POST", MAPS, &headers, body).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert!(
        answer.text.contains("\n  a: '1'\n") || answer.text.contains("\n  a: \"1\"\n"),
        "{}",
        answer.text
    );
    let read = kit.get(&format!("{MAPS}/yaml")).await.json();
    assert_eq!(read["data"], json!({"a": "1", "b": "two\nlines\n"}));
}
