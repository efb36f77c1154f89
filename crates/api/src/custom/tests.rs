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

/// A kind whose `spec` has these rules and properties.
fn ruled(rules: serde_json::Value, properties: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"name": "rs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"kind": "R", "plural": "rs", "singular": "r", "listKind": "RList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules, "properties": properties}}}}}]}})
}

#[test]
fn rules_are_checked_on_every_write() {
    let definition = ruled(
        json!([
            {"rule": "self.min <= self.max", "message": "min must not be greater than max"},
            {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)"},
            {"rule": "self.max >= oldSelf.max", "message": "max may only grow", "fieldPath": ".max", "reason": "FieldValueForbidden"},
            {"rule": "!oldSelf.hasValue() || self.min == oldSelf.value().min", "optionalOldSelf": true},
            {"rule": "self.list.all(i, i.a < 5)"},
        ]),
        json!({"min": {"type": "integer"}, "max": {"type": "integer"},
            "list": {"type": "array", "default": [], "items": {"type": "object", "properties": {"a": {"type": "integer"}}}}}),
    );
    let kind = kinds(&definition).remove(0);
    let make = |min: i64, max: i64, a: i64| {
        json!({"apiVersion": "example.com/v1", "kind": "R", "metadata": {"name": "x", "namespace": "d", "resourceVersion": "1"},
            "spec": {"min": min, "max": max, "list": [{"a": a}]}})
    };
    for (old, new, expect) in [
        (None, make(1, 2, 1), ""),
        (
            None,
            make(3, 2, 1),
            "R.example.com \"x\" is invalid: spec: Invalid value: \"object\": min must not be greater than max",
        ),
        (
            None,
            make(1, 200, 1),
            "R.example.com \"x\" is invalid: spec: Invalid value: \"object\": max is 200",
        ),
        (
            None,
            make(1, 2, 9),
            "R.example.com \"x\" is invalid: spec: Invalid value: \"object\": failed rule: self.list.all(i, i.a < 5)",
        ),
        (Some(make(1, 5, 1)), make(1, 6, 1), ""),
        (
            Some(make(1, 5, 1)),
            make(1, 4, 1),
            "R.example.com \"x\" is invalid: spec.max: Forbidden: max may only grow",
        ),
        (
            Some(make(1, 5, 1)),
            make(2, 5, 1),
            "R.example.com \"x\" is invalid: spec: Invalid value: \"object\": failed rule: !oldSelf.hasValue() || self.min == oldSelf.value().min",
        ),
        // What is wrong already and stays as it is does not stand in the way of other changes.
        (Some(make(3, 2, 1)), make(3, 2, 1), ""),
    ] {
        let result = match old {
            None => kind.validate_create(&new),
            Some(old) => kind.validate_update(&new, &old, crate::registry::Part::Main),
        };
        assert_eq!(result.err().map(|status| status.message).unwrap_or_default(), expect, "{new}");
    }
    let missing = json!({"apiVersion": "example.com/v1", "kind": "R", "metadata": {"name": "x", "namespace": "d"}, "spec": {"min": 1, "list": []}});
    let message = kind.validate_create(&missing).unwrap_err().message;
    assert!(
        message.contains("spec: Invalid value: \"object\": no such key: max evaluating rule: min must not"),
        "{message}"
    );
    let expensive = json!({"apiVersion": "example.com/v1", "kind": "R", "metadata": {"name": "x", "namespace": "d"},
        "spec": {"min": "one", "max": 1, "list": []}});
    let message = kind.validate_create(&expensive).unwrap_err().message;
    assert!(
        message.contains("some validation rules were not checked because the object was invalid"),
        "{message}"
    );
}

#[test]
fn definitions_with_rules_that_cannot_hold_are_refused() {
    let kind =
        crate::registry::builtin().kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let properties = json!({"a": {"type": "integer"}, "set": {"type": "array", "items": {"type": "object",
        "x-kubernetes-validations": [{"rule": "self.x == oldSelf.x"}], "properties": {"x": {"type": "integer"}}}}});
    let plain = json!({"a": {"type": "integer"}});
    let place = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    for (rule, properties, expect) in [
        (json!({"rule": "self.a > 1"}), &plain, String::new()),
        (json!({"rule": "self.b > 1"}), &plain, format!("{place}.rule: Invalid value: \"self.b > 1\": compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b > 1\n | ....^")),
        (json!({"rule": "self.a >"}), &plain, format!("{place}.rule: Invalid value: \"self.a >\": compilation failed: ERROR: <input>:1:9: Syntax error: mismatched input '<EOF>'")),
        (json!({"rule": "self.a"}), &plain, format!("{place}.rule: Invalid value: \"self.a\": must evaluate to a bool")),
        (json!({"rule": ""}), &plain, format!("{place}.rule: Required value: rule is not specified")),
        (json!({"rule": "self.a > 1", "reason": "Because"}), &plain, format!("{place}.reason: Unsupported value: \"Because\": supported values: \"FieldValueDuplicate\", ")),
        (json!({"rule": "self.a > 1", "fieldPath": ".b"}), &plain, format!("{place}.fieldPath: Invalid value: \".b\": fieldPath must be a valid path")),
        (json!({"rule": "self.a > 1", "message": "a\nb"}), &plain, format!("{place}.message: Invalid value: \"a\\nb\": message must not contain line breaks")),
        (json!({"rule": "self.a > 1", "messageExpression": "self.a"}), &plain, format!("{place}.messageExpression: Invalid value: \"self.a > 1\": messageExpression compilation failed: must evaluate to a string")),
        (json!({"rule": "self.a > 1"}), &properties, "spec.validation.openAPIV3Schema.properties[spec].properties[set].items.x-kubernetes-validations[0].rule: Invalid value: \"self.x == oldSelf.x\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec].properties[set]".to_owned()),
    ] {
        let mut definition = ruled(json!([rule]), properties.clone());
        kind.default(&mut definition);
        let message = kind.validate_create(&definition).err().map(|status| status.message).unwrap_or_default();
        let found = message.replace("CustomResourceDefinition.apiextensions.k8s.io \"rs.example.com\" is invalid: ", "");
        assert!(found.starts_with(&expect) && found.is_empty() == expect.is_empty(), "{rule}\n{found}\n{expect}");
    }
}
