//! Ingresses, their classes, and network policies.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, check, service};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, each_mut, int, list, object, set, text};

/// Completes the descriptors of the kinds of `networking.k8s.io`.
pub(super) fn describe(kind: &mut Kind) {
    match kind.kind.as_ref() {
        "Ingress" => ingress(kind),
        "IngressClass" => class(kind),
        "NetworkPolicy" => policy(kind),
        "IPAddress" => {
            kind.table = Table::new(
                vec![NAME, Column::text("ParentRef", "What the address was given to.")],
                |object, _| {
                    let parent = &object["spec"]["parentRef"];
                    let resource = match text(parent, "group") {
                        "" => text(parent, "resource").to_owned(),
                        group => format!("{}.{group}", text(parent, "resource")),
                    };
                    let name = match text(parent, "namespace") {
                        "" => text(parent, "name").to_owned(),
                        namespace => format!("{namespace}/{}", text(parent, "name")),
                    };
                    vec![cells::name(object), format!("{resource}/{name}").into()]
                },
            );
        }
        _ => {
            kind.table = Table::new(
                vec![NAME, Column::text("CIDRs", "The ranges that services get addresses from."), AGE],
                |object, now| {
                    let ranges: Vec<&str> =
                        list(object, "spec.cidrs").iter().filter_map(Value::as_str).collect();
                    vec![cells::name(object), ranges.join(",").into(), cells::age(object, now)]
                },
            );
        }
    }
}

fn ingress(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, ingress, errors| validate_ingress(ingress, errors),
        validate_update: |_, new, _, part, errors| {
            if part == Part::Main {
                validate_ingress(new, errors);
            }
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Class", "The class of the ingress."),
            Column::text("Hosts", "The hosts that it serves."),
            Column::text("Address", "Where it is reached."),
            Column::text("Ports", "The ports that it serves."),
            AGE,
        ],
        ingress_row,
    );
}

fn ingress_row(ingress: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = list(ingress, "spec.rules")
        .iter()
        .map(|rule| text(rule, "host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { cells::some_of(&hosts, 3) };
    let ports = if list(ingress, "spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        cells::name(ingress),
        cells::or_none(text(ingress, "spec.ingressClassName")).into(),
        hosts.into(),
        service::ingress_addresses(ingress).join(",").into(),
        ports.into(),
        cells::age(ingress, now),
    ]
}

fn validate_ingress(ingress: &Value, errors: &mut Errors) {
    let (spec, path) = (&ingress["spec"], Path::new("spec"));
    let rules = list(spec, "rules");
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&path, json!([]), why);
    }
    if spec["defaultBackend"].is_object() {
        backend(&spec["defaultBackend"], &path.child("defaultBackend"), errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = path.child("rules").index(index);
        host(text(rule, "host"), &at.child("host"), errors);
        if !rule["http"].is_object() {
            continue;
        }
        let paths = list(rule, "http.paths");
        let http = at.child("http").child("paths");
        if paths.is_empty() {
            errors.required(&http, "");
        }
        for (index, one) in paths.iter().enumerate() {
            let at = http.index(index);
            let place = text(one, "path");
            match text(one, "pathType") {
                "" => errors.required(&at.child("pathType"), "pathType must be specified"),
                "Exact" | "Prefix" => {
                    if !place.starts_with('/') {
                        errors.invalid(&at.child("path"), place, "must be an absolute path");
                    }
                    for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                        if place.contains(bad) {
                            errors.invalid(&at.child("path"), place, format!("must not contain '{bad}'"));
                        }
                    }
                }
                "ImplementationSpecific" => {
                    if !place.is_empty() && !place.starts_with('/') {
                        errors.invalid(&at.child("path"), place, "must be an absolute path");
                    }
                }
                other => errors.not_supported(
                    &at.child("pathType"),
                    other,
                    &["Exact", "ImplementationSpecific", "Prefix"],
                ),
            }
            backend(&one["backend"], &at.child("backend"), errors);
        }
    }
    for (index, tls) in list(spec, "tls").iter().enumerate() {
        for (number, name) in list(tls, "hosts").iter().enumerate() {
            let at = path.child("tls").index(index).child("hosts").index(number);
            host(name.as_str().unwrap_or_default(), &at, errors);
        }
    }
    let class = text(spec, "ingressClassName");
    if !class.is_empty() {
        check::named(class, meta::dns_subdomain_errors, &path.child("ingressClassName"), errors);
    }
}

