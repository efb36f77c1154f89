//! Finds everything that is wrong with a spec, and fills in what nobody said.

mod etcd;
mod group;
mod vm;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::document::{At, Document, Group, NetworkSection, Place};
use super::{ClusterSpec, Machines, Network, Problem, ProviderKind};
use etcd::check_etcd;
pub(crate) use etcd::masters_warning;
pub(crate) use group::MOST_MASTERS;
use group::{Role, check_group};
use vm::{Vm, check_runtime, check_vm};

/// The longest name: the state directory, bridge and container names are made from it.
const LONGEST_NAME: usize = 32;
/// The port of the kubelet API, which nothing else may use.
const KUBELET_PORT: u16 = 10250;
/// Bits of the part of the pod network that one node gets.
pub(crate) const NODE_PREFIX: u8 = 24;

/// Collects problems, so that a user sees all of them at once.
#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    fn wrong(&mut self, place: Place, field: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.problems.push(Problem { place, field: field.into(), wrong: wrong.into(), right: right.into() });
    }

    fn network(&mut self, field: &str, given: Option<&At<String>>, default: Ipv4Net) -> (Ipv4Net, Place) {
        let Some(At { value, place }) = given else { return (default, Place::Default) };
        match value.parse::<Ipv4Net>() {
            Ok(network) if network.addr() != network.network() => self.wrong(
                *place,
                field,
                format!("{value:?} has bits set behind its prefix"),
                network.trunc().to_string(),
            ),
            Ok(network) => {
                let first = network.network();
                if first.is_loopback()
                    || first.is_multicast()
                    || first.is_link_local()
                    || first.octets()[0] == 0
                {
                    self.wrong(
                        *place,
                        field,
                        format!("{value:?} is reserved and cannot be routed"),
                        format!("a private network, such as {default}"),
                    );
                }
                return (network, *place);
            }
            Err(_) => self.wrong(
                *place,
                field,
                format!("{value:?} is not an IPv4 network"),
                format!("ADDRESS/PREFIX, such as {default}"),
            ),
        }
        (default, *place)
    }

    fn address(&mut self, field: &str, given: Option<&At<String>>, default: Ipv4Addr) -> (Ipv4Addr, Place) {
        let Some(At { value, place }) = given else { return (default, Place::Default) };
        let address = value.parse().unwrap_or_else(|_| {
            self.wrong(
                *place,
                field,
                format!("{value:?} is not an IPv4 address"),
                format!("such as {default}"),
            );
            default
        });
        (address, *place)
    }

    fn inside(&mut self, field: &str, (address, place): (Ipv4Addr, Place), of: &str, network: Ipv4Net) {
        if !usable(network, address) {
            self.wrong(
                place,
                field,
                format!("{address} is not a usable address of {of} {network}"),
                span(network),
            );
        }
    }
}

/// Returns whether a machine can have `address` in `network`: neither its first nor its last one.
fn usable(network: Ipv4Net, address: Ipv4Addr) -> bool {
    network.contains(&address) && address != network.network() && address != network.broadcast()
}

fn span(network: Ipv4Net) -> String {
    format!(
        "one of {} to {}",
        offset(network.network(), 1),
        Ipv4Addr::from(u32::from(network.broadcast()).saturating_sub(1))
    )
}

fn offset(address: Ipv4Addr, by: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address).saturating_add(by))
}

/// Checks `document` and completes it.
///
/// # Errors
/// Every problem that was found, in the order of the file.
pub(crate) fn check(document: &Document) -> Result<ClusterSpec, Vec<Problem>> {
    let Document { name, provider, masters, workers, network, registries, runtime, .. } = document;
    let mut checker = Checker::default();
    let name = check_name(&mut checker, name.as_ref());
    let provider = check_provider(&mut checker, provider.as_ref());
    let nodes_place = place_of(network.as_ref(), |section| section.nodes.as_ref());
    let mut network = check_network(&mut checker, network.as_ref());
    let masters =
        check_group(&mut checker, Role::Master, masters.as_ref(), (&network, nodes_place), provider);
    let workers =
        check_group(&mut checker, Role::Worker, workers.as_ref(), (&network, nodes_place), provider);
    let etcd = check_etcd(&mut checker, document, &masters, &mut network);
    check_addresses(&mut checker, document, &network, &masters, &workers);
    let mirrors = check_mirrors(&mut checker, registries.as_ref().map(|section| &section.mirrors));
    let runtime = check_runtime(&mut checker, runtime.as_ref(), provider);
    let vm = check_vm(&mut checker, document, provider, &network);
    let mut problems = checker.problems;
    if problems.is_empty() {
        let Vm { os, ssh, ignition, proxy, certificates } = vm;
        Ok(ClusterSpec {
            name,
            provider,
            masters,
            workers,
            network,
            etcd,
            mirrors,
            runtime,
            os,
            ssh,
            ignition,
            proxy,
            certificates,
        })
    } else {
        problems.sort_by_key(|problem| problem.place);
        Err(problems)
    }
}

