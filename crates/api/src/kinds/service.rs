//! Services. Addresses and node ports are given out by the API server within the write; what stands here
//! keeps those that were given out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, check};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table, drop_status, keep_other_parts};
use crate::value::{default, each_mut, int, keep, list, object, remove, same, set, text, unset};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Completes the descriptor.
pub(super) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, service| defaults(service),
        prepare_create: |kind, service| {
            drop_status(kind, service);
            set(service, "status", json!({"loadBalancer": {}}));
            normalize_addresses(service);
        },
        prepare_update,
        validate: |_, service, errors| validate(service, errors),
        validate_update,
        name_errors: meta::dns_1035_label_errors,
        create_on_update: true,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Type", "How the service is reached."),
            Column::text("Cluster-IP", "The address within the cluster."),
            Column::text("External-IP", "The addresses from outside."),
            Column::text("Port(s)", "The ports, with their node ports."),
            AGE,
            cells::SELECTOR,
        ],
        row,
    );
}

fn row(service: &Value, now: Timestamp) -> Vec<Value> {
    let address = match text(service, "spec.clusterIP") {
        "" => list(service, "spec.clusterIPs").first().and_then(Value::as_str).unwrap_or_default(),
        address => address,
    };
    let ports: Vec<String> = list(service, "spec.ports").iter().map(port).collect();
    vec![
        cells::name(service),
        text(service, "spec.type").into(),
        cells::or_none(address).into(),
        external(service).into(),
        cells::or_none(ports.join(",")).into(),
        cells::age(service, now),
        cells::labels(&service["spec"]["selector"]).into(),
    ]
}

fn port(port: &Value) -> String {
    let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
    match int(port, "nodePort").unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node => format!("{number}:{node}/{protocol}"),
    }
}

