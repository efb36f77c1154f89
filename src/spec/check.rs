//! Finds everything that is wrong with a spec, and fills in what nobody said.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::document::{At, Document, Group, NetworkSection, OsSection, Place, SshSection};
use super::{ClusterSpec, Flavor, Machines, Network, Os, Problem, ProviderKind, Ssh};

/// The longest name: the state directory, bridge and container names are made from it.
const LONGEST_NAME: usize = 32;
/// The port of the kubelet API, which nothing else may use.
const KUBELET_PORT: u16 = 10250;
/// Bits of the part of the pod network that one node gets.
pub(crate) const NODE_PREFIX: u8 = 24;
/// The most machines of one role. Masters are etcd members, of which more than seven only slow writes down.
const MOST_MASTERS: i64 = 7;
const MOST_WORKERS: i64 = 250;

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
    let Document { name, provider, masters, workers, network, registries, os, ssh } = document;
    let mut checker = Checker::default();
    let name = check_name(&mut checker, name.as_ref());
    let provider = check_provider(&mut checker, provider.as_ref());
    let nodes_place = place_of(network.as_ref(), |section| section.nodes.as_ref());
    let network = check_network(&mut checker, network.as_ref());
    let masters =
        check_group(&mut checker, Role::Master, masters.as_ref(), (&network, nodes_place), provider);
    let workers =
        check_group(&mut checker, Role::Worker, workers.as_ref(), (&network, nodes_place), provider);
    check_addresses(&mut checker, document, &network, &masters, &workers);
    let mirrors = check_mirrors(&mut checker, registries.as_ref().map(|section| &section.mirrors));
    let os = check_os(&mut checker, os.as_ref(), provider);
    let ssh = check_ssh(&mut checker, ssh.as_ref(), provider);
    let mut problems = checker.problems;
    if problems.is_empty() {
        Ok(ClusterSpec { name, provider, masters, workers, network, mirrors, os, ssh })
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Master,
    Worker,
}

fn check_group(
    checker: &mut Checker,
    role: Role,
    group: Option<&Group>,
    (network, nodes_place): (&Network, Place),
    provider: ProviderKind,
) -> Machines {
    let (section, first_offset, most) = match role {
        Role::Master => ("masters", 101, MOST_MASTERS),
        Role::Worker => ("workers", 201, MOST_WORKERS),
    };
    let empty = Group::default();
    let Group { count, first_address, cpus, memory, disk, labels } = group.unwrap_or(&empty);
    let field = |name: &str| format!("{section}.{name}");
    let count = match count {
        None => 1,
        Some(At { value: 0, place }) if role == Role::Master => {
            checker.wrong(
                *place,
                "masters.count",
                "there is no master",
                "1: a master runs the control plane",
            );
            1
        }
        Some(At { value, place }) => match u32::try_from(*value) {
            Ok(count) if *value <= most => count,
            _ => {
                let least = u8::from(role == Role::Master);
                checker.wrong(
                    *place,
                    &field("count"),
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                );
                1
            }
        },
    };
    let first = checker.address(
        &field("firstAddress"),
        first_address.as_ref(),
        offset(network.nodes.network(), first_offset),
    );
    if count > 0 {
        let last = offset(first.0, count - 1);
        if !usable(network.nodes, first.0) && first.1 == Place::Default {
            checker.wrong(
                nodes_place,
                "network.nodes",
                format!(
                    "{} has no room for the {section}, who begin at {} unless told otherwise",
                    network.nodes, first.0
                ),
                format!("a /24 or larger, or {section}.firstAddress"),
            );
        } else if !usable(network.nodes, first.0) {
            checker.inside(&field("firstAddress"), first, "network.nodes", network.nodes);
        } else if !usable(network.nodes, last) {
            let place = group.and_then(|group| group.count.as_ref()).map_or(first.1, |count| count.place);
            checker.wrong(
                place,
                &field("count"),
                format!(
                    "{count} machines from {} need addresses up to {last}, outside {}",
                    first.0, network.nodes
                ),
                "fewer machines, an earlier firstAddress or a larger network.nodes",
            );
        }
    }
    let milli_cpus = cpus.as_ref().and_then(|At { value, place }| {
        let parsed = parse_cpus(value);
        if parsed.is_none() {
            checker.wrong(
                *place,
                &field("cpus"),
                format!("{value:?} is not a number of CPUs"),
                "0.1 to 1024, such as 2 or 500m",
            );
        }
        parsed
    });
    let memory = size(checker, &field("memory"), memory.as_ref(), 128 << 20, "1Gi");
    let disk_place = disk.as_ref().map(|at| at.place);
    let disk = size(checker, &field("disk"), disk.as_ref(), 4 << 30, "20Gi");
    if let (Some(place), ProviderKind::Local) = (disk_place, provider) {
        checker.wrong(
            place,
            &field("disk"),
            "the local provider has no disks: nodes use the file system of the state directory",
            "leave it out, or use provider vagrant or qemu",
        );
    }
    let mut kept = BTreeMap::new();
    for (key, At { value, place }) in labels {
        if let Some(fault) = label_key_fault(key).or_else(|| label_value_fault(value)) {
            checker.wrong(
                *place,
                &field("labels"),
                format!("{key}: {value:?} {fault}"),
                "PREFIX/NAME: VALUE, both of letters, digits, -, _ and . with a letter or digit at each end, at most 63",
            );
        }
        kept.insert(key.clone(), value.clone());
    }
    Machines { count, first_address: first.0, milli_cpus, memory, disk, labels: kept }
}