/// Returns what is wrong with a DNS label, if anything.
fn label_fault(label: &str, longest: usize) -> Option<&'static str> {
    if label.is_empty() {
        Some("is empty")
    } else if label.len() > longest {
        Some("is too long")
    } else if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        Some("has characters that a DNS label cannot have")
    } else if label.starts_with('-') || label.ends_with('-') {
        Some("begins or ends with a hyphen")
    } else {
        None
    }
}

fn check_name(checker: &mut Checker, name: Option<&At<String>>) -> String {
    let Some(At { value, place }) = name else { return "lab".into() };
    if let Some(fault) = label_fault(value, LONGEST_NAME) {
        checker.wrong(
            *place,
            "name",
            format!("{value:?} {fault}"),
            format!("1 to {LONGEST_NAME} of a-z, 0-9 and inner hyphens, such as lab"),
        );
    }
    value.clone()
}

fn check_provider(checker: &mut Checker, provider: Option<&At<String>>) -> ProviderKind {
    let Some(At { value, place }) = provider else { return ProviderKind::Local };
    match value.as_str() {
        "local" => ProviderKind::Local,
        "vagrant" => ProviderKind::Vagrant,
        "qemu" => ProviderKind::Qemu,
        other => {
            checker.wrong(
                *place,
                "provider",
                format!("{other:?} is not a provider"),
                "local, vagrant or qemu",
            );
            ProviderKind::Local
        }
    }
}

fn check_network(checker: &mut Checker, section: Option<&NetworkSection>) -> Network {
    let empty = NetworkSection::default();
    let NetworkSection {
        nodes,
        pods,
        services,
        host,
        api: _,
        etcd,
        dns,
        domain,
        api_port,
        node_ports,
        load_balancers,
    } = section.unwrap_or(&empty);
    let default_nodes = Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 4, 0), 24);
    let nodes = checker.network("network.nodes", nodes.as_ref(), default_nodes);
    let pods =
        checker.network("network.pods", pods.as_ref(), Ipv4Net::new_assert(Ipv4Addr::new(10, 2, 0, 0), 16));
    let default_services = Ipv4Net::new_assert(Ipv4Addr::new(10, 3, 0, 0), 24);
    let services = checker.network("network.services", services.as_ref(), default_services);
    let mut prefix =
        |field: &str, (network, place): (Ipv4Net, Place), shortest: u8, longest: u8, why: &str| {
            if network.prefix_len() < shortest || network.prefix_len() > longest {
                checker.wrong(
                    place,
                    field,
                    format!("{network} has a prefix of {} bits", network.prefix_len()),
                    format!("a prefix from {shortest} to {longest}: {why}"),
                );
            }
        };
    prefix("network.nodes", nodes, 8, 28, "every machine, the host and load balancers need an address");
    prefix("network.pods", pods, 8, NODE_PREFIX, "each node gets a /24 of it");
    prefix("network.services", services, 12, 28, "each service needs an address, and DNS the tenth");
    for ((left_name, left), (right_name, right)) in [
        (("nodes", nodes), ("pods", pods)),
        (("nodes", nodes), ("services", services)),
        (("pods", pods), ("services", services)),
    ] {
        if left.0.contains(&right.0) || right.0.contains(&left.0) {
            // The later of the two is the one to change; a default was not written by anyone.
            let (field, at, other, overlapped) = if right.1 == Place::Default {
                (left_name, left, right_name, right.0)
            } else {
                (right_name, right, left_name, left.0)
            };
            checker.wrong(
                at.1,
                &format!("network.{field}"),
                format!("{} overlaps network.{other} {overlapped}", at.0),
                format!("a network that shares no address with {overlapped}"),
            );
        }
    }
    let base = nodes.0.network();
    let host = checker.address("network.host", host.as_ref(), offset(base, 1));
    checker.inside("network.host", host, "network.nodes", nodes.0);
    let etcd = checker.address("network.etcd", etcd.as_ref(), offset(base, 51));
    // A default that a small network has no room for is dropped to where it is harmless: nothing uses it
    // unless there are several masters, and then a given address is asked for.
    let etcd =
        if etcd.1 == Place::Default && !usable(nodes.0, etcd.0) { (offset(base, 2), etcd.1) } else { etcd };
    checker.inside("network.etcd", etcd, "network.nodes", nodes.0);
    let dns = checker.address("network.dns", dns.as_ref(), offset(services.0.network(), 10));
    // The default one is there in every network that is large enough.
    if dns.1 != Place::Default {
        checker.inside("network.dns", dns, "network.services", services.0);
    }
    if dns.0 == offset(services.0.network(), 1) {
        checker.wrong(
            dns.1,
            "network.dns",
            format!("{} is the API's own service address", dns.0),
            format!("another one, such as {}", offset(services.0.network(), 10)),
        );
    }
    let api_port = check_api_port(checker, api_port.as_ref());
    let node_ports = check_node_ports(checker, node_ports.as_ref(), api_port);
    let load_balancers = check_load_balancers(checker, load_balancers.as_ref(), nodes.0);
    Network {
        nodes: nodes.0,
        pods: pods.0,
        services: services.0,
        host: host.0,
        api: None,
        etcd: etcd.0,
        dns: dns.0,
        domain: check_domain(checker, domain.as_ref()),
        api_port,
        node_ports,
        load_balancers,
    }
}

