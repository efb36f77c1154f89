//! Checks of what decides where a pod runs: tolerations, affinity, spreading.

use serde_json::Value;

use super::super::check;
use crate::field::{Errors, Path};
use crate::meta;
use crate::value::{int, list, text};

const NODE_OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

/// Checks the placement parts of a pod spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    meta::validate_labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    tolerations(spec, &path.child("tolerations"), errors);
    affinity(&spec["affinity"], &path.child("affinity"), errors);
    spreading(spec, &path.child("topologySpreadConstraints"), errors);
}

fn tolerations(spec: &Value, path: &Path, errors: &mut Errors) {
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let at = path.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if key.is_empty() {
            if operator != "Exists" {
                let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                errors.invalid(&at.child("operator"), operator, why);
            }
        } else {
            check::named(key, meta::qualified_name_errors, &at.child("key"), errors);
        }
        let effect = text(toleration, "effect");
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.child("effect"), effect, why);
        }
        match operator {
            "Equal" | "" => {
                let value = text(toleration, "value");
                check::named(value, meta::label_value_errors, &at.child("operator"), errors);
            }
            "Exists" => {
                if !text(toleration, "value").is_empty() {
                    let why = "value must be empty when `operator` is 'Exists'";
                    errors.invalid(&at.child("operator"), toleration.clone(), why);
                }
            }
            other => errors.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        let effects = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
        check::one_of_or_unset(toleration, "effect", effects, &at, errors);
    }
}

fn affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    let node = &affinity["nodeAffinity"];
    let at = path.child("nodeAffinity");
    let hard = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if hard.is_object() {
        let at = at.child("requiredDuringSchedulingIgnoredDuringExecution");
        let terms = list(hard, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(&at.child("nodeSelectorTerms"), "must have at least one node selector term");
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &at.child("nodeSelectorTerms").index(index), errors);
        }
    }
    for (index, soft) in list(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        let at = at.child("preferredDuringSchedulingIgnoredDuringExecution").index(index);
        weight(soft, &at, errors);
        node_term(&soft["preference"], &at.child("preference"), errors);
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (&affinity[key], path.child(key));
        for (index, term) in list(pods, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            pod_term(term, &at.child("requiredDuringSchedulingIgnoredDuringExecution").index(index), errors);
        }
        for (index, soft) in list(pods, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
        {
            let at = at.child("preferredDuringSchedulingIgnoredDuringExecution").index(index);
            weight(soft, &at, errors);
            pod_term(&soft["podAffinityTerm"], &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(soft: &Value, path: &Path, errors: &mut Errors) {
    let weight = int(soft, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut Errors) {
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(index);
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&at.child("values"), why);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.required(
                    &at.child("values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                );
            }
            operator if NODE_OPERATORS.contains(&operator) => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, "key");
        check::named(key, meta::qualified_name_errors, &at.child("key"), errors);
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    meta::validate_selector(&term["labelSelector"], &path.child("labelSelector"), errors);
    match text(term, "topologyKey") {
        "" => errors.required(&path.child("topologyKey"), "can not be empty"),
        key => check::named(key, meta::qualified_name_errors, &path.child("topologyKey"), errors),
    }
}

fn spreading(spec: &Value, path: &Path, errors: &mut Errors) {
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = path.index(index);
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        if text(constraint, "topologyKey").is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let known = &["DoNotSchedule", "ScheduleAnyway"];
        let found = text(constraint, "whenUnsatisfiable");
        if !known.contains(&found) {
            errors.not_supported(&at.child("whenUnsatisfiable"), found, known);
        }
        if constraint["labelSelector"].is_object() {
            meta::validate_selector(&constraint["labelSelector"], &at.child("labelSelector"), errors);
        }
    }
}
