//! From a request's body to a JSON value: JSON, YAML or protobuf; what strict decoding objects to is noted.

use api::status::{Reason, Status};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// The media types that bodies are read in.
pub(crate) const READ: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// A decoded body.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// What strict decoding objects to, such as `duplicate field "metadata.name"`; the last value counts.
    pub(crate) problems: Vec<String>,
}

/// Returns the media type of a request's body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let full = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    full.split(';').next().unwrap_or_default().trim()
}

/// Decodes an object.
pub(crate) fn object(headers: &HeaderMap, body: &Bytes) -> Result<Decoded, Status> {
    let decoded = match media_type(headers) {
        "" if headers.get(CONTENT_TYPE).is_some_and(|value| !value.is_empty()) => {
            return Err(Status::unsupported_media_type(&READ));
        }
        "" | "application/json" => json(body)?,
        "application/yaml" => yaml(body)?,
        "application/vnd.kubernetes.protobuf" => {
            let value = api::protobuf::decode(body).map_err(|error| no_type(&error.to_string()))?;
            Decoded { value, problems: Vec::new() }
        }
        _ => return Err(Status::unsupported_media_type(&READ)),
    };
    if !decoded.value.is_object() {
        return Err(no_type("not an object"));
    }
    for key in ["apiVersion", "kind"] {
        if decoded.value.get(key).is_some_and(|value| !value.is_string() && !value.is_null()) {
            return Err(no_type(&format!("json parse error: json: cannot unmarshal {key} into a string")));
        }
    }
    Ok(decoded)
}

/// Decodes JSON.
pub(crate) fn json(body: &[u8]) -> Result<Decoded, Status> {
    let (value, problems) =
        api::decode::parse(body).map_err(|error| no_type(&format!("json parse error: {error}")))?;
    Ok(Decoded { value, problems })
}

/// Decodes YAML; a duplicate key is an error there.
pub(crate) fn yaml(body: &[u8]) -> Result<Decoded, Status> {
    let text = std::str::from_utf8(body).map_err(|error| no_type(&format!("yaml is not UTF-8: {error}")))?;
    let value = serde_yaml::from_str(text)
        .map_err(|error| no_type(&format!("yaml parse error: {}", error.to_string().trim())))?;
    Ok(Decoded { value, problems: Vec::new() })
}

fn no_type(why: &str) -> Status {
    Status::new(400, Reason::BadRequest, format!("couldn't get version/kind; {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_noted_with_their_place() {
        let decoded = json(br#"{"a":1,"b":[{"c":1,"c":2}],"a":4}"#).unwrap();
        assert_eq!(decoded.value, serde_json::json!({"a": 4, "b": [{"c": 2}]}));
        assert_eq!(decoded.problems, [r#"duplicate field "b[0].c""#, r#"duplicate field "a""#]);
    }

    #[test]
    fn what_cannot_be_read_is_a_bad_request() {
        let deep = "[".repeat(100_000);
        for body in ["{", "{} {}", "nul", deep.as_str(), ""] {
            assert_eq!(json(body.as_bytes()).unwrap_err().code, 400, "{}", &body[..body.len().min(10)]);
        }
    }
}
