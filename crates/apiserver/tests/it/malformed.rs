//! More requests that make no sense: bodies of every encoding, headers, paths, options, patches, and kinds' own
//! rules. Each gets a `Status` with the right code and words, and nothing is written.

use futures::stream;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use crate::kit::{Kit, kit};

const CORE: &str = "/api/v1/namespaces/default";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SPACE: &str = "/api/v1/namespaces/default";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Sends each request and gathers what was not as it should be.
struct Trial {
    kit: Kit,
    before: Value,
    count: usize,
    wrong: Vec<String>,
}

impl Trial {
    async fn new() -> Self {
        let kit = kit().await;
        let before = Self::state(&kit).await;
        Self { kit, before, count: 0, wrong: Vec::new() }
    }

    /// The revision of the whole store is on every list.
    async fn state(kit: &Kit) -> Value {
        kit.get(MAPS).await.json()["metadata"]["resourceVersion"].clone()
    }

    async fn check(&mut self, request: &str, content: &str, body: impl AsRef<[u8]>, code: u16, text: &str) {
        self.check_with(request, &[&format!("Content-Type: {content}")], body, code, text).await;
    }

    async fn check_with(
        &mut self,
        request: &str,
        headers: &[&str],
        body: impl AsRef<[u8]>,
        code: u16,
        text: &str,
    ) {
        self.count += 1;
        let (method, uri) = request.split_once(' ').unwrap();
        let body = body.as_ref();
        let answer = self.kit.send(method, uri, headers, body).await;
        let status: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let told = status["kind"] == "Status" && status["code"] == code && status["status"] == "Failure";
        let said = status["message"].as_str().is_some_and(|message| message.contains(text));
        if answer.code != code || !told || !said {
            let body = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
            let got = &answer.text[..answer.text.len().min(300)];
            let uri = &uri[..uri.len().min(120)];
            self.wrong.push(format!(
                "{method} {uri} {headers:?} {body}\n  wanted {code} {text:?}, got {}: {got}",
                answer.code
            ));
        }
    }

    async fn end(self) -> usize {
        assert!(self.wrong.is_empty(), "{} of {}:\n{}", self.wrong.len(), self.count, self.wrong.join("\n"));
        assert_eq!(self.kit.get("/readyz").await.code, 200);
        assert_eq!(Self::state(&self.kit).await, self.before, "nothing was written");
        self.count
    }
}

