//! How upstream tells of a strategic merge patch whose result has a value of a wrong type: such a patch passes
//! through its converter of unstructured objects, which has words of its own, and is shown as Go prints a map.

use serde_json::Value;

/// Returns a value as Go's `%+v` prints it: `map[spec:map[replicas:many]]`.
#[must_use]
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let fields: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Returns what the converter says where the JSON decoder says `message`. What is not of types stays as it is.
#[must_use]
pub fn converter_text(message: &str) -> String {
    let taken_apart = message
        .strip_prefix("json: cannot unmarshal ")
        .and_then(|rest| Some((rest.split_once(" into ")?.0, rest.rsplit_once(" of type ")?.1)));
    let Some((found, wanted)) = taken_apart else { return message.to_owned() };
    let found = match found {
        "object" => "map",
        "array" => "slice",
        text if text.starts_with("number") && text.contains('.') => "float64",
        text if text.starts_with("number") => "int64",
        text => text,
    };
    match wanted {
        "string" if found == "int64" => "cannot convert int64 to string".into(),
        "int32" | "int64" if found == "float64" => format!("cannot convert float64 to {wanted}"),
        "string" | "bool" | "int32" | "int64" | "float64" => format!("unrecognized type: {wanted}"),
        _ if wanted.starts_with("[]") => format!("cannot restore slice from {found}"),
        _ if wanted.starts_with("map[") => format!("cannot restore map from {found}"),
        _ => format!("cannot restore struct from: {found}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_shown_as_go_prints_maps() {
        let patch =
            json!({"spec": {"replicas": "many", "paused": true, "x": null, "list": [1, "b", {"c": 1.5}]}});
        let text = "map[spec:map[list:[1 b map[c:1.5]] paused:true replicas:many x:<nil>]]";
        assert_eq!(go_text(&patch), text);
    }

    #[test]
    fn types_are_told_of_in_the_words_of_the_converter() {
        let field = |found: &str, wanted: &str| {
            format!(
                "json: cannot unmarshal {found} into Go struct field DeploymentSpec.spec.x of type {wanted}"
            )
        };
        for (found, wanted, text) in [
            ("string", "int32", "unrecognized type: int32"),
            ("bool", "string", "unrecognized type: string"),
            ("number", "string", "cannot convert int64 to string"),
            ("number 1.5", "int32", "cannot convert float64 to int32"),
            ("string", "[]v1.Container", "cannot restore slice from string"),
            ("array", "map[string]string", "cannot restore map from slice"),
            ("number", "v1.PodSpec", "cannot restore struct from: int64"),
        ] {
            assert_eq!(converter_text(&field(found, wanted)), text);
        }
        assert_eq!(converter_text("illegal base64 data"), "illegal base64 data");
    }
}
