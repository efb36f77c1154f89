//! Kinds with little of their own: leases, service accounts, runtime classes, API services and the like.

use serde_json::{Value, json};

use super::{cells, check};
use crate::field::Path;
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, each_mut, int, list, object, same, set, text};

/// Completes the descriptor of `Lease`.
pub(super) fn lease(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, lease, errors| {
            let (spec, path) = (&lease["spec"], Path::new("spec"));
            check::positive(spec, "leaseDurationSeconds", &path, errors);
            if int(spec, "leaseTransitions").is_some_and(|count| count < 0) {
                let at = path.child("leaseTransitions");
                errors.invalid(&at, spec["leaseTransitions"].clone(), "must be greater than or equal to 0");
            }
        },
        create_on_update: true,
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(vec![NAME, Column::text("Holder", "Who holds the lease."), AGE], |lease, now| {
        vec![cells::name(lease), text(lease, "spec.holderIdentity").into(), cells::age(lease, now)]
    });
}

/// Completes the descriptor of `ServiceAccount`.
pub(super) fn service_account(kind: &mut Kind) {
    kind.table = Table::new(
        vec![NAME, Column::number("Secrets", "How many secrets it names."), AGE],
        |account, now| {
            vec![cells::name(account), list(account, "secrets").len().into(), cells::age(account, now)]
        },
    );
}

/// Completes the descriptor of `ComponentStatus`.
pub(super) fn component_status(kind: &mut Kind) {
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Status", "Whether the component is healthy."),
            Column::text("Message", "What the component says."),
            Column::text("Error", "What went wrong."),
        ],
        |object, _| {
            let healthy = list(object, "conditions").iter().find(|one| text(one, "type") == "Healthy");
            let (status, message, error) = healthy.map_or(("Unknown", "", ""), |one| {
                let status = if text(one, "status") == "True" { "Healthy" } else { "Unhealthy" };
                (status, text(one, "message"), text(one, "error"))
            });
            vec![cells::name(object), status.into(), message.into(), error.into()]
        },
    );
}

