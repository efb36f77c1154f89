//! Endpoints and endpoint slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::{cells, check};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, each_mut, int, list, set, text};

/// How many addresses or ports a cell shows.
const SHOWN: usize = 3;

/// Completes the descriptor of `Endpoints`.
pub(super) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, object| {
            each_mut(object, "subsets", |subset| {
                each_mut(subset, "ports", |port| default(port, "protocol", "TCP"));
            });
        },
        validate: |_, object, errors| validate(object, errors),
        create_on_update: true,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![NAME, Column::text("Endpoints", "The addresses and ports that traffic is sent to."), AGE],
        |object, now| vec![cells::name(object), addresses(object).into(), cells::age(object, now)],
    );
}

fn addresses(object: &Value) -> String {
    let subsets = list(object, "subsets");
    if subsets.is_empty() {
        return cells::NONE.into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = list(subset, "addresses").iter().map(|address| text(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(ips.map(str::to_owned));
            continue;
        }
        for port in ports {
            let number = int(port, "port").unwrap_or(0);
            let joined = |ip: &str| {
                if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
            };
            all.extend(ips.clone().map(joined));
        }
    }
    cells::some_of(&all, SHOWN)
}

fn validate(object: &Value, errors: &mut Errors) {
    for (index, subset) in list(object, "subsets").iter().enumerate() {
        let path = Path::new("subsets").index(index);
        let (ready, waiting) = (list(subset, "addresses"), list(subset, "notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (key, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            for (index, address) in addresses.iter().enumerate() {
                let at = path.child(key).index(index);
                check::endpoint_ip(text(address, "ip"), &at.child("ip"), errors);
                let host = text(address, "hostname");
                if !host.is_empty() {
                    check::named(host, meta::dns_label_errors, &at.child("hostname"), errors);
                }
            }
        }
        let ports = list(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            let at = path.child("ports").index(index);
            match text(port, "name") {
                "" if ports.len() > 1 => errors.required(&at.child("name"), ""),
                "" => {}
                name => check::named(name, meta::dns_label_errors, &at.child("name"), errors),
            }
            check::port_number(int(port, "port").unwrap_or(0), &at.child("port"), errors);
            check::one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        }
    }
}

/// Completes the descriptor of `EndpointSlice`.
pub(super) fn describe_slice(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, slice| {
            each_mut(slice, "ports", |port| {
                if port["name"].is_null() {
                    set(port, "name", "");
                }
                default(port, "protocol", "TCP");
            });
        },
        validate: |_, slice, errors| validate_slice(slice, errors),
        validate_update: |_, new, old, part, errors| {
            if part == Part::Main {
                validate_slice(new, errors);
                check::immutable(new, old, "addressType", &Path::default(), errors);
            }
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("AddressType", "What kind of addresses the slice holds."),
            Column::text("Ports", "The ports of the endpoints."),
            Column::text("Endpoints", "The addresses of the endpoints."),
            AGE,
        ],
        |slice, now| {
            let ports: Vec<String> = list(slice, "ports")
                .iter()
                .map(|port| int(port, "port").map_or_else(|| "*".to_owned(), |number| number.to_string()))
                .collect();
            let addresses: Vec<String> = list(slice, "endpoints")
                .iter()
                .flat_map(|endpoint| list(endpoint, "addresses"))
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let shown = |texts: &[String]| {
                if texts.is_empty() { cells::UNSET.to_owned() } else { cells::some_of(texts, SHOWN) }
            };
            vec![
                cells::name(slice),
                text(slice, "addressType").into(),
                shown(&ports).into(),
                shown(&addresses).into(),
                cells::age(slice, now),
            ]
        },
    );
}

fn validate_slice(slice: &Value, errors: &mut Errors) {
    let kind = text(slice, "addressType");
    let path = Path::default();
    check::one_of(slice, "addressType", &["FQDN", "IPv4", "IPv6"], &path, errors);
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > 1000 {
        errors.too_many(&Path::new("endpoints"), endpoints.len(), 1000);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = Path::new("endpoints").index(index);
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            errors.required(&at.child("addresses"), "must contain at least 1 address");
        } else if addresses.len() > 100 {
            errors.too_many(&at.child("addresses"), addresses.len(), 100);
        }
        for (index, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let at = at.child("addresses").index(index);
            match (kind, address.parse::<IpAddr>()) {
                ("IPv4", Ok(IpAddr::V6(_))) => errors.invalid(&at, address, "must be an IPv4 address"),
                ("IPv6", Ok(IpAddr::V4(_))) => errors.invalid(&at, address, "must be an IPv6 address"),
                ("IPv4" | "IPv6", _) => check::endpoint_ip(address, &at, errors),
                ("FQDN", _) => check::named(address, meta::dns_subdomain_errors, &at, errors),
                _ => {}
            }
        }
        let host = text(endpoint, "hostname");
        if !host.is_empty() {
            check::named(host, meta::dns_label_errors, &at.child("hostname"), errors);
        }
    }
    let ports = list(slice, "ports");
    if ports.len() > 100 {
        errors.too_many(&Path::new("ports"), ports.len(), 100);
    }
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = Path::new("ports").index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            check::named(name, meta::dns_label_errors, &at.child("name"), errors);
        }
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        check::one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
    }
}
