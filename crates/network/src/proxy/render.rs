//! From services to a table: a pure function.
//!
//! A service is elements, not chains. Dispatch is one lookup of (address, protocol, port), whose verdict is a
//! chain for *all* services of the same kind and number of endpoints; that chain draws a number and looks up
//! (address, protocol, port, number) to get the endpoint. So the number of rules depends on how many
//! different kinds are in use, and a change of endpoints is a few elements in or out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::ProxyConfig;
use super::model::{Endpoint, Service, ServicePort, ServiceTable};
use crate::nft::{Data, DataType, Field, Hook, Reject, Rule, Statement, Table, Type, Value, Verdict};

pub(super) const TABLE: &str = "cluster-services";

/// The mark of packets whose source must become this node's: the one that upstream uses.
const MASQUERADE: u32 = 0x4000;
/// Before destination NAT.
const EARLY: i32 = Hook::DSTNAT - 10;
/// After destination NAT.
const LATE: i32 = Hook::DSTNAT + 10;

/// Where packets for services come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// An address and a port of the service's own.
    Address(Ipv4Addr, u8, u16),
    /// A port at all addresses of the node.
    NodePort(u8, u16),
}

/// How packets at an entry are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    /// To a cluster IP: pods keep their address, others get the node's.
    Internal,
    /// From outside to any endpoint: the node's address stands in, so that answers come back here.
    External,
    /// From outside to endpoints of this node only: clients keep their address.
    ExternalLocal,
}

/// Renders the table. Equal services give equal tables, in whatever order they come.
pub(super) fn render(config: &ProxyConfig, services: &ServiceTable) -> Table {
    let mut renderer = Renderer { config, table: Table::new(TABLE), entries: BTreeSet::new() };
    renderer.frame();
    let mut sorted: Vec<&Service> = services.services.iter().collect();
    sorted.sort_unstable();
    for service in sorted {
        let mut ports: Vec<&ServicePort> = service.ports.iter().collect();
        ports.sort_unstable();
        for port in ports {
            renderer.port(service, port);
        }
    }
    renderer.table
}

/// Returns the endpoints that get traffic: those that are ready, else those that still answer on their way
/// out.
pub(super) fn usable(endpoints: &[Endpoint], local_only: bool) -> BTreeSet<(Ipv4Addr, u16)> {
    let some = |wanted: fn(&Endpoint) -> bool| -> BTreeSet<(Ipv4Addr, u16)> {
        endpoints
            .iter()
            .filter(|one| (one.local || !local_only) && wanted(one))
            .map(|one| (one.address, one.port))
            .collect()
    };
    let ready = some(|one| one.ready);
    if ready.is_empty() { some(|one| one.serving && one.terminating) } else { ready }
}

struct Renderer<'a> {
    config: &'a ProxyConfig,
    table: Table,
    /// What is taken already: of two services that want the same entry the first has it.
    entries: BTreeSet<Entry>,
}