/// Completes the descriptor of `RuntimeClass`.
pub(super) fn runtime_class(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, class, errors| match text(class, "handler") {
            "" => errors.required(&Path::new("handler"), ""),
            handler => check::named(handler, meta::dns_label_errors, &Path::new("handler"), errors),
        },
        validate_update: |_, new, old, part, errors| {
            if part == Part::Main {
                check::immutable(new, old, "handler", &Path::default(), errors);
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table =
        Table::new(vec![NAME, Column::text("Handler", "How the runtime calls it."), AGE], |class, now| {
            vec![cells::name(class), text(class, "handler").into(), cells::age(class, now)]
        });
}

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

/// Completes the descriptor of `CertificateSigningRequest`.
pub(super) fn signing_request(kind: &mut Kind) {
    kind.strategy = Strategy {
        prepare_update: |_, new, old, part| {
            let sent = std::mem::replace(new, old.clone());
            let meta = sent["metadata"].clone();
            set(new, "metadata", meta);
            let status = match part {
                Part::Main => return,
                // The certificate is the signer's, the decision is the approver's.
                Part::Status => ["certificate"].as_slice(),
                Part::Other(_) => &[],
            };
            let Some(place) = object(new, "status") else { return };
            for key in status {
                crate::value::keep(place, &sent["status"], key);
            }
            crate::value::keep(place, &sent["status"], "conditions");
        },
        validate: |_, object, errors| {
            let (spec, path) = (&object["spec"], Path::new("spec"));
            if text(spec, "request").is_empty() {
                errors.invalid(&path.child("request"), "", "PEM block type must be CERTIFICATE REQUEST");
            }
            if list(spec, "usages").is_empty() {
                errors.required(&path.child("usages"), "");
            }
            match text(spec, "signerName") {
                "" => errors.required(&path.child("signerName"), ""),
                "kubernetes.io/legacy-unknown" => {
                    let why = "the legacy signerName is not allowed via this API version";
                    errors.invalid(&path.child("signerName"), "kubernetes.io/legacy-unknown", why);
                }
                name if !name.contains('/') => {
                    let why =
                        "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                    errors.invalid(&path.child("signerName"), name, why);
                }
                _ => {}
            }
            if let Some(seconds) = int(spec, "expirationSeconds")
                && seconds < 600
            {
                let why = "may not specify a duration less than 600 seconds (10 minutes)";
                errors.invalid(&path.child("expirationSeconds"), seconds, why);
            }
        },
        validate_update: |_, _, _, _, _| {},
        name_errors: meta::path_segment_errors,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            AGE,
            Column::text("SignerName", "Who is asked to sign."),
            Column::text("Requestor", "Who asked."),
            Column::text("RequestedDuration", "How long the certificate should be valid."),
            Column::text("Condition", "What has been decided and done."),
        ],
        |object, now| {
            let duration = int(object, "spec.expirationSeconds")
                .map_or_else(|| cells::NONE.to_owned(), crate::time::human);
            let mut condition = if cells::condition(object, "Denied").is_some() {
                "Denied"
            } else if cells::condition(object, "Approved").is_some() {
                "Approved"
            } else {
                "Pending"
            }
            .to_owned();
            if cells::condition(object, "Failed").is_some() {
                condition += ",Failed";
            }
            if !text(object, "status.certificate").is_empty() {
                condition += ",Issued";
            }
            vec![
                cells::name(object),
                cells::age(object, now),
                cells::or_none(text(object, "spec.signerName")).into(),
                text(object, "spec.username").into(),
                duration.into(),
                condition.into(),
            ]
        },
    );
}

/// Completes the descriptors of the kinds of `flowcontrol.apiserver.k8s.io`.
pub(super) fn flow_control(kind: &mut Kind) {
    if kind.kind == "FlowSchema" {
        kind.strategy = Strategy {
            default: |_, object_| {
                if let Some(spec) = object(object_, "spec") {
                    default(spec, "matchingPrecedence", 1000);
                }
            },
            unconditional_update: false,
            ..Strategy::GENERIC
        };
        kind.table = Table::new(
            vec![
                NAME,
                Column::text("PriorityLevel", "The level of requests that match."),
                Column::number("MatchingPrecedence", "Which schema comes first: the lowest number."),
                Column::text("DistinguisherMethod", "What tells flows apart."),
                AGE,
                Column::text("MissingPL", "Whether the level does not exist."),
            ],
            |object, now| {
                let dangling = cells::condition(object, "Dangling").map_or("?", |one| text(one, "status"));
                vec![
                    cells::name(object),
                    text(object, "spec.priorityLevelConfiguration.name").into(),
                    cells::count(object, "spec.matchingPrecedence").into(),
                    cells::or_none(text(object, "spec.distinguisherMethod.type")).into(),
                    cells::age(object, now),
                    dangling.into(),
                ]
            },
        );
        return;
    }
    kind.strategy = Strategy {
        default: |_, object_| {
            let limited = object_.get_mut("spec").and_then(|spec| spec.get_mut("limited"));
            if let Some(limited) = limited.filter(|limited| limited.is_object()) {
                default(limited, "nominalConcurrencyShares", 30);
                default(limited, "lendablePercent", 0);
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Type", "Whether requests of the level are limited."),
            Column::text("NominalConcurrencyShares", "The level's share of all seats."),
            Column::text("Queues", "How many queues the level has."),
            Column::text("HandSize", "From how many queues one is picked."),
            Column::text("QueueLengthLimit", "How long a queue may be."),
            AGE,
        ],
        |object, now| {
            let limited = &object["spec"]["limited"];
            let number = |value: &Value| cells::int_or_string(value, cells::NONE);
            let queuing = &limited["limitResponse"]["queuing"];
            vec![
                cells::name(object),
                text(object, "spec.type").into(),
                number(&limited["nominalConcurrencyShares"]).into(),
                number(&queuing["queues"]).into(),
                number(&queuing["handSize"]).into(),
                number(&queuing["queueLengthLimit"]).into(),
                cells::age(object, now),
            ]
        },
    );
}

/// Completes the descriptors of the kinds of `admissionregistration.k8s.io`.
pub(super) fn admission(kind: &mut Kind) {
    kind.strategy.unconditional_update = false;
    match kind.kind.as_ref() {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            kind.strategy.default = |kind, object| {
                let mutating = kind.kind == "MutatingWebhookConfiguration";
                each_mut(object, "webhooks", |webhook| default_webhook(webhook, mutating));
            };
            kind.strategy.validate = |_, object, errors| {
                for (index, webhook) in list(object, "webhooks").iter().enumerate() {
                    let at = Path::new("webhooks").index(index);
                    if let Some(name) = check::required(webhook, "name", &at, errors)
                        && name.split('.').count() < 3
                    {
                        let why = "should be a domain with at least three segments separated by dots";
                        errors.invalid(&at.child("name"), name, why);
                    }
                    check::one_of(webhook, "sideEffects", &["None", "NoneOnDryRun"], &at, errors);
                    if list(webhook, "admissionReviewVersions").is_empty() {
                        let why = "must specify one of v1, v1beta1";
                        errors.required(&at.child("admissionReviewVersions"), why);
                    }
                    let client = &webhook["clientConfig"];
                    if client["url"].is_null() == client["service"].is_null() {
                        let why = "exactly one of url or service is required";
                        errors.required(&at.child("clientConfig"), why);
                    }
                    let seconds = int(webhook, "timeoutSeconds").unwrap_or(10);
                    if !(1..=30).contains(&seconds) {
                        let why = "the timeout value must be between 1 and 30 seconds";
                        errors.invalid(&at.child("timeoutSeconds"), seconds, why);
                    }
                }
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
            let versions = list(spec, "versions");
            let stored = versions.iter().filter(|one| one["storage"] == true).count();
            if stored != 1 {
                let why = "must have exactly one version marked as storage version";
                errors.invalid(&path.child("versions"), spec["versions"].clone(), why);
            }
            for (index, version) in versions.iter().enumerate() {
                let at = path.child("versions").index(index);
                check::named(text(version, "name"), meta::dns_1035_label_errors, &at.child("name"), errors);
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
