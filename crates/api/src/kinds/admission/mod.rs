//! Webhooks and admission policies.

mod policy;
pub(super) mod webhook;

use serde_json::{Value, json};

use super::cells;
use crate::registry::{AGE, Column, Kind, NAME, Table};
use crate::value::{default, each_mut, list, object, set, text};

/// Completes the descriptors of the kinds of `admissionregistration.k8s.io`.
pub(super) fn describe(kind: &mut Kind) {
    kind.strategy.unconditional_update = false;
    match kind.kind.as_ref() {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            kind.strategy.default = |kind, object| {
                let mutating = kind.kind == "MutatingWebhookConfiguration";
                each_mut(object, "webhooks", |webhook| default_webhook(webhook, mutating));
            };
            kind.strategy.validate = |kind, object, errors| {
                webhook::validate(object, kind.kind == "MutatingWebhookConfiguration", errors);
            };
            kind.table = Table::new(
                vec![NAME, Column::number("Webhooks", "How many webhooks it has."), AGE],
                |object, now| {
                    vec![cells::name(object), list(object, "webhooks").len().into(), cells::age(object, now)]
                },
            );
        }
        "ValidatingAdmissionPolicy" => {
            kind.strategy.default = |_, object| default_policy(object);
            kind.strategy.validate = |_, object, errors| policy::validate(object, false, errors);
            kind.strategy.generation = true;
            kind.table = Table::new(
                vec![
                    NAME,
                    Column::number("Validations", "How many expressions must hold."),
                    Column::text("ParamKind", "The kind of the policy's parameters."),
                    AGE,
                ],
                |object, now| {
                    let parameters = &object["spec"]["paramKind"];
                    let kind = if parameters.is_object() {
                        format!("{}/{}", text(parameters, "apiVersion"), text(parameters, "kind"))
                    } else {
                        cells::UNSET.to_owned()
                    };
                    let count: Value = list(object, "spec.validations").len().into();
                    vec![cells::name(object), count, kind.into(), cells::age(object, now)]
                },
            );
        }
        "MutatingAdmissionPolicy" => {
            kind.strategy.default = |_, object| default_policy(object);
            kind.strategy.validate = |_, object, errors| policy::validate(object, true, errors);
            kind.strategy.generation = true;
            kind.table = Table::new(
                vec![NAME, Column::number("Mutations", "How many changes it makes."), AGE],
                |object, now| {
                    vec![
                        cells::name(object),
                        list(object, "spec.mutations").len().into(),
                        cells::age(object, now),
                    ]
                },
            );
        }
        _ => {
            kind.strategy.validate = |kind, object, errors| {
                policy::validate_binding(object, kind.kind.starts_with("Mutating"), errors);
            };
            kind.table = Table::new(
                vec![
                    NAME,
                    Column::text("PolicyName", "The policy that is bound."),
                    Column::text("ParamRef", "The parameters that it is bound with."),
                    AGE,
                ],
                |object, now| {
                    let parameters = &object["spec"]["paramRef"];
                    let shown = match (text(parameters, "namespace"), text(parameters, "name")) {
                        (_, "") => cells::UNSET.to_owned(),
                        ("", name) => name.to_owned(),
                        (namespace, name) => format!("{namespace}/{name}"),
                    };
                    vec![
                        cells::name(object),
                        text(object, "spec.policyName").into(),
                        shown.into(),
                        cells::age(object, now),
                    ]
                },
            );
        }
    }
}

fn default_webhook(webhook: &mut Value, mutating: bool) {
    default(webhook, "failurePolicy", "Fail");
    default(webhook, "matchPolicy", "Equivalent");
    default(webhook, "timeoutSeconds", 10);
    for key in ["namespaceSelector", "objectSelector"] {
        if webhook[key].is_null() {
            set(webhook, key, json!({}));
        }
    }
    if mutating {
        default(webhook, "reinvocationPolicy", "Never");
    }
    each_mut(webhook, "rules", |rule| default(rule, "scope", "*"));
    let service = webhook.get_mut("clientConfig").and_then(|client| client.get_mut("service"));
    if let Some(service) = service.filter(|service| service.is_object()) {
        default(service, "port", 443);
    }
}

fn default_policy(policy: &mut Value) {
    let Some(spec) = object(policy, "spec") else { return };
    default(spec, "failurePolicy", "Fail");
    let Some(constraints) = spec.get_mut("matchConstraints").filter(|one| one.is_object()) else { return };
    default(constraints, "matchPolicy", "Equivalent");
    for key in ["namespaceSelector", "objectSelector"] {
        if constraints[key].is_null() {
            set(constraints, key, json!({}));
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        each_mut(constraints, key, |rule| default(rule, "scope", "*"));
    }
}
