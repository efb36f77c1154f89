use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;

use network::loadbalancer::LoadBalancerAddresses;
use network::proxy::{Endpoint, Service, ServicePort};

use crate::lab::{Host, Node, proxy, sync, two_nodes};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 17, 4, 240);

fn open(node: &Node) -> Arc<LoadBalancerAddresses> {
    let ip = node.ip;
    Arc::new(node.space.run(async move { LoadBalancerAddresses::open(ip).await.unwrap() }))
}

fn set(node: &Node, balancer: &Arc<LoadBalancerAddresses>, addresses: &[Ipv4Addr]) {
    let (balancer, addresses) = (balancer.clone(), addresses.iter().copied().collect::<BTreeSet<_>>());
    node.space.run(async move { balancer.set(&addresses).await.unwrap() });
}

#[test]
fn an_address_is_reached_from_the_host_and_follows_at_once_when_it_moves() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let balancers = [open(&one), open(&two)];
    one.space.serve("one", 80);
    two.space.serve("two", 80);
    let to = format!("{ADDRESS}:80");
    set(&one, &balancers[0], &[ADDRESS, one.ip]);
    assert_eq!(host.space.tcp(&to), Ok("one 172.17.4.1".into()));
    for round in 0..3 {
        let [(from, from_balancer), (to_node, to_balancer)] = if round % 2 == 0 {
            [(&one, &balancers[0]), (&two, &balancers[1])]
        } else {
            [(&two, &balancers[1]), (&one, &balancers[0])]
        };
        // The host's entry is locked against change for a second after it was made.
        host.space.run(async { tokio::time::sleep(std::time::Duration::from_millis(1100)).await });
        set(from, from_balancer, &[]);
        set(to_node, to_balancer, &[ADDRESS]);
        let name = if round % 2 == 0 { "two" } else { "one" };
        let start = std::time::Instant::now();
        assert_eq!(host.space.tcp(&to), Ok(format!("{name} 172.17.4.1")), "round {round}");
        assert!(start.elapsed() < std::time::Duration::from_millis(500), "round {round}");
    }
}

#[test]
fn a_restarted_agent_gives_up_only_what_it_claimed() {
    let host = Host::new();
    let node = Node::new(&host, 1);
    node.space.serve("node", 80);
    set(&node, &open(&node), &[ADDRESS]);
    let again = open(&node);
    set(&node, &again, &[]);
    assert_eq!(host.space.tcp(format!("{ADDRESS}:80")), Err(ErrorKind::HostUnreachable));
    assert_eq!(host.space.tcp(format!("{}:80", node.ip)), Ok("node 172.17.4.1".into()));
}

#[test]
fn a_load_balancer_address_leads_from_the_host_to_a_pod_on_another_node() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let (pod, address) = two.pod("pod");
    pod.serve("pod", 8080);
    let mut service = Service {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec![Ipv4Addr::new(10, 3, 0, 7)],
        load_balancer_ips: vec![ADDRESS],
        ports: vec![ServicePort {
            port: 80,
            endpoints: vec![Endpoint {
                address,
                port: 8080,
                ready: true,
                serving: true,
                terminating: false,
                local: false,
            }],
            ..ServicePort::default()
        }],
        ..Service::default()
    };
    let (balancer, rules) = (open(&one), proxy(&one));
    set(&one, &balancer, &[ADDRESS]);
    sync(&one, &rules, std::slice::from_ref(&service));
    let to = format!("{ADDRESS}:80");
    assert_eq!(host.space.tcp(&to), Ok(format!("pod {}", one.ip)));
    service.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    sync(&one, &rules, std::slice::from_ref(&service));
    assert!(host.space.is_dropped(&to));
}