fn external(service: &Value) -> String {
    let ips: Vec<&str> = list(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => cells::or_none(ips.join(",")),
        "LoadBalancer" => {
            let mut all = ingress_addresses(service);
            all.extend(ips.iter().map(|ip| (*ip).to_owned()));
            cells::or(all.join(","), "<pending>")
        }
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}

/// The addresses of a load balancer's status, sorted; also of an ingress.
pub(super) fn ingress_addresses(object: &Value) -> Vec<String> {
    let places = list(object, "status.loadBalancer.ingress").iter();
    let addresses: BTreeSet<&str> = places
        .map(|place| match text(place, "ip") {
            "" => text(place, "hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().map(str::to_owned).collect()
}

fn needs_address(service: &Value) -> bool {
    matches!(text(service, "spec.type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(service: &Value) -> bool {
    match text(service, "spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool() != Some(false),
        _ => false,
    }
}

fn is_reached_from_outside(service: &Value) -> bool {
    matches!(text(service, "spec.type"), "NodePort" | "LoadBalancer")
        || (text(service, "spec.type") == "ClusterIP" && !list(service, "spec.externalIPs").is_empty())
}

fn defaults(service: &mut Value) {
    let Some(spec) = object(service, "spec") else { return };
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    if text(spec, "sessionAffinity") == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP"
        && int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds").is_none()
    {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    each_mut(spec, "ports", |port| {
        default(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if unset(target) || target.as_i64() == Some(0) {
            let number = port["port"].clone();
            set(port, "targetPort", number);
        }
    });
    let outside = is_reached_from_outside(service);
    let Some(spec) = object(service, "spec") else { return };
    if outside {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default(spec, "internalTrafficPolicy", "Cluster");
        if list(spec, "ipFamilies").is_empty() {
            let family = if text(spec, "clusterIP").contains(':') { "IPv6" } else { "IPv4" };
            set(spec, "ipFamilies", json!([family]));
        }
        default(spec, "ipFamilyPolicy", "SingleStack");
    }
    if text(spec, "type") == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"].is_null() {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
    if text(spec, "type") == "LoadBalancer"
        && let Some(balancer) = service.get_mut("status").and_then(|status| status.get_mut("loadBalancer"))
    {
        each_mut(balancer, "ingress", |place| {
            if !text(place, "ip").is_empty() {
                default(place, "ipMode", "VIP");
            }
        });
    }
}

/// `clusterIP` and the first of `clusterIPs` are the same.
fn normalize_addresses(service: &mut Value) {
    let Some(spec) = object(service, "spec") else { return };
    if !unset(&spec["clusterIP"]) && list(spec, "clusterIPs").is_empty() {
        let address = spec["clusterIP"].clone();
        set(spec, "clusterIPs", json!([address]));
    }
}

fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, part: Part<'_>) {
    keep_other_parts(kind, new, old, part);
    if part != Part::Main {
        return;
    }
    renormalize_addresses(new, old);
    keep_given_out(new, old);
    drop_what_the_type_does_not_have(new, old);
    if text(new, "spec.type") != "LoadBalancer" {
        set(new, "status", json!({"loadBalancer": {}}));
    }
}

/// A client that knows only `clusterIP` changes or clears it without touching `clusterIPs`.
fn renormalize_addresses(new: &mut Value, old: &Value) {
    let Some(spec) = object(new, "spec") else { return };
    let was = &old["spec"];
    if same(&spec["clusterIP"], &was["clusterIP"]) || !same(&spec["clusterIPs"], &was["clusterIPs"]) {
        if !unset(&spec["clusterIP"]) && list(spec, "clusterIPs").is_empty() {
            let address = spec["clusterIP"].clone();
            set(spec, "clusterIPs", json!([address]));
        }
        return;
    }
    if unset(&spec["clusterIP"]) {
        remove(spec, "clusterIPs");
    } else {
        let address = spec["clusterIP"].clone();
        set(spec, "clusterIPs", json!([address]));
    }
}

/// What was given out stays when the client left it out.
fn keep_given_out(new: &mut Value, old: &Value) {
    if needs_address(new) && needs_address(old) {
        let Some(spec) = object(new, "spec") else { return };
        if unset(&spec["clusterIP"]) {
            keep(spec, &old["spec"], "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() && same(&spec["clusterIP"], &old["spec"]["clusterIP"]) {
            keep(spec, &old["spec"], "clusterIPs");
        }
    }
    if needs_node_ports(new) && needs_node_ports(old) {
        let mut used: BTreeSet<i64> = list(new, "spec.ports")
            .iter()
            .filter_map(|port| int(port, "nodePort"))
            .filter(|port| *port != 0)
            .collect();
        let before = list(old, "spec.ports");
        let Some(spec) = object(new, "spec") else { return };
        each_mut(spec, "ports", |port| {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                return;
            }
            let same_port = |one: &&Value| one["port"] == port["port"] && one["protocol"] == port["protocol"];
            let given = before.iter().find(same_port).and_then(|one| int(one, "nodePort")).unwrap_or(0);
            if given != 0 && used.insert(given) {
                set(port, "nodePort", given);
            }
        });
        if unset(&spec["healthCheckNodePort"]) && text(spec, "externalTrafficPolicy") == "Local" {
            keep(spec, &old["spec"], "healthCheckNodePort");
        }
    }
}

/// What the new type does not have goes, unless the client set it on purpose (then validation says no).
fn drop_what_the_type_does_not_have(new: &mut Value, old: &Value) {
    let (address, outside, nodes) = (needs_address(new), is_reached_from_outside(new), needs_node_ports(new));
    let balanced = text(new, "spec.type") == "LoadBalancer";
    let was = &old["spec"];
    let Some(spec) = object(new, "spec") else { return };
    let mut drop = |keys: &[&str]| {
        for key in keys {
            if same(&spec[*key], &was[*key]) {
                remove(spec, key);
            }
        }
    };
    if needs_address(old) && !address {
        drop(&["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if is_reached_from_outside(old) && !outside {
        drop(&["externalTrafficPolicy", "healthCheckNodePort"]);
    }
    if text(old, "spec.type") == "LoadBalancer" && !balanced {
        drop(&["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if needs_node_ports(old) && !nodes {
        let before: BTreeSet<i64> =
            list(was, "ports").iter().filter_map(|port| int(port, "nodePort")).collect();
        each_mut(spec, "ports", |port| {
            if int(port, "nodePort").is_some_and(|given| before.contains(&given)) {
                remove(port, "nodePort");
            }
        });
    }
}

fn validate(service: &Value, errors: &mut Errors) {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    ports(spec, &path, headless, errors);
    meta::validate_labels(&spec["selector"], &path.child("selector"), errors);
    check::one_of(spec, "sessionAffinity", &["ClientIP", "None"], &path, errors);
    if let Some(seconds) = int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds")
        && !(1..=86400).contains(&seconds)
    {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        errors.invalid(&at, seconds, "must be greater than 0 and less than or equal to 86400");
    }
    check::one_of(spec, "type", TYPES, &path, errors);
    match kind {
        "LoadBalancer" if headless => {
            let why = "may not be set to 'None' for LoadBalancer services";
            errors.invalid(&path.child("clusterIPs").index(0), "None", why);
        }
        "NodePort" if headless => {
            let why = "may not be set to 'None' for NodePort services";
            errors.invalid(&path.child("clusterIPs").index(0), "None", why);
        }
        "ExternalName" => {
            for key in ["clusterIP", "clusterIPs"] {
                if !unset(&spec[key]) && spec[key].as_array().is_none_or(|list| !list.is_empty()) {
                    errors.forbidden(&path.child(key), "may not be set for ExternalName services");
                }
            }
            match text(spec, "externalName").trim_end_matches('.') {
                "" => errors.required(&path.child("externalName"), ""),
                name => check::named(name, meta::dns_subdomain_errors, &path.child("externalName"), errors),
            }
        }
        _ => {}
    }
    addresses(spec, &path, errors);
    for (index, ip) in list(spec, "externalIPs").iter().enumerate() {
        let at = path.child("externalIPs").index(index);
        check::endpoint_ip(ip.as_str().unwrap_or_default(), &at, errors);
    }
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let at = path.child("loadBalancerSourceRanges").index(index);
        if kind == "LoadBalancer" {
            check::cidr(range.as_str().unwrap_or_default().trim(), &at, errors);
        }
    }
    if !list(spec, "loadBalancerSourceRanges").is_empty() && kind != "LoadBalancer" {
        let why = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden(&path.child("loadBalancerSourceRanges"), why);
    }
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !spec[key].is_null() && kind != "LoadBalancer" {
            errors.forbidden(&path.child(key), "may only be used when `type` is 'LoadBalancer'");
        }
    }
    let policies = &["Cluster", "Local"];
    check::one_of_or_unset(spec, "internalTrafficPolicy", policies, &path, errors);
    if !text(spec, "externalTrafficPolicy").is_empty() && !is_reached_from_outside(service) {
        let why = "may only be set for externally-accessible services";
        errors.invalid(&path.child("externalTrafficPolicy"), text(spec, "externalTrafficPolicy"), why);
    } else {
        check::one_of_or_unset(spec, "externalTrafficPolicy", policies, &path, errors);
    }
}

fn ports(spec: &Value, path: &Path, headless: bool, errors: &mut Errors) {
    let ports = list(spec, "ports");
    let kind = text(spec, "type");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    let (mut names, mut numbers, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = path.child("ports").index(index);
        match text(port, "name") {
            "" if ports.len() > 1 => errors.required(&at.child("name"), ""),
            "" => {}
            name => {
                check::named(name, meta::dns_label_errors, &at.child("name"), errors);
                if !names.insert(name) {
                    errors.duplicate(&at.child("name"), name);
                }
            }
        }
        let number = int(port, "port").unwrap_or(0);
        check::port_number(number, &at.child("port"), errors);
        check::one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        check::port(&port["targetPort"], &at.child("targetPort"), errors);
        if !numbers.insert((text(port, "protocol"), number)) {
            errors.duplicate(&at, json!({"protocol": port["protocol"], "port": number}));
        }
        let node = int(port, "nodePort").unwrap_or(0);
        if node != 0 {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                let why = format!("may not be used when `type` is '{kind}'");
                errors.forbidden(&at.child("nodePort"), why);
            }
            if !nodes.insert((text(port, "protocol"), node)) {
                errors.duplicate(&at.child("nodePort"), node);
            }
        }
    }
}

fn addresses(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = list(spec, "clusterIPs");
    if text(spec, "type") == "ExternalName" {
        return;
    }
    if let Some(first) = all.first()
        && !unset(&spec["clusterIP"])
        && *first != spec["clusterIP"]
    {
        errors.invalid(
            &path.child("clusterIPs"),
            spec["clusterIPs"].clone(),
            "first value must match `clusterIP`",
        );
    }
    for (index, address) in all.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        let at = path.child("clusterIPs").index(index);
        match address {
            "None" if index == 0 && all.len() > 1 => {
                let why = "'None' must be the first and only value";
                errors.invalid(&path.child("clusterIPs"), spec["clusterIPs"].clone(), why);
            }
            "None" if index == 0 => {}
            address => check::ip(address, &at, errors),
        }
    }
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        if !matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            let at = path.child("ipFamilies").index(index);
            errors.not_supported(&at, family.clone(), &["IPv4", "IPv6"]);
        }
    }
    let policies = &["SingleStack", "PreferDualStack", "RequireDualStack"];
    check::one_of_or_unset(spec, "ipFamilyPolicy", policies, path, errors);
}

fn validate_update(_: &Kind, new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    if part == Part::Status {
        let at = Path::new("status").child("loadBalancer").child("ingress");
        let places = list(new, "status.loadBalancer.ingress");
        if !places.is_empty() && text(new, "spec.type") != "LoadBalancer" {
            errors.forbidden(&at, "may only be used when `spec.type` is \"LoadBalancer\"");
        }
        for (index, place) in places.iter().enumerate() {
            let ip = text(place, "ip");
            if !ip.is_empty() {
                check::ip(ip, &at.index(index).child("ip"), errors);
            }
        }
        return;
    }
    if needs_address(new) && needs_address(old) && !unset(&old["spec"]["clusterIP"]) {
        let at = Path::new("spec").child("clusterIPs").index(0);
        if unset(&new["spec"]["clusterIP"]) {
            errors.invalid(&at, new["spec"]["clusterIPs"].clone(), "primary clusterIP can not be unset");
        } else if !same(&new["spec"]["clusterIP"], &old["spec"]["clusterIP"]) {
            errors.invalid(&at, new["spec"]["clusterIPs"].clone(), "may not change once set");
        }
    }
    validate(new, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec});
        defaults(&mut object);
        normalize_addresses(&mut object);
        object
    }

    #[test]
    fn a_small_service_gets_upstreams_defaults() {
        assert_eq!(
            service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}}))["spec"],
            json!({
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"a": "b"},
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            })
        );
    }

    #[test]
    fn an_update_keeps_what_was_given_out() {
        let kind = builtin().of("v1", "Service").unwrap();
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.3.0.7", "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        let mut new =
            service(json!({"type": "LoadBalancer", "ports": [{"port": 80}, {"port": 81, "name": "x"}]}));
        prepare_update(kind, &mut new, &old, Part::Main);
        assert_eq!(new["spec"]["clusterIP"], "10.3.0.7");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.3.0.7"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert!(new["spec"]["ports"][1]["nodePort"].is_null());

        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        prepare_update(kind, &mut new, &old, Part::Main);
        assert!(new["spec"]["ports"][0]["nodePort"].is_null());
        assert!(new["spec"].get("externalTrafficPolicy").is_none());

        let mut new = old.clone();
        new["spec"]["clusterIP"] = "10.3.0.8".into();
        prepare_update(kind, &mut new, &old, Part::Main);
        let mut errors = Errors::new();
        validate_update(kind, &new, &old, Part::Main, &mut errors);
        assert_eq!(
            errors.joined(),
            "spec.clusterIPs[0]: Invalid value: [\"10.3.0.8\"]: may not change once set"
        );
    }

    #[test]
    fn the_table_shows_addresses_and_ports() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for (spec, status, expect) in [
            (json!({"ports": [{"port": 80}]}), json!({}), ["ClusterIP", "<none>", "<none>", "80/TCP"]),
            (
                json!({"type": "NodePort", "clusterIP": "10.3.0.1", "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}),
                json!({}),
                ["NodePort", "10.3.0.1", "<none>", "80:30080/TCP,53/UDP"],
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 80}]}),
                json!({}),
                ["LoadBalancer", "<none>", "<pending>", "80/TCP"],
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 80}], "externalIPs": ["1.2.3.4"]}),
                json!({"loadBalancer": {"ingress": [{"ip": "172.17.4.51"}]}}),
                ["LoadBalancer", "<none>", "172.17.4.51,1.2.3.4", "80/TCP"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.b"}),
                json!({}),
                ["ExternalName", "<none>", "a.b", "<none>"],
            ),
            (json!({"clusterIP": "None"}), json!({}), ["ClusterIP", "None", "<none>", "<none>"]),
        ] {
            let mut object = service(spec);
            object["status"] = status;
            assert_eq!(row(&object, now)[1..5], expect.map(Value::from));
        }
    }
}
