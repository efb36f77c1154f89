//! The review APIs: objects that are asked and answered, and never stored.

use api::status::Status;
use serde_json::{Map, Value, json};

use super::{Access, Attributes, Decision, Lookup, Tokens, UserInfo, list, strings, text};

/// Answers a `SubjectAccessReview`.
///
/// # Errors
/// 422 when the review is not complete.
pub fn subject_access_review(access: &Access, review: &Value) -> Result<Value, Status> {
    let spec = spec(review);
    let mut user = UserInfo {
        name: text(spec, "/user").into(),
        uid: text(spec, "/uid").into(),
        groups: strings(spec, "/groups"),
        ..UserInfo::default()
    };
    for (key, values) in spec.get("extra").and_then(Value::as_object).into_iter().flatten() {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        user.extra.insert(key.clone(), values.collect());
    }
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid(review, "spec.user", "at least one of user or group must be specified"));
    }
    answer(access, &user, review)
}

/// Answers a `SelfSubjectAccessReview` of `user`.
///
/// # Errors
/// 422 when the review is not complete.
pub fn self_subject_access_review(access: &Access, user: &UserInfo, review: &Value) -> Result<Value, Status> {
    answer(access, user, review)
}

/// Answers a `LocalSubjectAccessReview` in `namespace`.
///
/// # Errors
/// 422 when the review is not complete, 400 when it is for another namespace.
pub fn local_subject_access_review(
    access: &Access,
    namespace: &str,
    review: &Value,
) -> Result<Value, Status> {
    if spec(review).get("nonResourceAttributes").is_some_and(Value::is_object) {
        return Err(invalid(review, "spec.nonResourceAttributes", "disallowed on this kind of request"));
    }
    let asked = text(spec(review), "/resourceAttributes/namespace");
    if asked != namespace {
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    subject_access_review(access, review)
}

fn answer(access: &Access, user: &UserInfo, review: &Value) -> Result<Value, Status> {
    let spec = spec(review);
    let resource = spec.get("resourceAttributes").filter(|value| value.is_object());
    let path = spec.get("nonResourceAttributes").filter(|value| value.is_object());
    let fields: Vec<(&str, &str)>;
    let attributes = match (resource, path) {
        (Some(resource), None) => {
            fields = equal_fields(resource);
            Attributes {
                verb: text(resource, "/verb"),
                group: text(resource, "/group"),
                version: text(resource, "/version"),
                resource: text(resource, "/resource"),
                subresource: text(resource, "/subresource"),
                namespace: text(resource, "/namespace"),
                name: text(resource, "/name"),
                path: "",
                fields: &fields,
            }
        }
        (None, Some(path)) => {
            Attributes { verb: text(path, "/verb"), path: text(path, "/path"), ..Attributes::default() }
        }
        (Some(_), Some(_)) => {
            return Err(invalid(
                review,
                "spec.nonResourceAttributes",
                "cannot be specified in combination with resourceAttributes",
            ));
        }
        (None, None) => {
            return Err(invalid(
                review,
                "spec.resourceAttributes",
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    // `*` for a resource means: is there nothing that one may not do?
    let Decision { allowed, reason } = access.authorize(user, &attributes);
    let mut status = Map::new();
    status.insert("allowed".into(), allowed.into());
    if !reason.is_empty() {
        status.insert("reason".into(), reason.into());
    }
    Ok(with_status(review, Value::Object(status)))
}

fn equal_fields(resource: &Value) -> Vec<(&str, &str)> {
    list(resource, "/fieldSelector/requirements")
        .iter()
        .filter(|requirement| text(requirement, "/operator") == "In")
        .filter_map(|requirement| match list(requirement, "/values") {
            [value] => Some((text(requirement, "/key"), value.as_str()?)),
            _ => None,
        })
        .collect()
}

/// Answers a `SelfSubjectRulesReview` of `user`.
///
/// # Errors
/// 400 when no namespace is named.
pub fn self_subject_rules_review(access: &Access, user: &UserInfo, review: &Value) -> Result<Value, Status> {
    let namespace = text(spec(review), "/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in access.rules_for(user, namespace) {
        if !rule.urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
        }
        if !rule.resources.is_empty() {
            let mut value = rule.to_value();
            if let Some(map) = value.as_object_mut() {
                map.remove("nonResourceURLs");
            }
            resources.push(value);
        }
    }
    // The node authorizer decides object by object and cannot list what it would allow.
    let incomplete = user.node().is_some();
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
    if incomplete {
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(with_status(review, status))
}

/// Answers a `TokenReview`: who a bearer token belongs to.
///
/// # Errors
/// 400 when there is no token.
pub fn token_review(tokens: &Tokens, lookup: &dyn Lookup, review: &Value) -> Result<Value, Status> {
    let token = text(spec(review), "/token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let wanted = strings(spec(review), "/audiences");
    let status = match tokens.verify(token, &wanted, lookup) {
        Ok(verified) => json!({
            "authenticated": true,
            "user": verified.user.to_value(),
            "audiences": verified.audiences,
        }),
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    };
    Ok(with_status(review, status))
}

/// Answers a `SelfSubjectReview`: who is asking.
#[must_use]
pub fn self_subject_review(user: &UserInfo, review: &Value) -> Value {
    with_status(review, json!({"userInfo": user.to_value()}))
}

fn spec(review: &Value) -> &Value {
    review.get("spec").unwrap_or(&Value::Null)
}

fn with_status(review: &Value, status: Value) -> Value {
    let mut answer = review.as_object().cloned().unwrap_or_default();
    answer.entry("metadata").or_insert_with(|| json!({"creationTimestamp": null}));
    answer.insert("status".into(), status);
    Value::Object(answer)
}

fn invalid(review: &Value, field: &str, why: &str) -> Status {
    let kind = text(review, "/kind");
    let detail = format!("Invalid value: null: {why}");
    Status::new(
        422,
        api::status::Reason::Invalid,
        format!("{kind}.authorization.k8s.io \"\" is invalid: {field}: {detail}"),
    )
    .cause("FieldValueInvalid", detail, field)
}

#[cfg(test)]
mod tests;