fn host(host: &str, path: &Path, errors: &mut Errors) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    } else if host.contains('*') {
        let rest = host.strip_prefix("*.").unwrap_or_default();
        if !meta::dns_subdomain_errors(rest).is_empty() {
            errors.invalid(
                path,
                host,
                "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
                 consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character \
                 (e.g. '*.example.com', regex used for validation is \
                 '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            );
        }
    } else {
        check::named(host, meta::dns_subdomain_errors, path, errors);
    }
}

fn backend(backend: &Value, path: &Path, errors: &mut Errors) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_object(), resource.is_object()) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => errors.required(path, "resource or service backend is required"),
        (false, true) => {
            check::required(resource, "kind", &path.child("resource"), errors);
            check::required(resource, "name", &path.child("resource"), errors);
        }
        (true, false) => {
            let at = path.child("service");
            if let Some(name) = check::required(service, "name", &at, errors) {
                check::named(name, meta::dns_1035_label_errors, &at.child("name"), errors);
            }
            let (name, number) = (text(service, "port.name"), int(service, "port.number").unwrap_or(0));
            match (name, number) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => check::port_number(number, &at.child("port").child("number"), errors),
                (name, 0) => {
                    check::named(name, meta::port_name_errors, &at.child("port").child("name"), errors);
                }
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn class(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, class| {
            let parameters = class.get_mut("spec").and_then(|spec| spec.get_mut("parameters"));
            if let Some(parameters) = parameters {
                default(parameters, "scope", "Cluster");
            }
        },
        validate: |_, class, errors| {
            let path = Path::new("spec").child("controller");
            match text(class, "spec.controller") {
                "" => errors.required(&path, "must be specified"),
                name => check::named(name, meta::qualified_name_errors, &path, errors),
            }
        },
        validate_update: |kind, new, old, part, errors| {
            if part == Part::Main {
                (kind.strategy.validate)(kind, new, errors);
                check::immutable(&new["spec"], &old["spec"], "controller", &Path::new("spec"), errors);
            }
        },
        create_on_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Controller", "What serves ingresses of the class."),
            Column::text("Parameters", "The object with further settings."),
            AGE,
        ],
        |class, now| {
            let parameters = &class["spec"]["parameters"];
            let shown = if parameters.is_object() {
                let group = text(parameters, "apiGroup");
                let dot = if group.is_empty() { "" } else { "." };
                format!("{}{dot}{group}/{}", text(parameters, "kind"), text(parameters, "name"))
            } else {
                cells::NONE.to_owned()
            };
            vec![
                cells::name(class),
                text(class, "spec.controller").into(),
                shown.into(),
                cells::age(class, now),
            ]
        },
    );
}

fn policy(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, policy| {
            let Some(spec) = object(policy, "spec") else { return };
            for key in ["ingress", "egress"] {
                each_mut(spec, key, |rule| each_mut(rule, "ports", |port| default(port, "protocol", "TCP")));
            }
            if list(spec, "policyTypes").is_empty() {
                let both = !list(spec, "egress").is_empty();
                set(
                    spec,
                    "policyTypes",
                    if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) },
                );
            }
        },
        validate: |_, policy, errors| validate_policy(policy, errors),
        validate_update: |_, new, _, part, errors| {
            if part == Part::Main {
                validate_policy(new, errors);
            }
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![NAME, Column::text("Pod-Selector", "The pods that the policy is for."), AGE],
        |policy, now| {
            let selector = cells::selector(&policy["spec"]["podSelector"]);
            vec![cells::name(policy), selector.into(), cells::age(policy, now)]
        },
    );
}

fn validate_policy(policy: &Value, errors: &mut Errors) {
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    meta::validate_selector(&spec["podSelector"], &path.child("podSelector"), errors);
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, key).iter().enumerate() {
            let at = path.child(key).index(index);
            for (index, port) in list(rule, "ports").iter().enumerate() {
                policy_port(port, &at.child("ports").index(index), errors);
            }
            for (index, one) in list(rule, peers).iter().enumerate() {
                peer(one, &at.child(peers).index(index), errors);
            }
        }
    }
    let types = list(spec, "policyTypes");
    let at = path.child("policyTypes");
    if types.len() > 2 {
        errors.invalid(&at, spec["policyTypes"].clone(), "may not specify more than two policyTypes");
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            errors.not_supported(&at.index(index), kind.clone(), &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(port: &Value, path: &Path, errors: &mut Errors) {
    check::one_of_or_unset(port, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
    let end = int(port, "endPort");
    if port["port"].is_null() {
        if end.is_some() {
            errors.required(&path.child("port"), "must be specified when `endPort` is specified");
        }
        return;
    }
    check::port(&port["port"], &path.child("port"), errors);
    match (end, port["port"].as_i64()) {
        (Some(end), Some(first)) if end < first => {
            errors.invalid(&path.child("endPort"), end, "must be greater than or equal to `port`");
        }
        (Some(_), None) => {
            errors.required(&path.child("endPort"), "may not be specified when `port` is non-numeric");
        }
        _ => {}
    }
}

fn peer(peer: &Value, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if peer[key].is_object() {
            count += 1;
            meta::validate_selector(&peer[key], &path.child(key), errors);
        }
    }
    if peer["ipBlock"].is_object() {
        let at = path.child("ipBlock");
        let range = text(peer, "ipBlock.cidr");
        if range.is_empty() {
            errors.required(&at.child("cidr"), "");
        } else {
            check::cidr(range, &at.child("cidr"), errors);
        }
        for (index, except) in list(peer, "ipBlock.except").iter().enumerate() {
            let except = except.as_str().unwrap_or_default();
            let at = at.child("except").index(index);
            match (check::parse_cidr(except), check::parse_cidr(range)) {
                (None, _) => check::cidr(except, &at, errors),
                (Some(inner), Some(outer)) if !check::cidr_within(inner, outer) => {
                    errors.invalid(&at, except, "must be a strict subset of `cidr`");
                }
                _ => {}
            }
        }
        if count > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        count += 1;
    }
    if count == 0 {
        errors.required(path, "must specify a peer");
    }
}
