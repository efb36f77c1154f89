//! Requests that make no sense: each gets a `Status` with the right code, and the server is alive and
//! unchanged afterwards.

use serde_json::json;

use crate::kit::kit;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn nonsense_is_answered_and_survived() {
    let kit = kit().await;
    let revision = async || kit.get(MAPS).await.json()["metadata"]["resourceVersion"].clone();
    let before = revision().await;
    let deep_json = format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    let deep_list = format!(r#"{{"data":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let deep_yaml = format!("a: {}", "[".repeat(5_000));
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        ('b'..='m')
            .map(|c| {
                let p = char::from(c as u8 - 1);
                format!("{c}: &{c} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n")
            })
            .collect::<String>()
    );
    let long_name = format!(r#"{{"metadata":{{"name":"{}"}}}}"#, "a".repeat(300));
    let json = "application/json";
    let merge = "application/merge-patch+json";
    let cases: Vec<(&str, String, &str, &str, u16)> = vec![
        // Bodies that are no objects.
        ("POST", MAPS.into(), json, "", 400),
        ("POST", MAPS.into(), json, "null", 400),
        ("POST", MAPS.into(), json, "1e999", 400),
        ("POST", MAPS.into(), json, "\"x\"", 400),
        ("POST", MAPS.into(), json, "{\"metadata\":", 400),
        ("POST", MAPS.into(), json, "{\"metadata\":{\"name\":\"a\"}} trailing", 400),
        ("POST", MAPS.into(), json, &deep_json, 400),
        ("POST", MAPS.into(), json, &deep_list, 400),
        ("POST", MAPS.into(), "application/yaml", &deep_yaml, 400),
        ("POST", MAPS.into(), "application/yaml", &bomb, 400),
        ("POST", MAPS.into(), "application/yaml", "a: b: c", 400),
        ("POST", MAPS.into(), "application/vnd.kubernetes.protobuf", "k8s\0\u{1}\u{1}\u{1}", 400),
        ("POST", MAPS.into(), "application/vnd.kubernetes.protobuf", "{}", 400),
        ("POST", MAPS.into(), "application/cbor", "{}", 415),
        ("POST", MAPS.into(), "text/plain", "{}", 415),
        // Metadata that cannot be.
        ("POST", MAPS.into(), json, "{}", 422),
        ("POST", MAPS.into(), json, r#"{"metadata":"x"}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":1}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"A"}}"#, 422),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a/b"}}"#, 422),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":".."}}"#, 422),
        ("POST", MAPS.into(), json, &long_name, 422),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a","labels":{"-":"x"}}}"#, 422),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a","labels":["x"]}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a","labels":{"a":1}}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a","finalizers":["no domain at all!"]}}"#, 422),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a","namespace":"elsewhere"}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"a"}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a"},"data":{"a":{"b":1}}}"#, 400),
        ("POST", MAPS.into(), json, r#"{"metadata":{"name":"a"},"binaryData":{"a":"not base64!"}}"#, 400),
        ("POST", "/api/v1/namespaces/none/configmaps".into(), json, r#"{"metadata":{"name":"a"}}"#, 404),
        // Kinds' own rules.
        ("POST", PODS.into(), json, r#"{"metadata":{"name":"a"},"spec":{}}"#, 403),
        ("POST", PODS.into(), json, r#"{"metadata":{"name":"a"},"spec":{"containers":"x"}}"#, 400),
        ("POST", DEPLOYMENTS.into(), json, r#"{"metadata":{"name":"a"},"spec":{"replicas":"three"}}"#, 400),
        (
            "POST",
            DEPLOYMENTS.into(),
            json,
            r#"{"metadata":{"name":"a"},"spec":{"replicas":99999999999}}"#,
            400,
        ),
        ("POST", DEPLOYMENTS.into(), json, r#"{"metadata":{"name":"a"},"spec":{"replicas":-1}}"#, 422),
        // Paths that are not there.
        ("GET", "/api/v2/pods".into(), json, "", 404),
        ("GET", "/api/v1/nonsense".into(), json, "", 404),
        ("GET", "/api/v1/namespaces/default/pods/a/b/c".into(), json, "", 404),
        ("GET", "/api/v1/namespaces/default/pods/a/nonsense".into(), json, "", 404),
        ("GET", "/api/v1/namespaces/default/nodes".into(), json, "", 404),
        ("GET", "/api/v1/pods/a".into(), json, "", 404),
        ("GET", "/apis/apps/v1/namespaces/default/deployments/..%2F..%2Fx".into(), json, "", 404),
        ("GET", "/api/v1/namespaces/default/pods/%00".into(), json, "", 404),
        ("GET", "/api/v1/namespaces/%FF/pods/x".into(), json, "", 404),
        ("GET", "//api//v1//nodes/x".into(), json, "", 404),
        ("GET", "/openapi/v9".into(), json, "", 404),
        ("GET", "/openapi/v3/apis/none/v1".into(), json, "", 404),
        ("GET", "/readyz/nonsense".into(), json, "", 404),
        // Verbs that do not fit.
        ("POST", "/version".into(), json, "{}", 405),
        ("POST", "/api/v1/configmaps".into(), json, "{}", 405),
        ("PUT", MAPS.into(), json, "{}", 405),
        ("PATCH", MAPS.into(), merge, "{}", 405),
        ("POST", format!("{MAPS}/a"), json, "{}", 405),
        ("DELETE", "/api/v1/namespaces".into(), json, "", 405),
        ("PUT", format!("{PODS}/a/binding"), json, "{}", 405),
        ("OPTIONS", MAPS.into(), json, "", 405),
        // Options that cannot be.
        ("GET", format!("{MAPS}?limit=x"), json, "", 400),
        ("GET", format!("{MAPS}?continue=nonsense"), json, "", 400),
        ("GET", format!("{MAPS}?resourceVersion=-1"), json, "", 400),
        ("GET", format!("{MAPS}?labelSelector=a%20in%20"), json, "", 400),
        ("GET", format!("{MAPS}?labelSelector=%25%25"), json, "", 400),
        ("GET", format!("{MAPS}?fieldSelector=nonsense"), json, "", 400),
        ("GET", format!("{MAPS}?resourceVersionMatch=Exact"), json, "", 422),
        ("GET", format!("{MAPS}?watch=true&sendInitialEvents=true"), json, "", 422),
        ("POST", format!("{MAPS}?dryRun=Some"), json, r#"{"metadata":{"name":"a"}}"#, 422),
        ("POST", format!("{MAPS}?fieldValidation=Loose"), json, r#"{"metadata":{"name":"a"}}"#, 422),
        // Changes of what is not there, or not so.
        ("PUT", format!("{MAPS}/a"), json, r#"{"metadata":{"name":"a"}}"#, 404),
        ("PUT", format!("{MAPS}/a"), json, r#"{"metadata":{"name":"b"}}"#, 400),
        ("PATCH", format!("{MAPS}/a"), merge, "{}", 404),
        ("PATCH", format!("{MAPS}/a"), json, "{}", 415),
        ("DELETE", format!("{MAPS}/a"), json, "", 404),
        ("DELETE", format!("{MAPS}/a"), json, r#"{"propagationPolicy":"Sideways"}"#, 422),
        ("DELETE", format!("{MAPS}/a"), json, r#"{"gracePeriodSeconds":"soon"}"#, 400),
        ("DELETE", format!("{MAPS}/a"), json, r#"{"kind":"Pod","apiVersion":"v1"}"#, 400),
        ("DELETE", "/api/v1/namespaces/default".into(), json, "", 403),
        // Patches of something that is there.
        ("PATCH", "/api/v1/namespaces/default".into(), merge, "[]", 400),
        ("PATCH", "/api/v1/namespaces/default".into(), merge, "{", 400),
        ("PATCH", "/api/v1/namespaces/default".into(), "application/json-patch+json", "{}", 400),
        (
            "PATCH",
            "/api/v1/namespaces/default".into(),
            "application/json-patch+json",
            r#"[{"op":"remove","path":"/none"}]"#,
            422,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/default".into(),
            "application/json-patch+json",
            r#"[{"op":"replace","path":"","value":1}]"#,
            422,
        ),
        ("PATCH", "/api/v1/namespaces/default".into(), merge, r#"{"metadata":{"uid":"other"}}"#, 409),
        (
            "PATCH",
            "/api/v1/namespaces/default".into(),
            merge,
            r#"{"metadata":{"resourceVersion":"99999"}}"#,
            409,
        ),
        ("PATCH", "/api/v1/namespaces/default".into(), merge, r#"{"metadata":{"name":"x"}}"#, 422),
        ("PATCH", "/api/v1/namespaces/default".into(), merge, r#"{"metadata":null}"#, 422),
        (
            "PATCH",
            "/api/v1/namespaces/default".into(),
            "application/apply-patch+yaml",
            "kind: Namespace",
            422,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/default?fieldManager=x".into(),
            "application/apply-patch+yaml",
            "kind: Namespace",
            400,
        ),
        ("PATCH", "/api/v1/namespaces/default?force=true".into(), merge, "{}", 422),
    ];
    let mut wrong = Vec::new();
    for (method, uri, content, body, code) in &cases {
        let answer = kit.send(method, uri, &[&format!("Content-Type: {content}")], body).await;
        let shown = format!("{method} {uri} {}", &body[..body.len().min(80)]);
        if answer.code != *code {
            wrong.push(format!("{shown}: {} instead of {code}: {}", answer.code, answer.text));
            continue;
        }
        let status = answer.json();
        if status["kind"] != json!("Status")
            || status["code"] != json!(code)
            || status["message"] == json!("")
        {
            wrong.push(format!("{shown}: {}", answer.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(kit.get("/readyz").await.code, 200);
    assert_eq!(revision().await, before, "nothing was written");
}
