//! What must hold of webhook configurations, and of the rules that policies have in common with them.

use serde_json::Value;

use super::super::check;
use crate::field::{Errors, Path};
use crate::meta;
use crate::selector::Selector;
use crate::value::{int, list, text};

/// The versions of `AdmissionReview` that the API server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
/// What a URL should look like.
const FORM: &str = "; desired format: https://host[/path]";

/// Checks every webhook of a configuration.
pub(super) fn validate(object: &Value, mutating: bool, errors: &mut Errors) {
    let mut names = Vec::new();
    for (index, webhook) in list(object, "webhooks").iter().enumerate() {
        let at = Path::new("webhooks").index(index);
        webhook_itself(webhook, mutating, &at, errors);
        let name = text(webhook, "name");
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), name);
        }
        names.push(name);
    }
}

fn webhook_itself(webhook: &Value, mutating: bool, at: &Path, errors: &mut Errors) {
    if let Some(name) = check::required(webhook, "name", at, errors) {
        check::named(name, meta::dns_subdomain_errors, &at.child("name"), errors);
        if name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.invalid(&at.child("name"), name, why);
        }
    }
    for (position, rule) in list(webhook, "rules").iter().enumerate() {
        rule_with_operations(rule, &at.child("rules").index(position), errors);
    }
    check::one_of_or_unset(webhook, "failurePolicy", &["Fail", "Ignore"], at, errors);
    check::one_of_or_unset(webhook, "matchPolicy", &["Equivalent", "Exact"], at, errors);
    match text(webhook, "sideEffects") {
        "" => errors.required(&at.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        _ => check::one_of(webhook, "sideEffects", &["None", "NoneOnDryRun"], at, errors),
    }
    let seconds = int(webhook, "timeoutSeconds").unwrap_or(10);
    if !(1..=30).contains(&seconds) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&at.child("timeoutSeconds"), seconds, why);
    }
    selectors(webhook, at, errors);
    if mutating {
        check::one_of_or_unset(webhook, "reinvocationPolicy", &["IfNeeded", "Never"], at, errors);
    }
    review_versions(webhook, "admissionReviewVersions", at, errors);
    client_config(&webhook["clientConfig"], &at.child("clientConfig"), errors);
    super::policy::match_conditions(webhook, at, false, errors);
}

/// Checks the versions of a review that a webhook speaks.
pub(in crate::kinds) fn review_versions(webhook: &Value, key: &str, at: &Path, errors: &mut Errors) {
    let path = at.child(key);
    let versions: Vec<&str> = list(webhook, key).iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        return errors.required(&path, "must specify one of v1, v1beta1");
    }
    for (index, version) in versions.iter().enumerate() {
        if versions[..index].contains(version) {
            errors.invalid(&path.index(index), *version, "duplicate version");
        }
        check::named(version, meta::dns_1035_label_errors, &path.index(index), errors);
    }
    if !versions.iter().any(|version| REVIEWS.contains(version)) {
        errors.invalid(&path, webhook[key].clone(), "must include at least one of v1, v1beta1");
    }
}

/// Checks where a webhook is.
pub(in crate::kinds) fn client_config(client: &Value, at: &Path, errors: &mut Errors) {
    let (url, service) = (&client["url"], &client["service"]);
    if url.is_null() == service.is_null() {
        errors.required(at, "exactly one of url or service is required");
    }
    if let Some(url) = url.as_str() {
        check_url(url, &at.child("url"), errors);
    }
    if service.is_object() {
        let at = at.child("service");
        for (key, why) in
            [("name", "service name is required"), ("namespace", "service namespace is required")]
        {
            if text(service, key).is_empty() {
                errors.required(&at.child(key), why);
            }
        }
        let port = int(service, "port").unwrap_or(443);
        if !(1..=65535).contains(&port) {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            errors.invalid(&at.child("port"), port, why);
        }
        check_path(text(service, "path"), &at.child("path"), errors);
    }
}