fn check_domain(checker: &mut Checker, domain: Option<&At<String>>) -> String {
    let Some(At { value, place }) = domain else { return "cluster.local".into() };
    if value.len() > 200 || value.split('.').any(|label| label_fault(label, 63).is_some()) {
        checker.wrong(
            *place,
            "network.domain",
            format!("{value:?} is not a DNS domain"),
            "labels of a-z, 0-9 and inner hyphens with dots between, such as cluster.local",
        );
    }
    value.clone()
}

fn check_api_port(checker: &mut Checker, port: Option<&At<i64>>) -> u16 {
    let Some(At { value, place }) = port else { return 443 };
    match u16::try_from(*value) {
        Ok(port) if port != 0 && port != KUBELET_PORT && port != 53 => port,
        Ok(port @ (KUBELET_PORT | 53)) => {
            let owner = if port == 53 { "the cluster DNS" } else { "the kubelet API" };
            checker.wrong(*place, "network.apiPort", format!("{port} belongs to {owner}"), "443 or 6443");
            443
        }
        _ => {
            checker.wrong(
                *place,
                "network.apiPort",
                format!("{value} is not a port"),
                "1 to 65535, such as 443",
            );
            443
        }
    }
}

fn check_node_ports(checker: &mut Checker, given: Option<&At<String>>, api_port: u16) -> (u16, u16) {
    let default = (30000, 32767);
    let Some(At { value, place }) = given else { return default };
    let parsed = value.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    let field = "network.nodePorts";
    match parsed {
        Some((first, last)) if first == 0 || first > last => {
            checker.wrong(*place, field, format!("{value:?} goes backwards or begins at 0"), "30000-32767");
        }
        Some((first, last)) => {
            for (port, owner) in
                [(api_port, "the API"), (KUBELET_PORT, "the kubelet API"), (53, "the cluster DNS")]
            {
                if (first..=last).contains(&port) {
                    checker.wrong(
                        *place,
                        field,
                        format!("{value:?} contains {port}, the port of {owner}"),
                        "a range without it, such as 30000-32767",
                    );
                }
            }
            return (first, last);
        }
        None => checker.wrong(
            *place,
            field,
            format!("{value:?} is not a range of ports"),
            "FIRST-LAST, such as 30000-32767",
        ),
    }
    default
}

fn check_load_balancers(
    checker: &mut Checker,
    given: Option<&At<String>>,
    nodes: Ipv4Net,
) -> (Ipv4Addr, Ipv4Addr) {
    // .60 to .99: behind nine etcd members from .51, before the masters from .101.
    let base = nodes.network();
    let default = if usable(nodes, offset(base, 99)) {
        (offset(base, 60), offset(base, 99))
    } else {
        // A small network: its last quarter.
        let last = u32::from(nodes.broadcast()).saturating_sub(1);
        let quarter = (last - u32::from(base)) / 4;
        (Ipv4Addr::from(last - quarter), Ipv4Addr::from(last))
    };
    let Some(At { value, place }) = given else { return default };
    let field = "network.loadBalancers";
    let parsed = value.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<Ipv4Addr>().ok()?, last.trim().parse::<Ipv4Addr>().ok()?))
    });
    let example = format!("FIRST-LAST, such as {}-{}", default.0, default.1);
    match parsed {
        Some((first, last)) if first > last => {
            checker.wrong(*place, field, format!("{value:?} goes backwards"), example);
        }
        Some((first, last)) => {
            for end in [first, last] {
                checker.inside(field, (end, *place), "network.nodes", nodes);
            }
            return (first, last);
        }
        None => checker.wrong(*place, field, format!("{value:?} is not a range of addresses"), example),
    }
    default
}