#[tokio::test]
async fn bodies_in_json() {
    let mut trial = Trial::new().await;
    let post = &format!("POST {MAPS}");
    for (body, text) in [
        ("{'metadata':{}}", "json parse error"),
        ("{metadata:{}}", "json parse error"),
        (r#"{"metadata":{"name":"a"},}"#, "json parse error"),
        (r#"{"metadata":{"name":"a"}} {"metadata":{"name":"b"}}"#, "json parse error"),
        ("// comment\n{}", "json parse error"),
        ("\u{feff}{}", "json parse error"),
        (r#"{"metadata":{"name":"a","generation":NaN}}"#, "json parse error"),
        (r#"{"metadata":{"name":"a","generation":0x10}}"#, "json parse error"),
        (r#"{"metadata":{"name":"a","generation":01}}"#, "json parse error"),
        (r#"{"metadata":{"name":"a","generation":1e999}}"#, "json parse error"),
        (
            r#"{"metadata":{"name":"a","generation":99999999999999999999}}"#,
            "cannot be handled as a ConfigMap",
        ),
        (r#"{"metadata":{"name":"a","generation":1.5}}"#, "cannot unmarshal number 1.5"),
        ("{\"metadata\":{\"name\":\"a\nb\"}}", "json parse error"),
        (r#"{"metadata":{"name":"\x41"}}"#, "json parse error"),
        ("true", "couldn't get version/kind"),
        ("[[[[]]]]", "couldn't get version/kind"),
        (r#"{"kind":1}"#, ""),
        (r#"{"kind":"ConfigMap","apiVersion":["v1"]}"#, ""),
        (r#"{"metadata":[]}"#, "cannot be handled as a ConfigMap"),
        (r#"{"metadata":{"name":{"a":1}}}"#, "cannot unmarshal object into Go struct field"),
        (r#"{"metadata":{"name":"a","namespace":1}}"#, ""),
        (r#"{"metadata":{"name":"a","annotations":{"a":1}}}"#, "cannot unmarshal number"),
        (r#"{"metadata":{"name":"a","ownerReferences":{}}}"#, "cannot unmarshal object"),
        (r#"{"metadata":{"name":"a","finalizers":"x"}}"#, "cannot unmarshal string"),
        (r#"{"metadata":{"name":"a","creationTimestamp":"yesterday"}}"#, "parsing time \\\"yesterday\\\""),
        (r#"{"metadata":{"name":"a","creationTimestamp":5}}"#, "cannot unmarshal number"),
        (r#"{"metadata":{"name":"a","managedFields":"x"}}"#, "cannot unmarshal string"),
        (r#"{"metadata":{"name":"a"},"data":"x"}"#, "cannot unmarshal string"),
        (r#"{"metadata":{"name":"a"},"data":{"a":["x"]}}"#, "cannot unmarshal array"),
        (r#"{"metadata":{"name":"a"},"immutable":"yes"}"#, "cannot unmarshal string"),
        (r#"{"metadata":{"name":"a"},"binaryData":{"a":5}}"#, "cannot unmarshal number"),
    ] {
        trial.check(post, JSON, body, 400, &text.replace("\\\"", "\"")).await;
    }
    for depth in [1_000, 20_000, 200_000] {
        let body = format!(r#"{{"data":{}{}}}"#, "{\"a\":".repeat(depth), "}".repeat(depth));
        trial.check(post, JSON, body, 400, "").await;
    }
    trial.check(post, JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}", 400, "json parse error").await;
    trial.check(post, JSON, "\0\0\0\0", 400, "json parse error").await;
    let large = format!(r#"{{"metadata":{{"name":"a"}},"data":{{"a":"{}"}}}}"#, "x".repeat((1 << 20) + 1));
    trial.check(post, JSON, large, 422, "may not be more than 1048576 bytes").await;
    let large = "x".repeat(4 << 20);
    trial.check(post, JSON, large, 413, "limit is 3145728").await;
    let strict = &format!("POST {MAPS}?fieldValidation=Strict");
    trial.check(strict, JSON, r#"{"metadata":{"name":"a"},"x":1}"#, 400, "unknown field \"x\"").await;
    trial
        .check(
            strict,
            JSON,
            r#"{"metadata":{"name":"a","name":"a"}}"#,
            400,
            "duplicate field \"metadata.name\"",
        )
        .await;
    assert!(trial.end().await > 30);
}

#[tokio::test]
async fn bodies_in_yaml() {
    let mut trial = Trial::new().await;
    let post = &format!("POST {MAPS}");
    let ladder: String = ('b'..='z')
        .map(|letter| {
            let before = char::from(letter as u8 - 1);
            format!("{letter}: &{letter} [{}]\n", vec![format!("*{before}"); 20].join(","))
        })
        .collect();
    for body in [
        "a:\n\t- b".to_owned(),
        "a: [".into(),
        "a: \"b".into(),
        "a: &a [*a]".into(),
        "a: *nowhere".into(),
        "- a\n- b".into(),
        "just text".into(),
        "metadata: {name: a}\nmetadata: {name: b}".into(),
        "%YAML 9.9\n---\na: b: c".into(),
        "metadata:\n  name: [1".into(),
        format!("a: &a [x]\n{ladder}"),
        format!("a: {}", "{b: ".repeat(20_000)),
        "? ".repeat(5_000),
        "metadata:\n  name: a\ndata: {a: {b: c}}".into(),
        "metadata:\n  name: a\ndata: {a: 1}".into(),
    ] {
        trial.check(post, YAML, body, 400, "").await;
    }
    trial.check(post, YAML, b"a: \xff\xff", 400, "").await;
    trial.end().await;
}

#[tokio::test]
async fn bodies_in_protobuf() {
    let mut trial = Trial::new().await;
    let post = &format!("POST {MAPS}");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"a": "b"}},
        "data": {"k": "a value"}});
    let whole = api::protobuf::encode(&map).unwrap();
    // What is cut short is never taken for whole; the last four bytes of the envelope say nothing.
    for length in (0..whole.len() - 4).step_by(4) {
        trial.check(post, PROTOBUF, &whole[..length], 400, "").await;
    }
    let encode = |object: Value| api::protobuf::encode(&object).unwrap();
    let pod = encode(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}));
    trial.check(post, PROTOBUF, &pod, 400, "Pod in version \"v1\" cannot be handled as a ConfigMap").await;
    let nameless = encode(json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    trial.check(post, PROTOBUF, &nameless, 422, "name or generateName is required").await;
    let magic = |rest: &[u8]| [b"k8s\0", rest].concat();
    let envelope = |kind: &[u8], raw: &[u8]| {
        let meta = [&[10, 2][..], b"v1", &[18, u8::try_from(kind.len()).unwrap()], kind].concat();
        let raw = [&[18, u8::try_from(raw.len()).unwrap()][..], raw].concat();
        magic(&[&[10, u8::try_from(meta.len()).unwrap()][..], &meta, &raw].concat())
    };
    for (body, text) in [
        (b"k8s".to_vec(), "expected prefix"),
        (b"{}".to_vec(), "expected prefix"),
        (magic(&[0xff; 11]), ""),
        (magic(&[10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f]), "unexpected EOF"),
        (magic(&[3]), "wire type 3"),
        (magic(&[6]), "wire type 6"),
        (envelope(b"Nonsense", b""), "no kind \"Nonsense\" is registered"),
        (envelope(b"ConfigMap", &[10, 3, 10, 1, 0xff]), "UTF-8"),
        (envelope(b"ConfigMap", &[8, 1]), "a number stands where bytes are expected"),
        (envelope(b"ConfigMap", &[10, 2, 56, 0x80]), "unexpected EOF"),
        (envelope(&[0xff, 0xfe], b""), "UTF-8"),
    ] {
        trial.check(post, PROTOBUF, body, 400, text).await;
    }
    // Schemas within schemas, deeper than any that means something.
    let mut inner = vec![];
    for _ in 0..3_000 {
        let mut outer = vec![0xc2, 0x01];
        let mut length = inner.len();
        while length >= 0x80 {
            outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        outer.push(u8::try_from(length).unwrap());
        outer.extend(inner);
        inner = outer;
    }
    let definitions = "POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    trial.check(definitions, PROTOBUF, magic(&inner), 400, "").await;
    trial.check(&format!("DELETE {MAPS}/a"), PROTOBUF, magic(&[0xff]), 400, "").await;
    trial.check(&format!("PATCH {SPACE}"), PROTOBUF, &whole, 415, "accepted media types include").await;
    trial.check(post, "application/vnd.kubernetes.protobuf2", &whole, 415, "").await;
    assert!(trial.end().await > 25);
}

#[tokio::test]
async fn bodies_that_end_too_soon() {
    let kit = kit().await;
    let token = kit.token().await;
    for kind in [JSON, YAML, PROTOBUF] {
        let frames = stream::iter([
            Ok(http_body::Frame::data(bytes::Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}"))),
            Err(std::io::Error::other("connection reset")),
        ]);
        let request = http::Request::post(MAPS).header("Content-Type", kind).header("Authorization", &token);
        let request = request.body(StreamBody::new(frames)).unwrap();
        let response = tower::Service::call(&mut kit.server.service(), request).await.unwrap();
        assert_eq!(response.status(), 400, "{kind}");
    }
    assert_eq!(kit.get(MAPS).await.json()["items"], json!([]));
}

#[tokio::test]
async fn headers_and_paths() {
    let mut trial = Trial::new().await;
    let post = &format!("POST {MAPS}");
    let get = &format!("GET {MAPS}");
    let map = r#"{"metadata":{"name":"a"}}"#;
    for content in
        ["application/cbor", "application/xml", "multipart/form-data; boundary=x", "*/*", "json", ";;;"]
    {
        trial.check(post, content, map, 415, "accepted media types include: application/json").await;
    }
    for accept in [
        "application/cbor",
        "text/plain",
        "image/*",
        "application/json;as=Table;g=x;v=v1",
        "application",
        ";",
    ] {
        trial
            .check_with(get, &[&format!("Accept: {accept}")], "", 406, "only the following media types")
            .await;
    }
    trial
        .check_with(&format!("{get}?watch=true"), &["Accept: application/cbor-seq"], "", 406, "stream=watch")
        .await;
    let table = "Accept: application/json;as=Table;g=meta.k8s.io;v=v1";
    trial.check_with(&format!("{get}?includeObject=All"), &[table], "", 400, "includeObject").await;
    for path in [
        "/api",
        "/api/v1/namespaces/default/configmaps/../../../../etc/passwd",
        "/apis/apps/v1/%6eowhere",
        "/api/v1/namespaces/default/configmaps/a%2Fb",
        "/api/v1/namespaces/default/configmaps/a/b",
        "/api/v1/namespaces/default/configmaps/a/status",
        "/apis/apps",
        "/apis//v1",
        "/..;/api",
        "/api/v1/watch/nonsense",
        "/apis/apps/v2/deployments",
        "/apis/none.example.com/v1",
        "/api/v1/namespaces/x/y/z",
    ]
    .iter()
    .filter(|path| !matches!(**path, "/api" | "/apis/apps"))
    {
        trial.check(&format!("GET {path}"), JSON, "", 404, "").await;
    }
    trial.check(&format!("GET /{}", "a/".repeat(2_000)), JSON, "", 404, "").await;
    for request in [
        "PUT /api/v1/namespaces/default/configmaps",
        "PATCH /api/v1/configmaps",
        "POST /apis",
        "DELETE /version",
        "TRACE /api/v1/namespaces/default/configmaps",
        "FOO /api/v1/namespaces/default/configmaps",
        "POST /api/v1/namespaces/default/configmaps/a",
        "DELETE /api/v1/configmaps",
        "DELETE /api/v1/namespaces/default/pods/a/status",
    ] {
        trial.check(request, JSON, "{}", 405, "").await;
    }
    trial.end().await;
}

#[tokio::test]
async fn options() {
    let mut trial = Trial::new().await;
    let long = "m".repeat(129);
    for (query, code, text) in [
        ("limit=1e3", 400, "strconv.ParseInt: parsing \"1e3\": invalid syntax"),
        ("limit=99999999999999999999", 400, "strconv.ParseInt"),
        ("timeoutSeconds=soon", 400, "strconv.ParseInt: parsing \"soon\": invalid syntax"),
        ("watch=true&timeoutSeconds=1.5", 400, "strconv.ParseInt"),
        ("continue=%00", 400, "continue key is not valid"),
        ("continue=e30", 400, "continue key is not valid"),
        ("continue=eyJ2IjoidjkiLCJydiI6MSwic3RhcnQiOiJhIn0", 400, "does not recognize this encoded version"),
        ("resourceVersion=1.5", 400, "resourceVersion"),
        ("resourceVersion=1&resourceVersionMatch=Newest", 422, "Unsupported value: \"Newest\""),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422, "is forbidden for resourceVersion \"0\""),
        ("resourceVersion=999999", 504, "Too large resource version"),
        ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        ("watch=true&resourceVersionMatch=NotOlderThan", 422, "forbidden for watch unless sendInitialEvents"),
        (
            "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            422,
            "sendInitialEvents requires setting allowWatchBookmarks",
        ),
        ("labelSelector=a%3D%3D%3Db", 400, "found '=', expected: ',' or 'end of string'"),
        ("labelSelector=a%20in%20()b", 400, "found 'b', expected: ',' or 'end of string'"),
        ("labelSelector=-a", 400, "unable to parse requirement"),
        ("fieldSelector=data.k=v", 400, "field label not supported: data.k"),
        ("fieldSelector=metadata.name", 400, "invalid selector"),
    ] {
        trial.check(&format!("GET {MAPS}?{query}"), JSON, "", code, text).await;
    }
    let map = r#"{"metadata":{"name":"a"}}"#;
    for (query, text) in [
        ("dryRun=true".to_owned(), "dryRun: Unsupported value: \"true\": supported values: \"All\""),
        ("dryRun=All&dryRun=None".into(), "dryRun: Unsupported value: \"None\""),
        ("fieldValidation=strict".into(), "fieldValidation: Unsupported value: \"strict\""),
        (format!("fieldManager={long}"), "fieldManager: Too long: may not be more than 128 bytes"),
        (
            "fieldManager=a%07b".into(),
            "fieldManager: Invalid value: \"a\\ab\": should only contain printable characters",
        ),
    ] {
        trial.check(&format!("POST {MAPS}?{query}"), JSON, map, 422, text).await;
        trial.check(&format!("PUT {MAPS}/a?{query}"), JSON, map, 422, text).await;
    }
    for (query, code, text) in [
        ("gracePeriodSeconds=soon", 400, "strconv.ParseInt: parsing \"soon\": invalid syntax"),
        ("propagationPolicy=Sideways", 422, "propagationPolicy: Unsupported value: \"Sideways\""),
        ("propagationPolicy=Orphan&orphanDependents=true", 422, "cannot be both set"),
        ("dryRun=Maybe", 422, "dryRun: Unsupported value"),
    ] {
        trial.check(&format!("DELETE {SPACE}?{query}"), JSON, "", code, text).await;
    }
    for (body, code, text) in [
        ("{", 400, ""),
        ("[]", 400, ""),
        (r#"{"kind":"Status","apiVersion":"v1"}"#, 400, "cannot be converted to DeleteOptions"),
        (r#"{"dryRun":["Maybe"]}"#, 422, "dryRun: Unsupported value"),
        (r#"{"dryRun":"All"}"#, 400, ""),
        (r#"{"gracePeriodSeconds":1.5}"#, 400, ""),
        (r#"{"orphanDependents":true,"propagationPolicy":"Orphan"}"#, 422, "cannot be both set"),
        (r#"{"preconditions":{"uid":"other"}}"#, 409, "Precondition failed: UID in precondition: other"),
        (
            r#"{"preconditions":{"resourceVersion":"1"}}"#,
            409,
            "Precondition failed: ResourceVersion in precondition: 1",
        ),
        (r#"{"preconditions":[]}"#, 400, ""),
    ] {
        let scope = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
        trial.check(&format!("DELETE {scope}"), JSON, body, code, text).await;
    }
    trial.end().await;
}

#[tokio::test]
async fn patches() {
    let mut trial = Trial::new().await;
    let patch = &format!("PATCH {SPACE}");
    let many = format!("[{}]", vec![r#"{"op":"test","path":"/kind","value":"Namespace"}"#; 10_001].join(","));
    for (body, code, text) in [
        ("null", 400, ""),
        ("[1]", 400, ""),
        (r#"[{"op":"fly","path":"/a"}]"#, 400, ""),
        (r#"[{"op":"add"}]"#, 400, ""),
        (r#"[{"op":"add","path":"a","value":1}]"#, 400, ""),
        (r#"[{"op":"test","path":"/kind","value":"Pod"}]"#, 422, ""),
        (r#"[{"op":"replace","path":"/a/b/c","value":1}]"#, 422, ""),
        (r#"[{"op":"copy","from":"/none","path":"/a"}]"#, 422, ""),
        (r#"[{"op":"move","from":"/metadata","path":"/metadata/labels/x"}]"#, 422, ""),
        (r#"[{"op":"add","path":"/metadata/finalizers","value":"x"}]"#, 422, "cannot unmarshal string"),
        (r#"[{"op":"remove","path":"/metadata/name"}]"#, 422, ""),
        (&many, 413, "The allowed maximum operations in a JSON patch is 10000, got 10001"),
    ] {
        trial.check(patch, "application/json-patch+json", body, code, text).await;
    }
    for (body, code, text) in [
        ("1", 400, ""),
        ("nonsense", 400, ""),
        (r#"{"kind":"Pod"}"#, 422, "patch: Invalid value: "),
        (r#"{"apiVersion":"v9"}"#, 422, "Namespace in version \"v9\" cannot be handled as a Namespace"),
        (r#"{"metadata":{"namespace":"x"}}"#, 422, ""),
        (r#"{"metadata":{"labels":"x"}}"#, 422, "cannot unmarshal string"),
        (r#"{"metadata":{"labels":{"a b":"x"}}}"#, 422, "metadata.labels: Invalid value"),
        (r#"{"metadata":{"uid":"x"}}"#, 409, "Precondition failed: UID in precondition: x"),
        (r#"{"metadata":{"creationTimestamp":"never"}}"#, 422, "parsing time"),
    ] {
        trial.check(patch, "application/merge-patch+json", body, code, text).await;
    }
    for (body, code) in [
        (r#"{"metadata":{"$patch":"fly"}}"#, 422),
        (r#"{"spec":{"$retainKeys":"x"}}"#, 400),
        (r#"{"metadata":{"ownerReferences":[{"name":"without a uid"}]}}"#, 422),
        ("[]", 400),
    ] {
        trial.check(patch, "application/strategic-merge-patch+json", body, code, "").await;
    }
    let apply = &format!("PATCH {MAPS}/a?fieldManager=m");
    for (body, code, text) in [
        ("", 400, ""),
        ("a: [", 400, ""),
        ("kind: ConfigMap", 400, "invalid object type"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}", 400, ""),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: a}", 400, ""),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, managedFields: [{manager: x, operation: Apply}]}",
            400,
            "metadata.managedFields must be nil",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: [x]", 400, ""),
    ] {
        trial.check(apply, "application/apply-patch+yaml", body, code, text).await;
    }
    for content in ["application/json", "application/apply-patch+json", "text/plain", ""] {
        trial.check(patch, content, "{}", 415, "application/apply-patch+yaml").await;
    }
    trial.end().await;
}

#[tokio::test]
async fn kinds_own_rules() {
    let mut trial = Trial::new().await;
    let object = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
    for (spec, code, text) in [
        (json!({"ports": []}), 422, "spec.ports: Required value"),
        (json!({"ports": [{"port": 0}]}), 422, "spec.ports[0].port: Invalid value: 0"),
        (json!({"ports": [{"port": 70_000}]}), 422, "must be between 1 and 65535"),
        (
            json!({"ports": [{"port": 80, "nodePort": 80}], "type": "NodePort"}),
            422,
            "nodePort: Invalid value: 80",
        ),
        (json!({"ports": [{"port": 80}], "type": "Magic"}), 422, "spec.type: Unsupported value"),
        (json!({"ports": [{"port": 80}], "clusterIP": "nowhere"}), 422, "spec.clusterIPs[0]: Invalid value"),
        (json!({"ports": [{"port": 80, "protocol": "ICMP"}]}), 422, "protocol: Unsupported value"),
        (json!({"ports": [{"port": "80"}]}), 400, "cannot unmarshal string"),
        (json!({"ports": [{"port": 80}, {"port": 81}]}), 422, "spec.ports[0].name: Required value"),
        (json!({"type": "ExternalName"}), 422, "spec.externalName: Required value"),
    ] {
        trial.check(&format!("POST {SERVICES}"), JSON, object(spec), code, text).await;
    }
    let deployment = |container: Value| {
        object(json!({"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}}))
    };
    for (body, code, text) in [
        (object(json!({})), 422, "spec.selector: Required value"),
        (object(json!({"replicas": 1.5})), 400, "cannot unmarshal number 1.5"),
        (
            object(
                json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}),
            ),
            422,
            "does not match template `labels`",
        ),
        (deployment(json!({})), 422, "spec.template.spec.containers[0].name: Required value"),
        (deployment(json!({"name": "C", "image": "i"})), 422, "containers[0].name: Invalid value: \"C\""),
        (deployment(json!({"name": "c"})), 422, "containers[0].image: Required value"),
        (
            deployment(json!({"name": "c", "image": "i", "resources": {"limits": {"cpu": "1x"}}})),
            400,
            "quantities must match",
        ),
        (
            deployment(json!({"name": "c", "image": "i", "resources": {"limits": {"cpu": "-1"}}})),
            422,
            "must be greater than or equal to 0",
        ),
        (
            deployment(json!({"name": "c", "image": "i", "env": [{"name": "a=b"}]})),
            422,
            "env[0].name: Invalid value",
        ),
        (
            deployment(
                json!({"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            ),
            422,
            "volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            deployment(json!({"name": "c", "image": "i", "imagePullPolicy": "Maybe"})),
            422,
            "imagePullPolicy: Unsupported value",
        ),
        (
            deployment(json!({"name": "c", "image": "i", "ports": [{"containerPort": -1}]})),
            422,
            "containerPort: Invalid value: -1",
        ),
    ] {
        trial.check(&format!("POST {DEPLOYMENTS}"), JSON, body, code, text).await;
    }
    for (data, text) in [
        (json!({"data": {"a b": "x"}}), "data[a b]: Invalid value"),
        (json!({"data": {"..": "x"}}), "data[..]: Invalid value"),
        (json!({"data": {"a": "x"}, "binaryData": {"a": "AA=="}}), "duplicate of key present in"),
        (json!({"metadata": {"name": "a", "labels": {"a": "x".repeat(64)}}}), "must be no more than 63"),
        (
            json!({"metadata": {"name": "a", "annotations": {"a": "x".repeat(300 << 10)}}}),
            "metadata.annotations: Too long",
        ),
        (
            json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]}}),
            "ownerReferences[0].uid: Invalid value: \"\": must not be empty",
        ),
        (json!({"metadata": {"name": "a/b"}}), "a lowercase RFC 1123 subdomain"),
        (json!({"metadata": {"generateName": "A"}}), "metadata.generateName: Invalid value"),
    ] {
        let mut map = json!({"metadata": {"name": "a"}});
        map.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        trial.check(&format!("POST {MAPS}"), JSON, map.to_string(), 422, text).await;
    }
    for (uri, body, text) in [
        (
            format!("{CORE}/secrets"),
            json!({"type": "kubernetes.io/tls", "metadata": {"name": "a"}}),
            "data[tls.crt]: Required value",
        ),
        ("/api/v1/namespaces".into(), json!({"metadata": {"name": "a.b"}}), "must not contain dots"),
        (
            "/apis/batch/v1/namespaces/default/cronjobs".into(),
            json!({"metadata": {"name": "a"}, "spec": {"schedule": "never"}}),
            "spec.schedule: Invalid value",
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets".into(),
            json!({"metadata": {"name": "a"}, "spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            "minAvailable and maxUnavailable cannot be both set",
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers".into(),
            json!({"metadata": {"name": "a"}, "spec": {"minReplicas": 5, "maxReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "a", "apiVersion": "apps/v1"}}}),
            "must be greater than or equal to `minReplicas`",
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles".into(),
            json!({"metadata": {"name": "a"}, "rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            "rules[0].verbs: Required value",
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses".into(),
            json!({"metadata": {"name": "a"}}),
            "provisioner: Required value",
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses".into(),
            json!({"metadata": {"name": "a"}, "spec": {}}),
            "either `defaultBackend` or `rules` must be specified",
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".into(),
            json!({"metadata": {"name": "a"}, "spec": {"group": "b.c", "scope": "Cluster", "names": {"plural": "d", "kind": "D"}, "versions": []}}),
            "must be spec.names.plural+\".\"+spec.group",
        ),
    ] {
        trial.check(&format!("POST {uri}"), JSON, body.to_string(), 422, text).await;
    }
    trial.end().await;
}

#[tokio::test]
async fn subresources() {
    let mut trial = Trial::new().await;
    let merge = "application/merge-patch+json";
    for (request, content, body, code, text) in [
        (
            "GET /apis/apps/v1/namespaces/default/deployments/a/scale",
            JSON,
            "",
            404,
            "deployments.apps \"a\" not found",
        ),
        ("PUT /apis/apps/v1/namespaces/default/deployments/a/scale", JSON, "{", 400, ""),
        (
            "PATCH /apis/apps/v1/namespaces/default/deployments/a/scale",
            merge,
            r#"{"spec":{"replicas":1}}"#,
            404,
            "not found",
        ),
        (
            "PUT /api/v1/namespaces/default/pods/a/status",
            JSON,
            r#"{"metadata":{"name":"a"}}"#,
            404,
            "pods \"a\" not found",
        ),
        (
            "POST /api/v1/namespaces/default/pods/a/eviction",
            JSON,
            r#"{"metadata":{"name":"a"}}"#,
            404,
            "pods \"a\" not found",
        ),
        (
            "POST /api/v1/namespaces/default/pods/a/binding",
            JSON,
            r#"{"metadata":{"name":"a"}}"#,
            422,
            "target.name: Required value",
        ),
        ("POST /api/v1/namespaces/default/pods/a/binding", JSON, "[]", 400, ""),
        (
            "POST /api/v1/namespaces/default/serviceaccounts/a/token",
            JSON,
            "{}",
            404,
            "serviceaccounts \"a\" not found",
        ),
        ("POST /api/v1/namespaces/default/serviceaccounts/a/token", "text/plain", "{}", 415, ""),
        ("GET /api/v1/namespaces/default/pods/a/log", JSON, "", 404, "pods \"a\" not found"),
        ("POST /api/v1/namespaces/default/pods/a/exec?command=x", JSON, "", 404, "pods \"a\" not found"),
        ("GET /api/v1/namespaces/default/services/a/proxy/", JSON, "", 404, "services \"a\" not found"),
        (
            "PUT /api/v1/namespaces/default/finalize",
            JSON,
            r#"{"metadata":{"name":"other"}}"#,
            400,
            "does not match the name",
        ),
        ("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", JSON, "{}", 422, ""),
        ("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", JSON, r#"{"spec":"x"}"#, 400, ""),
    ] {
        trial.check(request, content, body, code, text).await;
    }
    trial.end().await;
}
