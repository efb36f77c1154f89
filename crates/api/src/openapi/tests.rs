use std::io::Read;

use flate2::read::GzDecoder;

use super::*;
use crate::registry::builtin;

fn none(_: &Kind) -> Option<Value> {
    None
}

fn text(which: Which) -> Vec<u8> {
    let document = Documents::default().get(&which, builtin(), &none).unwrap();
    let mut text = Vec::new();
    GzDecoder::new(&document.gzip[..]).read_to_end(&mut text).unwrap();
    text
}

fn v3(group: &str, version: &str) -> Value {
    serde_json::from_slice(&text(Which::V3 { group: group.into(), version: version.into() })).unwrap()
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_of_every_document_leads_somewhere() {
    let mut documents = vec![serde_json::from_slice(&text(Which::V2Json)).unwrap()];
    for group in builtin().groups() {
        documents.extend(group.versions.iter().map(|version| v3(group.name, version)));
    }
    for document in documents {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

#[test]
fn patches_are_described_as_kubectl_looks_for_them() {
    for (group, path) in [
        ("", "/api/v1/namespaces/{namespace}/pods/{name}"),
        ("", "/api/v1/nodes/{name}"),
        ("apps", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"),
        ("apps", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"),
    ] {
        let patch = v3(group, "v1")["paths"][path]["patch"].clone();
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
        for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(names.contains(&name), "{path}: {name}");
        }
        assert!(
            patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object(),
            "{path}"
        );
    }
    let pods = &v3("", "v1")["paths"]["/api/v1/namespaces/{namespace}/pods"];
    let kind = json!({"group": "", "kind": "Pod", "version": "v1"});
    assert_eq!(pods["get"]["x-kubernetes-group-version-kind"], kind);
    assert_eq!(pods["post"]["operationId"], "createCoreV1NamespacedPod");
}

#[test]
fn schemas_carry_facts_and_texts() {
    let document = v3("", "v1");
    let schemas = &document["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    assert!(pod["description"].as_str().unwrap().starts_with("Pod is a collection of containers"));
    assert_eq!(
        pod["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.PodSpec"
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(containers["description"].as_str().unwrap().contains("containers"));
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    assert!(schemas["io.k8s.api.core.v1.PodList"]["x-kubernetes-group-version-kind"].is_array());
}

/// The length of every field of a message, by field number; panics when the bytes are no message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let varint = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => {
                varint(&mut bytes);
                found.push((tag >> 3, &[][..]));
            }
            1 => {
                found.push((tag >> 3, &bytes[..8]));
                bytes = &bytes[8..];
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                found.push((tag >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

#[test]
fn the_protobuf_document_says_what_the_json_document_says() {
    let json: Value = serde_json::from_slice(&text(Which::V2Json)).unwrap();
    let bytes = text(Which::V2Protobuf);
    let document = fields(&bytes);
    assert_eq!(document[0], (1, &b"2.0"[..]));
    let part = |number: u64| fields(document.iter().find(|(field, _)| *field == number).unwrap().1);
    let names = |part: &[(u64, &[u8])]| -> Vec<String> {
        part.iter().map(|(_, named)| String::from_utf8(fields(named)[0].1.to_vec()).unwrap()).collect()
    };
    let mut definitions = names(&part(9));
    definitions.sort();
    let mut expected: Vec<String> = json["definitions"].as_object().unwrap().keys().cloned().collect();
    expected.sort();
    assert_eq!(definitions, expected);
    let mut paths = names(&part(8));
    paths.sort();
    let mut expected: Vec<String> = json["paths"].as_object().unwrap().keys().cloned().collect();
    expected.sort();
    assert_eq!(paths, expected);
}

#[test]
fn documents_are_built_once_and_anew_when_kinds_change() {
    let documents = Documents::default();
    let which = Which::V3 { group: "apps".into(), version: "v1".into() };
    let first = documents.get(&which, builtin(), &none).unwrap();
    let again = documents.get(&which, builtin(), &none).unwrap();
    assert_eq!(first.gzip.as_ptr(), again.gzip.as_ptr());
    let mut other = builtin().clone();
    other.remove("apps", "v1", "deployments");
    assert_ne!(documents.get(&which, &other, &none).unwrap().etag, first.etag);
    assert!(
        documents.get(&Which::V3 { group: "nope".into(), version: "v1".into() }, &other, &none).is_none()
    );
    let index = v3_index(builtin(), &none);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", first.etag));
    assert!(index["paths"]["api/v1"].is_object());
}
