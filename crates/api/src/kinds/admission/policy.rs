//! What must hold of admission policies and their bindings, and of match conditions.

use serde_json::Value;

use super::super::check;
use super::webhook;
use crate::cel::{Program, check_fields};
use crate::field::{Errors, Path};
use crate::meta;
use crate::value::{list, text};

/// The variables of every admission expression.
const REQUEST: [&str; 5] = ["object", "oldObject", "request", "authorizer", "authorizer.requestResource"];
/// The most match conditions that there may be.
const MOST_CONDITIONS: usize = 64;
/// The reasons that a validation may give.
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

/// Checks the match conditions of a webhook or a policy.
pub(super) fn match_conditions(owner: &Value, at: &Path, params: bool, errors: &mut Errors) {
    let conditions = list(owner, "matchConditions");
    let at = at.child("matchConditions");
    if conditions.len() > MOST_CONDITIONS {
        errors.too_many(&at, conditions.len(), MOST_CONDITIONS);
    }
    let mut variables = REQUEST.to_vec();
    if params {
        variables.extend(["params", "namespaceObject"]);
    }
    let mut names = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        if let Some(name) = check::required(condition, "name", &at, errors) {
            check::named(name, meta::qualified_name_errors, &at.child("name"), errors);
            if names.contains(&name) {
                errors.duplicate(&at.child("name"), name);
            }
            names.push(name);
        }
        expression(condition, "expression", "bool", &variables, &at, errors);
    }
}

/// Checks an expression that must be there.
fn expression(owner: &Value, key: &str, wanted: &str, variables: &[&str], at: &Path, errors: &mut Errors) {
    let source = text(owner, key);
    let at = at.child(key);
    if source.trim().is_empty() {
        return errors.required(&at, "");
    }
    match Program::compile(source, variables) {
        Err(why) => errors.invalid(&at, source, format!("compilation failed: {why}")),
        Ok(_) if wanted.is_empty() => {}
        Ok(program) => {
            if let Err(why) = check_fields(&program, &[], wanted) {
                errors.invalid(&at, source, why);
            }
        }
    }
}

/// Checks a policy of either kind.
pub(super) fn validate(policy: &Value, mutating: bool, errors: &mut Errors) {
    let (spec, at) = (&policy["spec"], Path::new("spec"));
    let has_params = spec["paramKind"].is_object();
    if has_params {
        for key in ["apiVersion", "kind"] {
            check::required(&spec["paramKind"], key, &at.child("paramKind"), errors);
        }
    }
    check::one_of_or_unset(spec, "failurePolicy", &["Fail", "Ignore"], &at, errors);
    match &spec["matchConstraints"] {
        Value::Object(_) => {
            match_resources(&spec["matchConstraints"], &at.child("matchConstraints"), true, errors);
        }
        _ => errors.required(&at.child("matchConstraints"), ""),
    }
    match_conditions(spec, &at, true, errors);
    let mut variables: Vec<String> = REQUEST.iter().map(|&name| name.to_owned()).collect();
    variables.push("namespaceObject".into());
    if has_params {
        variables.push("params".into());
    }
    for (index, variable) in list(spec, "variables").iter().enumerate() {
        let at = at.child("variables").index(index);
        let known: Vec<&str> = variables.iter().map(String::as_str).collect();
        expression(variable, "expression", "", &known, &at, errors);
        if let Some(name) = check::required(variable, "name", &at, errors) {
            let dotted = format!("variables.{name}");
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !is_name {
                errors.invalid(&at.child("name"), name, "name is not a valid CEL identifier");
            }
            if variables.contains(&dotted) {
                errors.duplicate(&at.child("name"), name);
            }
            variables.push(dotted);
        }
    }
    let known: Vec<&str> = variables.iter().map(String::as_str).collect();
    if mutating {
        mutations(spec, &known, &at, errors);
    } else {
        validations(spec, &known, &at, errors);
    }
}

