use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Instant;

use network::Protocol;
use network::pods::HostPort;

use crate::lab::{Host, Node, Space, two_nodes};

#[test]
fn pods_reach_pods_on_their_node_and_on_others_under_their_own_addresses() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let ((a, a_ip), (b, b_ip), (c, c_ip)) = (one.pod("a"), one.pod("b"), two.pod("c"));
    for (pod, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        pod.serve(name, 80);
    }
    assert_eq!((a_ip, c_ip), (Ipv4Addr::new(10, 2, 1, 2), Ipv4Addr::new(10, 2, 2, 2)));
    assert_eq!(a.tcp(format!("{b_ip}:80")), Ok(format!("b {a_ip}")));
    assert_eq!(a.tcp(format!("{c_ip}:80")), Ok(format!("c {a_ip}")));
    assert_eq!(c.udp(format!("{b_ip}:80")), Ok(format!("b {c_ip}")));
    assert_eq!(a.tcp(format!("{a_ip}:80")), Ok(format!("a {a_ip}")));
}

#[test]
fn nodes_and_pods_reach_each_other_and_the_rest_sees_the_nodes_address() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let ((a, a_ip), (c, c_ip)) = (one.pod("a"), two.pod("c"));
    a.serve("a", 80);
    c.serve("c", 80);
    two.space.serve("node two", 81);
    host.space.serve("host", 81);
    assert_eq!(one.space.tcp(format!("{a_ip}:80")), Ok(format!("a {}", one.ip)));
    assert_eq!(one.space.tcp(format!("{c_ip}:80")), Ok(format!("c {}", one.ip)));
    assert_eq!(a.tcp(format!("{}:81", two.ip)), Ok(format!("node two {a_ip}")));
    assert_eq!(a.tcp("172.17.4.1:81"), Ok(format!("host {}", one.ip)));
}

#[test]
fn a_pod_that_is_gone_is_unreachable_at_once() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let (a, _) = one.pod("a");
    let (_c, c_ip) = two.pod("c");
    two.detach("c");
    assert_eq!(a.tcp(format!("{c_ip}:80")), Err(ErrorKind::HostUnreachable));
    assert_eq!(a.tcp("10.2.77.3:80"), Err(ErrorKind::HostUnreachable));
}

#[test]
fn attaching_again_gives_the_same_address_and_repairs_the_link() {
    let host = Host::new();
    let node = Node::new(&host, 1);
    let (a, a_ip) = node.pod("a");
    a.serve("a", 80);
    let again = |path| {
        let network = node.pods.clone();
        node.space.run(async move { network.attach("a", path, &[]).await.unwrap() })
    };
    let path: &'static std::path::Path = Box::leak(a.path().into_boxed_path());
    assert_eq!(again(path), [a_ip]);
    assert_eq!(node.space.tcp(format!("{a_ip}:80")), Ok(format!("a {}", node.ip)));

    // The pod's namespace was made anew under the same id.
    let other = Space::new();
    other.serve("anew", 80);
    let path: &'static std::path::Path = Box::leak(other.path().into_boxed_path());
    assert_eq!(again(path), [a_ip]);
    assert_eq!(node.space.tcp(format!("{a_ip}:80")), Ok(format!("anew {}", node.ip)));
}

#[test]
fn detaching_removes_the_link_and_is_repeatable() {
    let host = Host::new();
    let node = Node::new(&host, 1);
    let before = node.space.link_names();
    let (_a, first) = node.pod("a");
    assert_eq!(node.space.link_names().len(), before.len() + 1);
    node.detach("a");
    node.detach("a");
    assert_eq!(node.space.link_names(), before);
    let (_b, second) = node.pod("b");
    assert_ne!(first, second);
}

#[test]
fn a_restarted_agent_keeps_addresses_and_connections() {
    let host = Host::new();
    let mut node = Node::new(&host, 1);
    let (a, a_ip) = node.pod("a");
    let (_b, b_ip) = node.pod("b");
    a.serve("a", 80);
    node.restart();
    assert_eq!(node.space.tcp(format!("{a_ip}:80")), Ok(format!("a {}", node.ip)));
    let (_c, c_ip) = node.pod("c");
    assert!(c_ip != a_ip && c_ip != b_ip);
    let network = node.pods.clone();
    node.space.run(async move { network.retain(&BTreeSet::from(["a".into()])).await.unwrap() });
    assert!(node.pods.addresses("b").is_empty());
    assert_eq!(node.pods.addresses("a"), [a_ip]);
    assert_eq!(node.space.link_names().iter().filter(|name| name.starts_with("pod")).count(), 1);
}