impl Renderer<'_> {
    fn port(&mut self, service: &Service, port: &ServicePort) {
        let protocol = port.protocol.number();
        let all = usable(&port.endpoints, false);
        let here = usable(&port.endpoints, true);
        for endpoint in port.endpoints.iter().filter(|one| one.local) {
            let address = Value::Address(endpoint.address);
            self.set("hairpins").add(vec![address, address]);
        }

        for address in service.cluster_ips.iter().filter(|one| !self.config.local_addresses.contains(one)) {
            self.set("cluster-ips").add(vec![Value::Address(*address)]);
            let entry = Entry::Address(*address, protocol, port.port);
            let endpoints = if service.internal_local { &here } else { &all };
            self.entry(entry, Traffic::Internal, service.affinity, endpoints, &here, all.is_empty());
        }
        let traffic = if service.external_local { Traffic::ExternalLocal } else { Traffic::External };
        for address in service.external_ips.iter().chain(&service.load_balancer_ips) {
            let entry = Entry::Address(*address, protocol, port.port);
            self.entry(entry, traffic, service.affinity, &all, &here, all.is_empty());
        }
        if let Some(number) = port.node_port {
            let entry = Entry::NodePort(protocol, number);
            self.entry(entry, traffic, service.affinity, &all, &here, all.is_empty());
        }
        if !service.source_ranges.is_empty() && !service.load_balancer_ips.is_empty() {
            self.firewall(service, port);
        }
    }

    fn entry(
        &mut self,
        entry: Entry,
        traffic: Traffic,
        affinity: Option<Duration>,
        endpoints: &BTreeSet<(Ipv4Addr, u16)>,
        here: &BTreeSet<(Ipv4Addr, u16)>,
        nothing_anywhere: bool,
    ) {
        if !self.entries.insert(entry) {
            return;
        }
        let maps = entry.maps();
        if endpoints.is_empty() {
            // Endpoints elsewhere that policy forbids are a silent drop, as upstream has it.
            let verdict = if nothing_anywhere { Verdict::Goto("refuse".into()) } else { Verdict::Drop };
            self.set(maps.refused).map(entry.key(), Data::Verdict(verdict));
            return;
        }
        let chain = self.chain(&maps, traffic, affinity, endpoints.len(), here.len());
        self.set(maps.dispatch).map(entry.key(), Data::Verdict(Verdict::Goto(chain)));
        self.targets(&entry, maps.endpoints, maps.affine, affinity, endpoints);
        if traffic == Traffic::ExternalLocal {
            self.targets(&entry, maps.local_endpoints, maps.local_affine, affinity, here);
        }
    }

    fn targets(
        &mut self,
        entry: &Entry,
        endpoints: &str,
        affine: &str,
        affinity: Option<Duration>,
        targets: &BTreeSet<(Ipv4Addr, u16)>,
    ) {
        for (number, (address, port)) in (0..).zip(targets) {
            let mut key = entry.key();
            key.push(Value::Number(number));
            self.set(endpoints).map(key, Data::Target(*address, *port));
            if affinity.is_some() {
                let mut key = entry.key();
                key.extend([Value::Address(*address), Value::Port(*port)]);
                self.set(affine).add(key);
            }
        }
    }

    /// Returns the chain for entries of this kind, made when it is the first of them.
    fn chain(
        &mut self,
        maps: &Maps,
        traffic: Traffic,
        affinity: Option<Duration>,
        count: usize,
        here: usize,
    ) -> String {
        let sticky = affinity.map_or_else(String::new, |time| format!("-sticky-{}", time.as_secs()));
        let prefix = maps.prefix;
        let name = match traffic {
            Traffic::Internal => format!("{prefix}internal-{count}{sticky}"),
            Traffic::External => format!("{prefix}external-{count}{sticky}"),
            Traffic::ExternalLocal => format!("{prefix}local-{here}-of-{count}{sticky}"),
        };
        if self.table.chains.contains_key(&name) {
            return name;
        }
        let pods = self.config.cluster_pod_cidr;
        let mark = Statement::MarkSet(MASQUERADE);
        let mut rules = match traffic {
            Traffic::Internal => vec![Rule(vec![Statement::SaddrIn(pods, false), mark])],
            Traffic::External => vec![Rule(vec![mark])],
            Traffic::ExternalLocal => {
                // Clients inside the cluster need no locality to keep their address.
                let chain = self.chain(maps, Traffic::Internal, affinity, count, here);
                let shortcut = Statement::Verdict(Verdict::Goto(chain));
                vec![
                    Rule(vec![Statement::SaddrIn(pods, true), shortcut.clone()]),
                    Rule(vec![Statement::SaddrLocal, shortcut]),
                ]
            }
        };
        match traffic {
            Traffic::ExternalLocal if here == 0 => rules.push(Rule(vec![Statement::Verdict(Verdict::Drop)])),
            Traffic::ExternalLocal => {
                rules.extend(selection(maps, maps.local_endpoints, maps.local_affine, affinity, here));
            }
            _ => rules.extend(selection(maps, maps.endpoints, maps.affine, affinity, count)),
        }
        self.table.chain(&name, rules);
        name
    }

    fn firewall(&mut self, service: &Service, port: &ServicePort) {
        let chain = format!("allow-{}/{}", service.namespace, service.name);
        for address in &service.load_balancer_ips {
            let entry = Entry::Address(*address, port.protocol.number(), port.port);
            self.set("firewall").map(entry.key(), Data::Verdict(Verdict::Jump(chain.clone())));
        }
        let mut ranges = service.source_ranges.clone();
        ranges.sort_unstable();
        let mut rules: Vec<Rule> = ranges
            .iter()
            .map(|range| {
                Rule(vec![Statement::SaddrIn(range.trunc(), true), Statement::Verdict(Verdict::Return)])
            })
            .collect();
        rules.push(Rule(vec![Statement::Verdict(Verdict::Drop)]));
        self.table.chain(&chain, rules);
    }

    fn set(&mut self, name: &str) -> &mut crate::nft::Set {
        self.table.sets.get_mut(name).expect("the frame made every set")
    }

    /// The sets and chains that are there without any service.
    fn frame(&mut self) {
        let table = &mut self.table;
        let (address, protocol, port, number) = (Type::Address, Type::Protocol, Type::Port, Type::Number);
        let (verdict, target) = (Some(DataType::Verdict), Some(DataType::Target));
        table.set("cluster-ips", &[address], None);
        table.set("hairpins", &[address, address], None);
        table.set("firewall", &[address, protocol, port], verdict);
        for (maps, key) in
            [(&ADDRESS, [address, protocol, port].as_slice()), (&NODE_PORT, [protocol, port].as_slice())]
        {
            let with = |more: &[Type]| [key, more].concat();
            table.set(maps.dispatch, key, verdict);
            table.set(maps.refused, key, verdict);
            for name in [maps.endpoints, maps.local_endpoints] {
                table.set(name, &with(&[number]), target);
            }
            for name in [maps.affine, maps.local_affine] {
                table.set(name, &with(&[address, port]), None);
            }
            table.set(maps.affinity, &[&[address], key].concat(), target).dynamic = true;
        }

        let rule = |statements: &[Statement]| Rule(statements.to_vec());
        let jump = |chain: &str| Statement::Verdict(Verdict::Jump(chain.into()));
        let by_address = || vec![Field::Daddr, Field::L4Proto, Field::Dport];
        let by_port = || vec![Field::L4Proto, Field::Dport];
        let vmap = |key: Vec<Field>, map: &str| Statement::Vmap(key, map.into());

        table.chain(
            "services",
            vec![
                rule(&[vmap(by_address(), ADDRESS.dispatch)]),
                rule(&[Statement::DaddrLocal, vmap(by_port(), NODE_PORT.dispatch)]),
            ],
        );
        table.base(
            "nat-prerouting",
            Hook::nat(Hook::PREROUTING, Hook::DSTNAT),
            vec![rule(&[jump("services")])],
        );
        table.base("nat-output", Hook::nat(Hook::OUTPUT, Hook::DSTNAT), vec![rule(&[jump("services")])]);

        let node = Statement::Snat(self.config.node_ip);
        let pods: Ipv4Net = self.config.cluster_pod_cidr;
        table.base(
            "nat-postrouting",
            Hook::nat(Hook::POSTROUTING, Hook::SRCNAT),
            vec![
                // A pod that reaches itself must see the node as its peer, or it would answer to itself.
                rule(&[
                    Statement::In(vec![Field::Saddr, Field::Daddr], "hairpins".into(), true),
                    Statement::CtDnat,
                    node.clone(),
                ]),
                rule(&[
                    Statement::MarkHas(MASQUERADE),
                    Statement::DaddrIn(pods, true),
                    Statement::MarkClear(MASQUERADE),
                    node,
                ]),
                rule(&[
                    Statement::MarkHas(MASQUERADE),
                    Statement::MarkClear(MASQUERADE),
                    Statement::Masquerade,
                ]),
            ],
        );

        table.chain(
            "refuse",
            vec![
                rule(&[Statement::L4Proto(6, true), Statement::Reject(Reject::TcpReset)]),
                rule(&[Statement::Reject(Reject::PortUnreachable)]),
            ],
        );
        table.chain(
            "check-endpoints",
            vec![
                rule(&[vmap(by_address(), ADDRESS.refused)]),
                rule(&[Statement::DaddrLocal, vmap(by_port(), NODE_PORT.refused)]),
            ],
        );
        // What still has a service address after translation is for a port that is not served, or for an
        // address that no service has (yet): the latter is dropped, so that the client tries again.
        table.chain(
            "check-cluster-ips",
            vec![
                rule(&[Statement::DaddrLocal, Statement::Verdict(Verdict::Return)]),
                rule(&[
                    Statement::In(vec![Field::Daddr], "cluster-ips".into(), true),
                    Statement::Verdict(Verdict::Goto("refuse".into())),
                ]),
                rule(&[
                    Statement::DaddrIn(self.config.service_cidr, true),
                    Statement::Verdict(Verdict::Drop),
                ]),
            ],
        );
        let firewall = || rule(&[Statement::CtNew, vmap(by_address(), "firewall")]);
        let endpoints = || rule(&[Statement::CtNew, jump("check-endpoints")]);
        let cluster_ips = || rule(&[Statement::CtNew, jump("check-cluster-ips")]);
        table.base("filter-prerouting", Hook::filter(Hook::PREROUTING, EARLY), vec![firewall()]);
        table.base("filter-input", Hook::filter(Hook::INPUT, EARLY), vec![endpoints()]);
        table.base("filter-forward", Hook::filter(Hook::FORWARD, EARLY), vec![endpoints(), cluster_ips()]);
        table.base("filter-output", Hook::filter(Hook::OUTPUT, EARLY), vec![firewall(), endpoints()]);
        table.base("filter-output-late", Hook::filter(Hook::OUTPUT, LATE), vec![cluster_ips()]);
    }
}