fn label_value_fault(value: &str) -> Option<&'static str> {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    if value.len() > 63 {
        Some("has a value of more than 63 characters")
    } else if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte)) {
        Some("has a value with characters that labels cannot have")
    } else if !end(bytes.first()) || !end(bytes.last()) {
        Some("has a value that begins or ends with a sign")
    } else {
        None
    }
}

fn label_key_fault(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if name.is_empty() || label_value_fault(name).is_some() {
        return Some("has a name that is no label's");
    }
    if prefix.is_some_and(|prefix| prefix.split('.').any(|label| label_fault(label, 63).is_some())) {
        return Some("has a prefix that is no DNS domain");
    }
    // The node authorizer lets nodes set only these of Kubernetes' own labels.
    let own = prefix.is_some_and(|prefix| prefix.ends_with("kubernetes.io") || prefix.ends_with("k8s.io"));
    let allowed = prefix.is_some_and(|prefix| {
        ["node.kubernetes.io", "kubelet.kubernetes.io"].iter().any(|known| prefix.ends_with(known))
    });
    if own && !allowed { Some("is one of Kubernetes' own, which nodes may not set") } else { None }
}

fn parse_cpus(text: &str) -> Option<u32> {
    let milli = match text.strip_suffix('m') {
        Some(milli) => f64::from(milli.parse::<u32>().ok()?),
        None => text.parse::<f64>().ok()? * 1000.0,
    };
    if !(100.0..=1_024_000.0).contains(&milli) {
        return None;
    }
    Some(milli.round() as u32)
}

/// Parses bytes with a binary or decimal unit.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * factor as f64;
    (bytes.is_finite() && (1.0..1e15).contains(&bytes)).then_some(bytes as u64)
}

fn size(
    checker: &mut Checker,
    field: &str,
    given: Option<&At<String>>,
    least: u64,
    example: &str,
) -> Option<u64> {
    let At { value, place } = given?;
    match parse_bytes(value) {
        Some(bytes) if bytes >= least => Some(bytes),
        Some(_) => {
            checker.wrong(
                *place,
                field,
                format!("{value:?} is too small"),
                format!("at least {}Mi", least >> 20),
            );
            None
        }
        None => {
            checker.wrong(
                *place,
                field,
                format!("{value:?} is not a size"),
                format!("a number with Mi or Gi, such as {example}"),
            );
            None
        }
    }
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

fn first_place<'a>(places: impl IntoIterator<Item = Option<&'a At<String>>>) -> Option<Place> {
    places.into_iter().flatten().map(|at| at.place).next()
}

fn check_os(checker: &mut Checker, section: Option<&OsSection>, provider: ProviderKind) -> Option<Os> {
    if provider == ProviderKind::Local {
        if let Some(section) = section {
            let OsSection { flavor, channel, version, vagrant_box, box_url, image, checksum } = section;
            let place = first_place(
                [flavor, channel, version, vagrant_box, box_url, image, checksum].map(Option::as_ref),
            )
            .unwrap_or(Place::Default);
            checker.wrong(
                place,
                "os",
                "the local provider uses this machine's own system",
                "leave os out, or use provider vagrant or qemu",
            );
        }
        return None;
    }
    let empty = OsSection::default();
    let OsSection { flavor, channel, version, vagrant_box, box_url, image, checksum } =
        section.unwrap_or(&empty);
    let flavor = match flavor {
        None => Flavor::Flatcar,
        Some(At { value, place }) => match value.as_str() {
            "flatcar" => Flavor::Flatcar,
            "fedora-coreos" => Flavor::FedoraCoreos,
            other => {
                checker.wrong(
                    *place,
                    "os.flavor",
                    format!("{other:?} is not known"),
                    "flatcar or fedora-coreos",
                );
                Flavor::Flatcar
            }
        },
    };
    if let Some(At { value, place }) = checksum
        && (value.len() != 64 || !value.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        checker.wrong(*place, "os.checksum", format!("{value:?} is not a SHA-256"), "64 hexadecimal digits");
    }
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone());
    Some(Os {
        flavor,
        channel: text(channel).unwrap_or_else(|| "stable".into()),
        version: text(version),
        vagrant_box: text(vagrant_box),
        box_url: text(box_url),
        image: text(image),
        checksum: text(checksum),
    })
}

fn check_ssh(checker: &mut Checker, section: Option<&SshSection>, provider: ProviderKind) -> Option<Ssh> {
    if provider == ProviderKind::Local {
        if let Some(SshSection { user, public_key }) = section {
            let place = first_place([user.as_ref(), public_key.as_ref()]).unwrap_or(Place::Default);
            checker.wrong(
                place,
                "ssh",
                "the local provider enters nodes without SSH",
                "leave ssh out, or use provider vagrant or qemu",
            );
        }
        return None;
    }
    let empty = SshSection::default();
    let SshSection { user, public_key } = section.unwrap_or(&empty);
    if let Some(At { value, place }) = public_key
        && !["ssh-", "ecdsa-", "sk-"].iter().any(|start| value.starts_with(start))
    {
        checker.wrong(
            *place,
            "ssh.publicKey",
            "it is not an OpenSSH public key",
            "a line such as ssh-ed25519 AAAA… name",
        );
    }
    Some(Ssh {
        user: user.as_ref().map_or_else(|| "core".into(), |at| at.value.clone()),
        public_key: public_key.as_ref().map(|at| at.value.clone()),
    })
}
