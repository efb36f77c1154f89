//! `AdmissionReview`: what webhooks are asked and what they may answer.

use api::status::{Cause, Details, Reason, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::access::{list, text};
use crate::admission::{GroupVersionKind, Operation, Request};

/// A request in the form in which a webhook wants to see it: its own, or that of an equivalent kind.
pub(crate) struct Shown<'a> {
    pub(crate) kind: GroupVersionKind<'a>,
    pub(crate) version: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) object: &'a Value,
    pub(crate) old: Option<&'a Value>,
}

impl Operation {
    /// Returns the operation as rules and reviews name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

fn kind_value(kind: GroupVersionKind<'_>) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// Returns the `request` of a review; also what CEL expressions see as `request`.
pub(crate) fn request_value(request: &Request<'_>, shown: &Shown<'_>, uid: &str) -> Value {
    let mut value = json!({
        "uid": uid,
        "kind": kind_value(shown.kind),
        "resource": {"group": shown.group, "version": shown.version, "resource": shown.resource},
        "requestKind": kind_value(request.kind),
        "requestResource": {
            "group": request.group, "version": request.version, "resource": request.resource,
        },
        "operation": request.operation.as_str(),
        "userInfo": request.user.to_value(),
        "dryRun": request.dry_run,
        "options": request.options,
    });
    for (key, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.shown_name()),
        ("namespace", request.namespace),
    ] {
        if !text.is_empty() {
            value[key] = text.into();
        }
    }
    value
}

/// Returns the whole review for a webhook that speaks `version` (`v1` or `v1beta1`).
pub(crate) fn question(request: &Request<'_>, shown: &Shown<'_>, uid: &str, version: &str) -> Value {
    let mut value = request_value(request, shown, uid);
    value["object"] = shown.object.clone();
    value["oldObject"] = shown.old.cloned().unwrap_or_default();
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": value})
}

/// What a webhook answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    /// A JSON patch.
    pub(crate) patch: Option<Value>,
    /// Why it was denied: a `Status`, or `Null`.
    pub(crate) result: Value,
    pub(crate) warnings: Vec<String>,
    pub(crate) annotations: Vec<(String, String)>,
}

