use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use network::Protocol;
use network::policy::{
    IpBlock, IsolatedPod, Peer, Policy, PolicyEnforcer, PolicyRule, PolicyTable, PortRange,
};

use crate::lab::{Host, Node, Space, two_nodes};

struct World {
    host: Host,
    one: Node,
    enforcer: Arc<PolicyEnforcer>,
    server: (Space, Ipv4Addr),
    near: (Space, Ipv4Addr),
    far: (Space, Ipv4Addr),
    _two: Node,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let (one, two) = two_nodes(&host);
        let (server, near, far) = (one.pod("server"), one.pod("near"), two.pod("far"));
        server.0.serve("server", 80);
        server.0.serve("other", 81);
        far.0.serve("far", 80);
        let enforcer = Arc::new(one.space.run(async { PolicyEnforcer::open().await.unwrap() }));
        Self { host, one, enforcer, server, near, far, _two: two }
    }

    /// Selects the server by one policy.
    fn sync(&self, policy: Policy, ingress: bool, egress: bool) {
        let name = || Some(BTreeSet::from(["default/policy".to_string()]));
        let pod = IsolatedPod { ingress: name().filter(|_| ingress), egress: name().filter(|_| egress) };
        self.apply(PolicyTable {
            policies: [("default/policy".to_string(), policy)].into(),
            pods: [(self.server.1, pod)].into(),
        });
    }

    fn apply(&self, table: PolicyTable) {
        let enforcer = self.enforcer.clone();
        self.one.space.run(async move { enforcer.sync(&table).await.unwrap() });
    }

    fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.server.1)
    }
}

fn tcp(port: u16) -> Option<Vec<PortRange>> {
    Some(vec![PortRange { protocol: Protocol::Tcp, ports: Some((port, port)) }])
}

#[test]
fn ingress_is_limited_to_the_peers_and_ports_of_the_policy() {
    let world = World::new();
    assert!(world.near.0.tcp(world.at(80)).is_ok());
    world.sync(Policy::default(), true, false);
    assert!(world.near.0.is_dropped(world.at(80)), "a pod of the same node");
    assert!(world.far.0.is_dropped(world.at(80)), "a pod of another node");
    assert!(world.one.space.tcp(world.at(80)).is_ok(), "the node's probes");
    assert!(world.server.0.tcp(world.at(80)).is_ok(), "the pod itself");
    assert!(world.server.0.tcp(format!("{}:80", world.far.1)).is_ok(), "the other direction");

    let rule = PolicyRule { peers: Some(vec![Peer::Pods([world.far.1].into())]), ports: tcp(80) };
    world.sync(Policy { ingress: vec![rule], egress: vec![] }, true, false);
    assert!(world.far.0.tcp(world.at(80)).is_ok());
    assert!(world.far.0.is_dropped(world.at(81)));
    assert!(world.near.0.is_dropped(world.at(80)));

    world.sync(Policy::default(), false, false);
    assert!(world.near.0.tcp(world.at(80)).is_ok());
}

#[test]
fn egress_is_limited_to_blocks_without_their_exceptions() {
    let world = World::new();
    world.host.space.serve("host", 80);
    let block = |except: &str| Policy {
        ingress: vec![],
        egress: vec![PolicyRule {
            peers: Some(vec![Peer::Block(IpBlock {
                cidr: "10.2.0.0/16".parse().unwrap(),
                except: vec![except.parse().unwrap()],
            })]),
            ports: Some(vec![PortRange { protocol: Protocol::Tcp, ports: Some((70, 90)) }]),
        }],
    };
    let to = format!("{}:80", world.far.1);
    world.sync(block("10.2.9.0/24"), false, true);
    assert!(world.server.0.tcp(&to).is_ok());
    assert!(world.server.0.is_dropped("172.17.4.1:80"));
    assert!(world.near.0.tcp(world.at(80)).is_ok(), "ingress stays open");
    world.sync(block("10.2.2.0/24"), false, true);
    assert!(world.server.0.is_dropped(&to));
}

#[test]
fn what_a_sender_may_send_its_receiver_may_still_refuse() {
    let world = World::new();
    let everything = PolicyRule { peers: None, ports: None };
    let mut table = PolicyTable {
        policies: [
            ("default/send".to_string(), Policy { ingress: vec![], egress: vec![everything.clone()] }),
            ("default/receive".to_string(), Policy::default()),
        ]
        .into(),
        pods: [
            (world.near.1, IsolatedPod { ingress: None, egress: Some(["default/send".to_string()].into()) }),
            (
                world.server.1,
                IsolatedPod { ingress: Some(["default/receive".to_string()].into()), egress: None },
            ),
        ]
        .into(),
    };
    world.apply(table.clone());
    assert!(world.near.0.is_dropped(world.at(80)));
    assert!(world.near.0.tcp(format!("{}:80", world.far.1)).is_ok());
    table.policies.insert("default/receive".into(), Policy { ingress: vec![everything], egress: vec![] });
    world.apply(table);
    assert!(world.near.0.tcp(world.at(80)).is_ok());
}
