//! From policies to a table: a pure function.
//!
//! A policy is a chain for each direction that sets a mark on what it allows; a pod is a chain that asks its
//! policies one after another and drops what none of them marked. A packet between two pods of this node
//! passes the sender's chain first, then the receiver's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::model::{Peer, PolicyRule, PolicyTable, PortRange};
use crate::nft::{Data, DataType, Field, Hook, Rule, Statement, Table, Type, Value, Verdict};

pub(super) const TABLE: &str = "cluster-policy";

/// The mark of packets that a policy allows; clear outside of this table.
const ALLOWED: u32 = 0x1_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The field that names the pod itself.
    fn pod(self) -> Field {
        match self {
            Self::Ingress => Field::Daddr,
            Self::Egress => Field::Saddr,
        }
    }

    /// The field that names the other end.
    fn peer(self) -> Field {
        match self {
            Self::Ingress => Field::Saddr,
            Self::Egress => Field::Daddr,
        }
    }
}

/// Renders the table.
pub(super) fn render(policies: &PolicyTable) -> Table {
    let mut table = Table::new(TABLE);
    let itself = table.set("itself", &[Type::Address, Type::Address], None);
    for address in policies.pods.keys() {
        itself.add(vec![Value::Address(*address), Value::Address(*address)]);
    }
    let mut rules = vec![
        Rule(vec![Statement::CtKnown, Statement::Verdict(Verdict::Accept)]),
        // A pod may always reach itself, also through a service.
        Rule(vec![
            Statement::In(vec![Field::Saddr, Field::Daddr], "itself".into(), true),
            Statement::Verdict(Verdict::Accept),
        ]),
    ];
    for direction in [Direction::Egress, Direction::Ingress] {
        pods(&mut table, policies, direction);
        rules.push(Rule(vec![Statement::Vmap(vec![direction.pod()], direction.name().into())]));
        rules.push(Rule(vec![Statement::MarkHas(ALLOWED), Statement::MarkClear(ALLOWED)]));
    }
    table.base("forward", Hook::filter(Hook::FORWARD, Hook::FILTER), rules);
    table
}

/// Adds the map from pods to their chains, these chains, and those of the policies that they ask.
fn pods(table: &mut Table, policies: &PolicyTable, direction: Direction) {
    let word = direction.name();
    table.set(word, &[Type::Address], Some(DataType::Verdict));
    let mut asked: BTreeSet<&String> = BTreeSet::new();
    for (address, pod) in &policies.pods {
        let selected = match direction {
            Direction::Ingress => &pod.ingress,
            Direction::Egress => &pod.egress,
        };
        let Some(selected) = selected else { continue };
        // Pods that the same policies select share their chain.
        let known: Vec<&String> =
            selected.iter().filter(|name| policies.policies.contains_key(*name)).collect();
        let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
        let chain = shortened(&format!("{word} of {}", names.join(" ")));
        if !table.chains.contains_key(&chain) {
            let mut rules = Vec::new();
            for name in &names {
                rules.push(Rule(vec![Statement::Verdict(Verdict::Jump(chain_of(word, name)))]));
                rules.push(Rule(vec![Statement::MarkHas(ALLOWED), Statement::Verdict(Verdict::Return)]));
            }
            rules.push(Rule(vec![Statement::Verdict(Verdict::Drop)]));
            table.chain(&chain, rules);
        }
        let map = table.set(word, &[Type::Address], Some(DataType::Verdict));
        // Not goto: what one direction allows comes back, for the other direction to look at it.
        map.map(vec![Value::Address(*address)], Data::Verdict(Verdict::Jump(chain)));
        asked.extend(known);
    }
    for name in asked {
        let Some(policy) = policies.policies.get(name) else { continue };
        let given = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let chain = chain_of(word, name);
        let mut rules = Vec::new();
        for (number, rule) in given.iter().enumerate() {
            allow(table, &chain, number, rule, direction, &mut rules);
        }
        table.chain(&chain, rules);
    }
}