/// Reads the answer to the review `uid`.
///
/// # Errors
/// What is wrong with the answer, in upstream's words.
pub(crate) fn answer(review: &Value, uid: &str, version: &str, mutating: bool) -> Result<Answer, String> {
    let wanted = format!("admission.k8s.io/{version}");
    if review["apiVersion"] != wanted.as_str() || review["kind"] != "AdmissionReview" {
        return Err(format!(
            "expected webhook response of {wanted}, Kind=AdmissionReview, got {}, Kind={}",
            text(review, "/apiVersion"),
            text(review, "/kind")
        ));
    }
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let found = text(response, "/uid");
    if version == "v1" && found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    let patch = text(response, "/patch");
    let patch_type = response.get("patchType").and_then(Value::as_str);
    if !mutating && version == "v1" {
        if !patch.is_empty() {
            return Err("validating webhook may not return response.patch".into());
        }
        if patch_type.is_some() {
            return Err("validating webhook may not return response.patchType".into());
        }
    }
    let patch = match (patch, patch_type) {
        ("", None) => None,
        ("", Some("")) | (_, Some("")) => {
            return Err("webhook returned invalid response.patchType of \"\"".into());
        }
        ("", Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
        (_, None) if version == "v1" => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        (patch, None | Some("JSONPatch")) => {
            let bytes =
                STANDARD.decode(patch).map_err(|error| format!("response.patch is not base64: {error}"))?;
            let patch: Value = serde_json::from_slice(&bytes)
                .map_err(|error| format!("response.patch is no JSON patch: {error}"))?;
            patch.as_array().is_some_and(|operations| !operations.is_empty()).then_some(patch)
        }
        (_, Some(other)) => return Err(format!("unsupported patch type {other:?}")),
    };
    Ok(Answer {
        allowed: response["allowed"].as_bool().unwrap_or(false),
        patch,
        result: response["status"].clone(),
        warnings: list(response, "/warnings").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: response["auditAnnotations"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

/// Returns the refusal of a webhook as the client is told it.
pub(crate) fn denied(webhook: &str, result: &Value) -> Status {
    let by = format!("admission webhook {webhook:?} denied the request");
    let message = match (text(result, "/message"), text(result, "/reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..=599).contains(code)).unwrap_or(400);
    let mut status = Status::new(code, Reason::parse(text(result, "/reason")), message);
    let details = &result["details"];
    if details.is_object() {
        let part = |key: &str| details[key].as_str().unwrap_or_default().to_owned();
        status.details = Some(Box::new(Details {
            name: part("name"),
            group: part("group"),
            kind: part("kind"),
            uid: part("uid"),
            causes: list(details, "/causes")
                .iter()
                .map(|cause| Cause {
                    reason: text(cause, "/reason").to_owned(),
                    message: text(cause, "/message").to_owned(),
                    field: text(cause, "/field").to_owned(),
                })
                .collect(),
            retry_after_seconds: details["retryAfterSeconds"]
                .as_u64()
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
        }));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_checked_as_upstream_checks_them() {
        // [{"op":"add","path":"/x","value":1}]
        let patch = STANDARD.encode(r#"[{"op":"add","path":"/x","value":1}]"#);
        for (response, mutating, expect) in [
            (json!({"uid": "u", "allowed": true}), true, Ok((true, false))),
            (json!({"uid": "u"}), true, Ok((false, false))),
            (
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}),
                true,
                Ok((true, true)),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": STANDARD.encode("[]"), "patchType": "JSONPatch"}),
                true,
                Ok((true, false)),
            ),
            (json!({"uid": "v", "allowed": true}), true, Err("expected response.uid=\"u\", got \"v\"")),
            (
                json!({"uid": "u", "patch": patch}),
                true,
                Err("webhook returned response.patch but not response.patchType"),
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                Err("webhook returned response.patchType but not response.patch"),
            ),
            (
                json!({"uid": "u", "patchType": ""}),
                true,
                Err("webhook returned invalid response.patchType of \"\""),
            ),
            (
                json!({"uid": "u", "patch": patch, "patchType": "X"}),
                true,
                Err("unsupported patch type \"X\""),
            ),
            (
                json!({"uid": "u", "patch": patch, "patchType": "JSONPatch"}),
                false,
                Err("validating webhook may not return response.patch"),
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                false,
                Err("validating webhook may not return response.patchType"),
            ),
            (Value::Null, false, Err("webhook response was absent")),
        ] {
            let got = answer(&review(response.clone()), "u", "v1", mutating)
                .map(|answer| (answer.allowed, answer.patch.is_some()));
            assert_eq!(got, expect.map_err(str::to_owned), "{response}");
        }
        let other =
            json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {}});
        assert_eq!(
            answer(&other, "u", "v1", false).unwrap_err(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got \
             admission.k8s.io/v1beta1, Kind=AdmissionReview"
        );
    }

    #[test]
    fn refusals_carry_the_webhooks_words_and_code() {
        for (result, code, message) in [
            (Value::Null, 400, "admission webhook \"a.b.c\" denied the request without explanation"),
            (json!({"message": "no"}), 400, "admission webhook \"a.b.c\" denied the request: no"),
            (
                json!({"reason": "Forbidden"}),
                400,
                "admission webhook \"a.b.c\" denied the request: Forbidden",
            ),
            (
                json!({"message": "no", "code": 403}),
                403,
                "admission webhook \"a.b.c\" denied the request: no",
            ),
            (
                json!({"message": "no", "code": 200}),
                400,
                "admission webhook \"a.b.c\" denied the request: no",
            ),
        ] {
            let status = denied("a.b.c", &result);
            assert_eq!((status.code, status.message.as_str()), (code, message), "{result}");
        }
    }
}