fn check_url(url: &str, at: &Path, errors: &mut Errors) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return errors.required(at, &format!("url must be a valid URL{FORM}"));
    };
    if scheme != "https" {
        errors.invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        errors.invalid(at, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(at, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = rest.split_once('#').filter(|(_, fragment)| !fragment.is_empty()) {
        errors.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    let query = rest.split('#').next().unwrap_or_default();
    if let Some((_, query)) = query.split_once('?').filter(|(_, query)| !query.is_empty()) {
        errors.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

fn check_path(path: &str, at: &Path, errors: &mut Errors) {
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        return errors.invalid(at, path, "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        errors.invalid(at, path, "must start with a '/'");
    }
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let segments: Vec<&str> = trimmed.strip_suffix('/').unwrap_or(trimmed).split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        if segment.is_empty() {
            errors.invalid(at, path, format!("segment[{index}] may not be empty"));
            continue;
        }
        for why in meta::dns_subdomain_errors(segment) {
            errors.invalid(at, path, format!("segment[{index}]: {why}"));
        }
    }
}

/// Checks the selectors of a webhook or of `matchResources`.
pub(super) fn selectors(value: &Value, at: &Path, errors: &mut Errors) {
    for key in ["namespaceSelector", "objectSelector"] {
        if value[key].is_object()
            && let Err(why) = Selector::from_object(&value[key])
        {
            errors.invalid(&at.child(key), value[key].clone(), why);
        }
    }
}

/// Checks a rule.
pub(super) fn rule_with_operations(rule: &Value, at: &Path, errors: &mut Errors) {
    let texts = |key: &str| -> Vec<&str> { list(rule, key).iter().filter_map(Value::as_str).collect() };
    let operations = texts("operations");
    starred(&operations, "operations", "operations", rule, at, errors);
    let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, operation) in operations.iter().enumerate().filter(|(_, one)| !known.contains(one)) {
        errors.not_supported(&at.child("operations").index(index), *operation, &known);
    }
    starred(&texts("apiGroups"), "apiGroups", "API groups", rule, at, errors);
    let versions = texts("apiVersions");
    starred(&versions, "apiVersions", "API versions", rule, at, errors);
    for (index, _) in versions.iter().enumerate().filter(|(_, version)| version.is_empty()) {
        errors.required(&at.child("apiVersions").index(index), "");
    }
    check::one_of_or_unset(rule, "scope", &["*", "Cluster", "Namespaced"], at, errors);
    let (resources, path) = (texts("resources"), at.child("resources"));
    if resources.is_empty() {
        errors.required(&path, "");
    }
    for (index, _) in resources.iter().enumerate().filter(|(_, resource)| resource.is_empty()) {
        errors.required(&path.index(index), "");
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        return errors.invalid(&path, rule["resources"].clone(), why);
    }
    let plain = resources.iter().filter(|resource| !resource.contains('/')).count();
    if plain > 1 && resources.contains(&"*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(&path, rule["resources"].clone(), why);
    }
}

fn starred(found: &[&str], key: &str, what: &str, rule: &Value, at: &Path, errors: &mut Errors) {
    if found.is_empty() {
        errors.required(&at.child(key), "");
    } else if found.len() > 1 && found.contains(&"*") {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.invalid(&at.child(key), rule[key].clone(), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    /// Returns what is wrong with a webhook whose `key` has been replaced.
    fn wrong(pointer: &str, value: Value) -> String {
        let mut object = serde_json::json!({"metadata": {"name": "c"}, "webhooks": [{
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://host/path"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }]});
        if let Some((parent, key)) = pointer.rsplit_once('/') {
            object.pointer_mut(&format!("/webhooks/0{parent}")).unwrap()[key] = value;
        }
        let kind =
            builtin().kind("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration").unwrap();
        kind.default(&mut object);
        let mut errors = Errors::new();
        validate(&object, true, &mut errors);
        errors.joined()
    }

    #[test]
    fn webhooks_are_checked_as_upstream_checks_them() {
        use serde_json::json;
        for (pointer, value, expect) in [
            ("", Value::Null, "[]"),
            (
                "/name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            (
                "/sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "/timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "/admissionReviewVersions",
                json!([]),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                "/admissionReviewVersions",
                json!(["v3"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v3\"]: must include at least one of v1, v1beta1",
            ),
            (
                "/clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "/clientConfig/url",
                json!("http://host"),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "/clientConfig/url",
                json!("https://u:p@host"),
                "webhooks[0].clientConfig.url: Invalid value: \"u:p\": user information is not permitted in the URL",
            ),
            (
                "/clientConfig/url",
                json!("https://host/?a=1"),
                "webhooks[0].clientConfig.url: Invalid value: \"a=1\": query parameters are not permitted in the URL",
            ),
            (
                "/clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "path": "x"}}),
                "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
            ),
            (
                "/clientConfig",
                json!({"service": {"name": "s"}}),
                "webhooks[0].clientConfig.service.namespace: Required value: service namespace is required",
            ),
            (
                "/rules/0/operations",
                json!(["*", "CREATE"]),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "/rules/0/resources",
                json!(["*", "pods"]),
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ),
            ("/rules/0/resources", json!(["*", "pods/status"]), "[]"),
            (
                "/rules/0/scope",
                json!("All"),
                "webhooks[0].rules[0].scope: Unsupported value: \"All\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ),
        ] {
            assert_eq!(wrong(pointer, value.clone()), expect, "{pointer} {value}");
        }
    }
}