/// Adds the rules that mark what one rule of a policy allows: each peer with each port.
fn allow(
    table: &mut Table,
    chain: &str,
    number: usize,
    rule: &PolicyRule,
    direction: Direction,
    rules: &mut Vec<Rule>,
) {
    let mut peers: Vec<Vec<Statement>> = Vec::new();
    match &rule.peers {
        None => peers.push(Vec::new()),
        Some(given) => {
            let mut pods: BTreeSet<Ipv4Addr> = BTreeSet::new();
            for peer in given {
                match peer {
                    Peer::Pods(addresses) => pods.extend(addresses),
                    Peer::Block(block) => {
                        let part = |network, inside| match direction {
                            Direction::Ingress => Statement::SaddrIn(network, inside),
                            Direction::Egress => Statement::DaddrIn(network, inside),
                        };
                        let mut statements = vec![part(block.cidr.trunc(), true)];
                        statements.extend(block.except.iter().map(|network| part(network.trunc(), false)));
                        peers.push(statements);
                    }
                }
            }
            if !pods.is_empty() {
                let name = format!("{chain} {number}");
                let set = table.set(&name, &[Type::Address], None);
                for address in pods {
                    set.add(vec![Value::Address(address)]);
                }
                peers.push(vec![Statement::In(vec![direction.peer()], name, true)]);
            }
        }
    }
    let ports: Vec<Vec<Statement>> = match &rule.ports {
        None => vec![Vec::new()],
        Some(given) => given.iter().map(port).collect(),
    };
    for peer in &peers {
        for port in &ports {
            let mut statements = [peer.as_slice(), port.as_slice()].concat();
            statements.push(Statement::MarkSet(ALLOWED));
            statements.push(Statement::Verdict(Verdict::Return));
            rules.push(Rule(statements));
        }
    }
}

fn port(range: &PortRange) -> Vec<Statement> {
    let mut statements = vec![Statement::L4Proto(range.protocol.number(), true)];
    statements.extend(range.ports.map(|(first, last)| Statement::DportIn(first, last)));
    statements
}

fn chain_of(direction: &str, policy: &str) -> String {
    shortened(&format!("{direction} {policy}"))
}

/// The kernel takes names of up to 127 characters; of longer ones the end is replaced by a hash.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 100;
    if name.len() <= LONGEST {
        return name.into();
    }
    // FNV-1a: stable between versions, which the standard library's hasher is not.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let head: String = name.chars().take(LONGEST - 17).collect();
    format!("{head}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::super::model::{IpBlock, IsolatedPod, Policy};
    use super::*;
    use crate::Protocol;

    fn names(list: &[&str]) -> Option<BTreeSet<String>> {
        Some(list.iter().map(|name| (*name).to_string()).collect())
    }

    fn table() -> PolicyTable {
        let tcp = |first, last| PortRange { protocol: Protocol::Tcp, ports: Some((first, last)) };
        let web = Policy {
            ingress: vec![
                PolicyRule {
                    peers: Some(vec![
                        Peer::Pods([Ipv4Addr::new(10, 2, 1, 9), Ipv4Addr::new(10, 2, 2, 9)].into()),
                        Peer::Block(IpBlock {
                            cidr: "172.17.0.0/16".parse().unwrap(),
                            except: vec!["172.17.4.0/24".parse().unwrap()],
                        }),
                    ]),
                    ports: Some(vec![tcp(80, 80), tcp(8000, 8999)]),
                },
                PolicyRule {
                    peers: None,
                    ports: Some(vec![PortRange { protocol: Protocol::Udp, ports: None }]),
                },
            ],
            egress: vec![PolicyRule::default()],
        };
        PolicyTable {
            policies: [("default/deny".into(), Policy::default()), ("default/web".into(), web)].into(),
            pods: [
                (
                    Ipv4Addr::new(10, 2, 1, 2),
                    IsolatedPod {
                        ingress: names(&["default/deny", "default/web"]),
                        egress: names(&["default/web"]),
                    },
                ),
                (Ipv4Addr::new(10, 2, 1, 3), IsolatedPod { ingress: names(&["default/deny"]), egress: None }),
            ]
            .into(),
        }
    }

    #[test]
    fn two_policies_and_two_pods() {
        insta::assert_snapshot!(render(&table()));
    }

    #[test]
    fn without_policies_nothing_is_filtered() {
        let rendered = render(&PolicyTable::default());
        assert_eq!(rendered.chains.len(), 1);
        assert!(rendered.sets.values().all(|set| set.elements.is_empty()));
    }

    #[test]
    fn nobody_and_no_port_allow_nothing() {
        for rule in [
            PolicyRule { peers: Some(vec![]), ports: None },
            PolicyRule { peers: Some(vec![Peer::Pods(BTreeSet::new())]), ports: None },
            PolicyRule { peers: None, ports: Some(vec![]) },
        ] {
            let mut policies = table();
            policies.policies.get_mut("default/web").unwrap().ingress = vec![rule.clone()];
            assert!(render(&policies).chains["ingress default/web"].rules.is_empty(), "{rule:?}");
        }
    }

    #[test]
    fn long_names_are_cut_without_becoming_equal() {
        let (one, two) = (format!("{}a", "x".repeat(300)), format!("{}b", "x".repeat(300)));
        assert_ne!(shortened(&one), shortened(&two));
        assert_eq!(shortened(&one).len(), 100);
        assert_eq!(shortened("short"), "short");
    }
}