#[test]
fn a_lost_checkpoint_is_made_up_for_by_what_the_kernel_has() {
    let host = Host::new();
    let mut node = Node::new(&host, 1);
    let (a, a_ip) = node.pod("a");
    let (_stray, stray_ip) = node.pod("stray");
    std::fs::remove_file(node.config.state_directory.join("pod-addresses.json")).unwrap();
    node.restart();
    let (_new, new_ip) = node.pod("new");
    assert!(new_ip != a_ip && new_ip != stray_ip, "{new_ip}");
    let (network, path) = (node.pods.clone(), a.path());
    let addresses = node.space.run(async move { network.attach("a", &path, &[]).await.unwrap() });
    assert_eq!(addresses, [a_ip]);
    let network = node.pods.clone();
    node.space.run(async move { network.retain(&BTreeSet::from(["a".into(), "new".into()])).await.unwrap() });
    assert_eq!(node.space.link_names().iter().filter(|name| name.starts_with("pod")).count(), 2);
}

#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let port = |protocol, host_port, host_ip| HostPort { protocol, host_ip, host_port, container_port: 80 };
    let ports = [
        port(Protocol::Tcp, 8080, None),
        port(Protocol::Udp, 8080, None),
        port(Protocol::Tcp, 8081, Some(one.ip)),
        port(Protocol::Tcp, 8082, Some(Ipv4Addr::LOCALHOST)),
    ];
    let (a, _) = one.pod_with_ports("a", &ports);
    let (b, b_ip) = one.pod("b");
    let (c, c_ip) = two.pod("c");
    a.serve("a", 80);
    let at = |port: u16| format!("{}:{port}", one.ip);
    assert_eq!(host.space.tcp(at(8080)), Ok("a 172.17.4.1".into()));
    assert_eq!(host.space.udp(at(8080)), Ok("a 172.17.4.1".into()));
    assert_eq!(host.space.tcp(at(8081)), Ok("a 172.17.4.1".into()));
    assert_eq!(host.space.tcp(at(8082)), Err(ErrorKind::ConnectionRefused));
    assert_eq!(c.tcp(at(8080)), Ok(format!("a {c_ip}")));
    assert_eq!(b.tcp(at(8080)), Ok(format!("a {b_ip}")));
    assert_eq!(a.tcp(at(8080)), Ok(format!("a {}", one.ip)), "hairpin");
    assert_eq!(one.space.tcp(at(8080)), Ok(format!("a {}", one.ip)));
    assert_eq!(one.space.tcp("127.0.0.1:8080"), Ok(format!("a {}", one.ip)));
    assert_eq!(one.space.tcp("127.0.0.1:8082"), Ok(format!("a {}", one.ip)));
    one.detach("a");
    assert_eq!(host.space.tcp(at(8080)), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn peers_that_left_lose_their_routes_and_strangers_are_named() {
    let host = Host::new();
    let (one, two) = two_nodes(&host);
    let (a, a_ip) = one.pod("a");
    let (c, c_ip) = two.pod("c");
    c.serve("c", 80);
    assert_eq!(a.tcp(format!("{c_ip}:80")), Ok(format!("c {a_ip}")));
    let network = one.pods.clone();
    one.space.run(async move { network.set_peers(&[]).await.unwrap() });
    assert_eq!(a.tcp(format!("{c_ip}:80")), Err(ErrorKind::HostUnreachable));
    let mut far = two.route();
    far.node_ip = Ipv4Addr::new(192, 0, 2, 7);
    let (network, near) = (
        one.pods.clone(),
        network::pods::NodeRoute { pod_cidr: "10.2.9.0/24".parse().unwrap(), ..two.route() },
    );
    let error = one.space.run(async move { network.set_peers(&[far, near]).await.unwrap_err() });
    assert_eq!(
        error.to_string(),
        "not supported yet: node 192.0.2.7 is outside this node's network 172.17.4.0/24: pods behind it need an overlay"
    );
}

#[test]
fn measured_attaching_takes_a_few_milliseconds() {
    let host = Host::new();
    let node = Node::new(&host, 1);
    let spaces: Vec<Space> = (0..30).map(|_| Space::new()).collect();
    let mut times: Vec<u128> = spaces
        .iter()
        .enumerate()
        .map(|(number, space)| {
            let (network, path) = (node.pods.clone(), space.path());
            node.space.run(async move {
                let start = Instant::now();
                network.attach(&number.to_string(), &path, &[]).await.unwrap();
                start.elapsed().as_micros()
            })
        })
        .collect();
    times.sort_unstable();
    println!("attach: median {} µs, worst {} µs", times[15], times[29]);
}
