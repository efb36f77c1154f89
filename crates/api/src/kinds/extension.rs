//! What extends the API: API services and custom resource definitions.

use serde_json::{Value, json};

use super::admission::webhook::{client_config, review_versions};
use super::{cells, check};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, int, list, object, same, set, text};

/// Completes the descriptor of `APIService`.
pub(super) fn api_service(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, object| {
            let service = object.get_mut("spec").and_then(|spec| spec.get_mut("service"));
            if let Some(service) = service.filter(|service| service.is_object()) {
                default(service, "port", 443);
            }
        },
        validate: |_, object, errors| {
            let (spec, path) = (&object["spec"], Path::new("spec"));
            let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
            if meta::name(object) != wanted {
                let why =
                    format!("must be `spec.version+\".\"+spec.group`: {}", crate::field::quote(&wanted));
                errors.invalid(&Path::new("metadata").child("name"), meta::name(object), why);
            }
            check::required(spec, "version", &path, errors);
            for (key, high) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
                let number = int(spec, key).unwrap_or(0);
                if number <= 0 || number > high {
                    let why = format!("must be positive and less than or equal to {high}");
                    errors.invalid(&path.child(key), number, why);
                }
            }
            if spec["service"].is_object() {
                check::required(&spec["service"], "namespace", &path.child("service"), errors);
                check::required(&spec["service"], "name", &path.child("service"), errors);
                let (skip, bundle) = (spec["insecureSkipTLSVerify"] == true, text(spec, "caBundle"));
                if skip && !bundle.is_empty() {
                    let why = "may not be true if caBundle is present";
                    errors.invalid(&path.child("insecureSkipTLSVerify"), true, why);
                }
            }
        },
        name_errors: meta::path_segment_errors,
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Service", "What serves this version."),
            Column::text("Available", "Whether it can be reached."),
            AGE,
        ],
        |object, now| {
            let service = match text(object, "spec.service.name") {
                "" => "Local".to_owned(),
                name => format!("{}/{name}", text(object, "spec.service.namespace")),
            };
            let available = cells::condition(object, "Available").map_or_else(
                || "Unknown".to_owned(),
                |one| match text(one, "status") {
                    "True" => "True".to_owned(),
                    status => format!("{status} ({})", text(one, "reason")),
                },
            );
            vec![cells::name(object), service.into(), available.into(), cells::age(object, now)]
        },
    );
}

/// Completes the descriptor of `CustomResourceDefinition`: names and versions; what its schema says is
/// checked where custom kinds are made.
pub(super) fn custom_definition(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, definition| {
            let Some(spec) = object(definition, "spec") else { return };
            if let Some(names) = object(spec, "names") {
                let kind = text(names, "kind").to_owned();
                default(names, "singular", kind.to_lowercase());
                default(names, "listKind", format!("{kind}List"));
            }
            if spec["conversion"].is_null() {
                set(spec, "conversion", json!({"strategy": "None"}));
            }
            if let Some(service) = spec
                .pointer_mut("/conversion/webhook/clientConfig/service")
                .filter(|service| service.is_object())
            {
                default(service, "port", 443);
            }
        },
        validate: |_, definition, errors| {
            let (spec, path) = (&definition["spec"], Path::new("spec"));
            let wanted = format!("{}.{}", text(spec, "names.plural"), text(spec, "group"));
            if meta::name(definition) != wanted {
                let at = Path::new("metadata").child("name");
                errors.invalid(&at, meta::name(definition), "must be spec.names.plural+\".\"+spec.group");
            }
            match text(spec, "group") {
                "" => errors.required(&path.child("group"), ""),
                group => {
                    check::named(group, meta::dns_subdomain_errors, &path.child("group"), errors);
                    if !group.contains('.') {
                        let why = "should be a domain with at least one dot";
                        errors.invalid(&path.child("group"), group, why);
                    }
                }
            }
            check::one_of(spec, "scope", &["Cluster", "Namespaced"], &path, errors);
            let names = path.child("names");
            for key in ["plural", "singular", "kind", "listKind"] {
                if let Some(name) = check::required(&spec["names"], key, &names, errors) {
                    let lower = name.to_lowercase();
                    check::named(&lower, meta::dns_1035_label_errors, &names.child(key), errors);
                }
            }
            conversion(&spec["conversion"], &path.child("conversion"), errors);
            let versions = list(spec, "versions");
            let stored = versions.iter().filter(|one| one["storage"] == true).count();
            if stored != 1 {
                let why = "must have exactly one version marked as storage version";
                errors.invalid(&path.child("versions"), spec["versions"].clone(), why);
            }
            for (index, version) in versions.iter().enumerate() {
                let at = path.child("versions").index(index);
                check::named(text(version, "name"), meta::dns_1035_label_errors, &at.child("name"), errors);
                let schema = &version["schema"]["openAPIV3Schema"];
                // As upstream, whose internal form holds a schema that all versions share but once.
                let shared = versions.iter().all(|other| other["schema"] == version["schema"]);
                if !shared {
                    crate::custom::check_rules(schema, &at.child("schema").child("openAPIV3Schema"), errors);
                } else if index == 0 {
                    let at = path.child("validation").child("openAPIV3Schema");
                    crate::custom::check_rules(schema, &at, errors);
                }
                if version["schema"]["openAPIV3Schema"].is_null() {
                    errors.required(&at.child("schema").child("openAPIV3Schema"), "schemas are required");
                }
            }
        },
        validate_update: |kind, new, old, part, errors| {
            if part != Part::Main {
                return;
            }
            (kind.strategy.validate)(kind, new, errors);
            let path = Path::new("spec");
            check::immutable(&new["spec"], &old["spec"], "group", &path, errors);
            let established = cells::is_true(old, "Established");
            if established && !same(&new["spec"]["scope"], &old["spec"]["scope"]) {
                check::immutable(&new["spec"], &old["spec"], "scope", &path, errors);
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
}

/// Checks how a definition's objects are converted.
fn conversion(conversion: &Value, at: &Path, errors: &mut Errors) {
    check::one_of(conversion, "strategy", &["None", "Webhook"], at, errors);
    let webhook = &conversion["webhook"];
    if text(conversion, "strategy") != "Webhook" {
        if !webhook.is_null() {
            let why = "should not be set when strategy is not set to Webhook";
            errors.forbidden(&at.child("webhook"), why);
        }
        return;
    }
    if webhook["clientConfig"].is_object() {
        client_config(&webhook["clientConfig"], &at.child("webhookClientConfig"), errors);
    } else {
        errors.required(&at.child("webhookClientConfig"), "required when strategy is set to Webhook");
    }
    review_versions(webhook, "conversionReviewVersions", at, errors);
}
