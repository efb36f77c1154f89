//! The nftables table of the pod network: host ports, and masquerading of what leaves the cluster.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{HostPort, PodNetworkConfig};
use crate::nft::{Data, DataType, Field, Hook, Rule, Statement, Table, Type, Value, Verdict};

pub(super) const TABLE: &str = "cluster-pods";

/// Renders the table.
///
/// A pod's address stays visible to pods and to the nodes of the cluster, which have routes to it.
/// For everybody else, the node network's other machines included, the node's address stands in.
pub(super) fn render(
    config: &PodNetworkConfig,
    nodes: &BTreeSet<Ipv4Addr>,
    ports: &BTreeSet<(HostPort, Ipv4Addr)>,
) -> Table {
    let mut table = Table::new(TABLE);

    let known = table.set("nodes", &[Type::Address], None);
    known.add(vec![Value::Address(config.node_ip)]);
    for node in nodes {
        known.add(vec![Value::Address(*node)]);
    }
    let any = table.set("host-ports", &[Type::Protocol, Type::Port], Some(DataType::Target));
    for (port, pod) in ports.iter().filter(|(port, _)| port.host_ip.is_none()) {
        let key = vec![Value::Protocol(port.protocol.number()), Value::Port(port.host_port)];
        any.map(key, Data::Target(*pod, port.container_port));
    }
    let one = table.set(
        "host-ports-by-address",
        &[Type::Address, Type::Protocol, Type::Port],
        Some(DataType::Target),
    );
    for (port, pod) in ports {
        if let Some(address) = port.host_ip {
            let key = vec![
                Value::Address(address),
                Value::Protocol(port.protocol.number()),
                Value::Port(port.host_port),
            ];
            one.map(key, Data::Target(*pod, port.container_port));
        }
    }
    let hairpins = table.set("hairpins", &[Type::Address, Type::Address], None);
    for (_, pod) in ports {
        hairpins.add(vec![Value::Address(*pod), Value::Address(*pod)]);
    }

    let to_host_ports =
        Rule(vec![Statement::DaddrLocal, Statement::Verdict(Verdict::Jump("host-ports".into()))]);
    table.base("prerouting", Hook::nat(Hook::PREROUTING, Hook::DSTNAT), vec![to_host_ports.clone()]);
    table.base("output", Hook::nat(Hook::OUTPUT, Hook::DSTNAT), vec![to_host_ports]);
    table.chain(
        "host-ports",
        vec![
            Rule(vec![
                Statement::Find(
                    vec![Field::Daddr, Field::L4Proto, Field::Dport],
                    "host-ports-by-address".into(),
                ),
                Statement::DnatTarget,
            ]),
            Rule(vec![
                Statement::Find(vec![Field::L4Proto, Field::Dport], "host-ports".into()),
                Statement::DnatTarget,
            ]),
        ],
    );
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    table.base(
        "postrouting",
        Hook::nat(Hook::POSTROUTING, Hook::SRCNAT),
        vec![
            // A pod that reaches itself must see the node as its peer, or it would answer to itself.
            Rule(vec![
                Statement::In(vec![Field::Saddr, Field::Daddr], "hairpins".into(), true),
                Statement::CtDnat,
                Statement::Snat(config.node_ip),
            ]),
            // The node itself, by 127.0.0.1 and a host port.
            Rule(vec![
                Statement::SaddrIn(loopback, true),
                Statement::DaddrIn(config.cluster_pod_cidr, true),
                Statement::CtDnat,
                Statement::Snat(config.node_ip),
            ]),
            Rule(vec![
                Statement::SaddrIn(config.pod_cidr, true),
                Statement::DaddrIn(config.cluster_pod_cidr, false),
                Statement::In(vec![Field::Daddr], "nodes".into(), false),
                Statement::Masquerade,
            ]),
        ],
    );
    // With route_localnet the network could reach what listens on 127.0.0.1 only.
    table.base(
        "loopback",
        Hook::filter(Hook::PREROUTING, Hook::DSTNAT - 10),
        vec![Rule(vec![
            Statement::InputInterface("lo".into(), false),
            Statement::DaddrIn(loopback, true),
            Statement::CtNew,
            Statement::Verdict(Verdict::Drop),
        ])],
    );
    table
}