/// The maps of one sort of entry, which differ in their key.
struct Maps {
    prefix: &'static str,
    dispatch: &'static str,
    refused: &'static str,
    endpoints: &'static str,
    local_endpoints: &'static str,
    affine: &'static str,
    local_affine: &'static str,
    affinity: &'static str,
    key: &'static [Field],
}

const ADDRESS: Maps = Maps {
    prefix: "",
    dispatch: "services",
    refused: "refused",
    endpoints: "endpoints",
    local_endpoints: "local-endpoints",
    affine: "affine",
    local_affine: "local-affine",
    affinity: "affinity",
    key: &[Field::Daddr, Field::L4Proto, Field::Dport],
};

const NODE_PORT: Maps = Maps {
    prefix: "node-",
    dispatch: "node-ports",
    refused: "node-refused",
    endpoints: "node-endpoints",
    local_endpoints: "node-local-endpoints",
    affine: "node-affine",
    local_affine: "node-local-affine",
    affinity: "node-affinity",
    key: &[Field::L4Proto, Field::Dport],
};

impl Entry {
    fn maps(self) -> Maps {
        match self {
            Self::Address(..) => ADDRESS,
            Self::NodePort(..) => NODE_PORT,
        }
    }

    fn key(self) -> Vec<Value> {
        match self {
            Self::Address(address, protocol, port) => {
                vec![Value::Address(address), Value::Protocol(protocol), Value::Port(port)]
            }
            Self::NodePort(protocol, port) => vec![Value::Protocol(protocol), Value::Port(port)],
        }
    }
}