fn validations(spec: &Value, variables: &[&str], at: &Path, errors: &mut Errors) {
    let (checks, notes) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if checks.is_empty() && notes.is_empty() {
        let why = "validations or auditAnnotations must be set";
        errors.required(&at.child("validations"), why);
        errors.required(&at.child("auditAnnotations"), why);
    }
    for (index, one) in checks.iter().enumerate() {
        let at = at.child("validations").index(index);
        expression(one, "expression", "bool", variables, &at, errors);
        let message = text(one, "message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at.child("message"), message, "message must be non-empty if specified");
        } else if message.trim().contains('\n') {
            errors.invalid(&at.child("message"), message, "message must not contain line breaks");
        } else if text(one, "expression").trim().contains('\n') && message.is_empty() {
            let why = "message must be specified if expression contains line breaks";
            errors.required(&at.child("message"), why);
        }
        if !text(one, "messageExpression").is_empty() {
            expression(one, "messageExpression", "string", variables, &at, errors);
        }
        check::one_of_or_unset(one, "reason", &REASONS, &at, errors);
    }
    for (index, note) in notes.iter().enumerate() {
        let at = at.child("auditAnnotations").index(index);
        if let Some(key) = check::required(note, "key", &at, errors) {
            check::named(key, meta::qualified_name_errors, &at.child("key"), errors);
        }
        expression(note, "valueExpression", "", variables, &at, errors);
    }
}

fn mutations(spec: &Value, variables: &[&str], at: &Path, errors: &mut Errors) {
    if list(spec, "mutations").is_empty() {
        errors.required(&at.child("mutations"), "mutations must contain at least one item");
    }
    check::one_of(spec, "reinvocationPolicy", &["IfNeeded", "Never"], at, errors);
    for (index, mutation) in list(spec, "mutations").iter().enumerate() {
        let at = at.child("mutations").index(index);
        check::one_of(mutation, "patchType", &["ApplyConfiguration", "JSONPatch"], &at, errors);
        let (own, other) = match text(mutation, "patchType") {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            _ => ("applyConfiguration", "jsonPatch"),
        };
        if !mutation[other].is_null() {
            let why = format!("must not be specified when patchType is {}", text(mutation, "patchType"));
            errors.invalid(&at.child(other), mutation[other].clone(), why);
        }
        if mutation[own].is_object() {
            expression(&mutation[own], "expression", "", variables, &at.child(own), errors);
        } else {
            errors.required(
                &at.child(own),
                &format!("must be specified when patchType is {}", text(mutation, "patchType")),
            );
        }
    }
}

fn match_resources(resources: &Value, at: &Path, needs_rules: bool, errors: &mut Errors) {
    check::one_of_or_unset(resources, "matchPolicy", &["Equivalent", "Exact"], at, errors);
    webhook::selectors(resources, at, errors);
    if needs_rules && list(resources, "resourceRules").is_empty() {
        errors.required(&at.child("resourceRules"), "");
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(resources, key).iter().enumerate() {
            webhook::rule_with_operations(rule, &at.child(key).index(index), errors);
        }
    }
}

/// Checks a binding of either kind.
pub(super) fn validate_binding(binding: &Value, mutating: bool, errors: &mut Errors) {
    let (spec, at) = (&binding["spec"], Path::new("spec"));
    if let Some(name) = check::required(spec, "policyName", &at, errors) {
        check::named(name, meta::dns_subdomain_errors, &at.child("policyName"), errors);
    }
    if spec["paramRef"].is_object() {
        let (params, at) = (&spec["paramRef"], at.child("paramRef"));
        let (name, selector) = (text(params, "name"), params["selector"].is_object());
        if !name.is_empty() && selector {
            errors.forbidden(&at.child("name"), "name and selector are mutually exclusive");
        } else if name.is_empty() && !selector {
            errors.required(&at, "one of name or selector must be specified");
        }
        check::one_of(params, "parameterNotFoundAction", &["Allow", "Deny"], &at, errors);
    }
    if spec["matchResources"].is_object() {
        match_resources(&spec["matchResources"], &at.child("matchResources"), false, errors);
    }
    if mutating {
        return;
    }
    let actions = list(spec, "validationActions");
    let path = at.child("validationActions");
    if actions.is_empty() {
        errors.required(&path, "at least one validation action is required");
    }
    let known = ["Audit", "Deny", "Warn"];
    for (index, action) in actions.iter().enumerate() {
        let action_text = action.as_str().unwrap_or_default();
        if !known.contains(&action_text) {
            errors.not_supported(&path.index(index), action_text, &known);
        }
        if actions[..index].contains(action) {
            errors.duplicate(&path.index(index), action_text);
        }
    }
    let has = |action: &str| actions.iter().any(|one| one == action);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                   API response and headers serves no purpose)";
        errors.invalid(&path, spec["validationActions"].clone(), why);
    }
}