/// Returns where a field of the network section was written.
fn place_of(section: Option<&NetworkSection>, pick: fn(&NetworkSection) -> Option<&At<String>>) -> Place {
    section.and_then(pick).map_or(Place::Default, |at| at.place)
}

/// Finds addresses that two would have.
fn check_addresses(
    checker: &mut Checker,
    document: &Document,
    network: &Network,
    masters: &Machines,
    workers: &Machines,
) {
    let range = |machines: &Machines| {
        let first = u32::from(machines.first_address);
        (machines.count > 0).then(|| (first, first.saturating_add(machines.count - 1)))
    };
    let group_place = |group: Option<&Group>| {
        group
            .and_then(|group| {
                group.first_address.as_ref().map(|at| at.place).or(group.count.as_ref().map(|at| at.place))
            })
            .unwrap_or(Place::Default)
    };
    let section = document.network.as_ref();
    let place = |pick: fn(&NetworkSection) -> Option<&At<String>>| place_of(section, pick);
    let single = |address: Ipv4Addr| Some((u32::from(address), u32::from(address)));
    let users = [
        ("network.host", single(network.host), place(|s| s.host.as_ref())),
        ("network.api", network.api.and_then(single), place(|s| s.api.as_ref())),
        (
            "network.etcd",
            if masters.count > 1 { single(network.etcd) } else { None },
            place(|s| s.etcd.as_ref()),
        ),
        ("masters", range(masters), group_place(document.masters.as_ref())),
        ("workers", range(workers), group_place(document.workers.as_ref())),
        (
            "network.loadBalancers",
            Some((u32::from(network.load_balancers.0), u32::from(network.load_balancers.1))),
            place(|s| s.load_balancers.as_ref()),
        ),
    ];
    for (index, (left, left_range, left_place)) in users.iter().enumerate() {
        for (right, right_range, right_place) in &users[index + 1..] {
            let (Some(a), Some(b)) = (left_range, right_range) else { continue };
            if a.0 <= b.1 && b.0 <= a.1 {
                let shared = Ipv4Addr::from(a.0.max(b.0));
                // Blame what was written; of two that were, the later one.
                let (field, other, at) = if right_place == &Place::Default {
                    (left, right, left_place)
                } else {
                    (right, left, right_place)
                };
                // Defaults collide only in a network that is too small for them.
                let at = if *at == Place::Default { place(|s| s.nodes.as_ref()) } else { *at };
                checker.wrong(
                    at,
                    field,
                    format!("{shared} is also used by {other}"),
                    format!("addresses of {} beside those of {other}", network.nodes),
                );
            }
        }
    }
    let machines = u64::from(masters.count) + u64::from(workers.count);
    let shares = 1u64 << u32::from(NODE_PREFIX.saturating_sub(network.pods.prefix_len()));
    if machines > shares {
        checker.wrong(
            place(|s| s.pods.as_ref()),
            "network.pods",
            format!(
                "{} has room for {shares} nodes of a /{NODE_PREFIX} each, and there are {machines}",
                network.pods
            ),
            "a shorter prefix, such as 10.2.0.0/16",
        );
    }
}

fn check_mirrors(
    checker: &mut Checker,
    mirrors: Option<&BTreeMap<String, Vec<At<String>>>>,
) -> BTreeMap<String, Vec<String>> {
    let mut kept = BTreeMap::new();
    for (registry, urls) in mirrors.into_iter().flatten() {
        if !is_registry(registry) {
            // A key has no place of its own; it stands before its first URL.
            checker.wrong(
                urls.first().map_or(Place::Default, |url| url.place),
                "registries.mirrors",
                format!("{registry:?} is not the name of a registry"),
                "HOST or HOST:PORT, such as docker.io",
            );
        }
        for At { value, place } in urls {
            let usable = url::Url::parse(value)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
            if !usable {
                checker.wrong(
                    *place,
                    &format!("registries.mirrors.{registry}"),
                    format!("{value:?} is not the URL of a registry"),
                    "http://HOST:PORT or https://HOST",
                );
            }
        }
        kept.insert(registry.clone(), urls.iter().map(|url| url.value.clone()).collect());
    }
    kept
}

/// Returns whether `name` is a host, with or without a port: directories are named after it.
fn is_registry(name: &str) -> bool {
    let (host, port) = name.split_once(':').map_or((name, None), |(host, port)| (host, Some(port)));
    host.split('.').all(|label| label_fault(label, 63).is_none())
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}