/// The rules that choose an endpoint and translate to it.
fn selection(
    maps: &Maps,
    endpoints: &str,
    affine: &str,
    affinity: Option<Duration>,
    count: usize,
) -> Vec<Rule> {
    let key = maps.key.to_vec();
    let mut drawn = key.clone();
    drawn.push(Field::Random(u32::try_from(count).unwrap_or(u32::MAX)));
    let draw = Statement::Find(drawn, endpoints.into());
    let Some(time) = affinity else { return vec![Rule(vec![draw, Statement::DnatTarget])] };

    let mut client = vec![Field::Saddr];
    client.extend(&key);
    let map = || maps.affinity.to_string();
    vec![
        // The client's last endpoint, if it is one of them still.
        Rule(vec![
            Statement::Find(client.clone(), map()),
            Statement::TargetIn(key, affine.into()),
            Statement::Remember(client.clone(), map(), time),
            Statement::DnatTarget,
        ]),
        // An update renews an old element's time but leaves its target: so the old one goes first.
        Rule(vec![
            draw,
            Statement::Forget(client.clone(), map()),
            Statement::Remember(client, map(), time),
            Statement::DnatTarget,
        ]),
    ]
}

/// UDP entries with their endpoints, for finding connections that lead to endpoints that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UdpEntries {
    pub(super) addresses: BTreeMap<(Ipv4Addr, u16), BTreeSet<(Ipv4Addr, u16)>>,
    pub(super) node_ports: BTreeMap<u16, BTreeSet<(Ipv4Addr, u16)>>,
}

/// Returns the UDP entries of a table. All usable endpoints count: a client may have come by any policy.
pub(super) fn udp_entries(services: &ServiceTable) -> UdpEntries {
    let mut entries = UdpEntries::default();
    for service in &services.services {
        for port in service.ports.iter().filter(|port| port.protocol == crate::Protocol::Udp) {
            let mut endpoints = usable(&port.endpoints, false);
            endpoints.extend(usable(&port.endpoints, true));
            for address in
                service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips)
            {
                entries.addresses.entry((*address, port.port)).or_default().extend(&endpoints);
            }
            if let Some(number) = port.node_port {
                entries.node_ports.entry(number).or_default().extend(&endpoints);
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests;
