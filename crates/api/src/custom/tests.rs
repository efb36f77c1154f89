//! A definition and its objects.

use serde_json::json;

use super::*;

fn widget() -> Kind {
    let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"]},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {
                    "size": {"type": "integer", "minimum": 1, "default": 3},
                    "color": {"type": "string", "enum": ["red", "blue"]},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "map": {"type": "object", "additionalProperties": {"type": "string"}}}},
                "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}});
    kinds(&definition).remove(0)
}

#[test]
fn an_object_is_pruned_defaulted_and_checked() {
    let kind = widget();
    assert!(kind.has_status() && kind.is_stored_form());
    let mut object = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "d"},
        "extra": 1, "spec": {"unknown": 1, "free": {"x": {"y": 1}}, "map": {"k": "v"}}});
    kind.default(&mut object);
    assert_eq!(object["spec"], json!({"size": 3, "free": {"x": {"y": 1}}, "map": {"k": "v"}}));
    assert!(object.get("extra").is_none() && object["metadata"]["name"] == "a");
    kind.validate_create(&object).unwrap();
    assert_eq!(kind.table.row(&object, jiff::Timestamp::UNIX_EPOCH), [json!("a"), json!(3)]);
    for (spec, text) in [
        (json!({"size": 0}), "spec.size in body should be greater than or equal to 1"),
        (json!({"size": "x"}), "spec.size in body must be of type integer: \"string\""),
        (json!({"size": 1, "color": "green"}), "Unsupported value: \"green\""),
        (json!({"size": 1, "map": {"k": 1}}), "spec.map.k in body must be of type string"),
        (json!({}), "spec.size: Required value"),
    ] {
        object["spec"] = spec;
        let error = kind.validate_create(&object).unwrap_err();
        assert!(error.message.contains(text), "{}", error.message);
    }
}
