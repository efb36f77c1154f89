use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use network::Protocol;
use network::proxy::{Endpoint, Service, ServicePort, ServiceProxy};

use crate::lab::{Host, Node, Space, proxy, sync, two_nodes};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 7);
const LB_IP: Ipv4Addr = Ipv4Addr::new(172, 17, 4, 240);

/// Two nodes with a proxy each, a pod on each node that serves, and a pod that only asks.
struct World {
    host: Host,
    one: Node,
    two: Node,
    proxies: [Arc<ServiceProxy>; 2],
    a: (Space, Ipv4Addr),
    b: (Space, Ipv4Addr),
    client: (Space, Ipv4Addr),
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let (one, two) = two_nodes(&host);
        let (a, b, client) = (one.pod("a"), two.pod("b"), one.pod("client"));
        a.0.serve("a", 8080);
        b.0.serve("b", 8080);
        let proxies = [proxy(&one), proxy(&two)];
        Self { host, one, two, proxies, a, b, client }
    }

    /// A service of TCP and UDP port 80 in front of some of `a` and `b`.
    fn service(&self, pods: &str) -> Service {
        let endpoints: Vec<Endpoint> = [("a", self.a.1), ("b", self.b.1)]
            .into_iter()
            .filter(|(name, _)| pods.contains(name))
            .map(|(_, address)| Endpoint {
                address,
                port: 8080,
                ready: true,
                serving: true,
                terminating: false,
                local: false,
            })
            .collect();
        let port = |protocol| ServicePort {
            name: format!("{protocol}"),
            protocol,
            port: 80,
            node_port: Some(30080),
            endpoints: endpoints.clone(),
        };
        Service {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec![CLUSTER_IP],
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            ..Service::default()
        }
    }

    fn sync(&self, services: &[Service]) {
        for (node, proxy) in [(&self.one, &self.proxies[0]), (&self.two, &self.proxies[1])] {
            let mut services = services.to_vec();
            for service in &mut services {
                for endpoint in service.ports.iter_mut().flat_map(|port| &mut port.endpoints) {
                    endpoint.local = node.config.pod_cidr.contains(&endpoint.address);
                }
            }
            sync(node, proxy, &services);
        }
    }
}

/// Asks often enough that both of two endpoints are met: that one is never drawn has a chance of 2^-29.
fn names(mut ask: impl FnMut() -> Result<String, ErrorKind>) -> BTreeSet<String> {
    (0..30).map(|_| ask().unwrap().split(' ').next().unwrap().to_string()).collect()
}

fn both() -> BTreeSet<String> {
    BTreeSet::from(["a".into(), "b".into()])
}

#[test]
fn a_cluster_ip_spreads_over_endpoints_on_all_nodes_and_shows_the_pods_address() {
    let world = World::new();
    world.sync(&[world.service("ab")]);
    let to = format!("{CLUSTER_IP}:80");
    assert_eq!(names(|| world.client.0.tcp(&to)), both());
    assert_eq!(names(|| world.client.0.udp(&to)), both());
    assert_eq!(names(|| world.one.space.tcp(&to)), both(), "from a node");
    world.sync(&[world.service("b")]);
    assert_eq!(world.client.0.tcp(&to), Ok(format!("b {}", world.client.1)));
    assert_eq!(world.one.space.tcp(&to), Ok(format!("b {}", world.one.ip)));
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let world = World::new();
    world.sync(&[world.service("a")]);
    assert_eq!(world.a.0.tcp(format!("{CLUSTER_IP}:80")), Ok(format!("a {}", world.one.ip)));
    assert_eq!(world.a.0.udp(format!("{CLUSTER_IP}:80")), Ok(format!("a {}", world.one.ip)));
}

#[test]
fn a_node_port_answers_on_every_node_to_everybody() {
    let world = World::new();
    world.sync(&[world.service("a")]);
    for node in [&world.one, &world.two] {
        let to = format!("{}:30080", node.ip);
        assert_eq!(world.host.space.tcp(&to), Ok(format!("a {}", node.ip)), "from the host");
        assert_eq!(world.host.space.udp(&to), Ok(format!("a {}", node.ip)), "from the host");
        assert_eq!(world.client.0.tcp(&to).map(|text| text[..1].to_string()), Ok("a".into()), "from a pod");
        assert_eq!(node.space.tcp(&to), Ok(format!("a {}", node.ip)), "from the node itself");
        assert_eq!(node.space.tcp("127.0.0.1:30080"), Ok(format!("a {}", node.ip)), "on loopback");
    }
    world.sync(&[world.service("ab")]);
    assert_eq!(names(|| world.host.space.tcp(format!("{}:30080", world.one.ip))), both());
}

#[test]
fn what_has_no_endpoints_is_refused_at_once() {
    let world = World::new();
    world.sync(&[world.service("")]);
    let (cluster, node) = (format!("{CLUSTER_IP}:80"), format!("{}:30080", world.one.ip));
    let refused = Err(ErrorKind::ConnectionRefused);
    assert_eq!(world.client.0.tcp(&cluster), refused);
    assert_eq!(world.client.0.udp(&cluster), refused);
    assert_eq!(world.one.space.tcp(&cluster), refused);
    assert_eq!(world.host.space.tcp(&node), refused);
    assert_eq!(world.one.space.tcp(&node), refused);
    world.sync(&[world.service("a")]);
    assert_eq!(world.client.0.tcp(format!("{CLUSTER_IP}:81")), refused, "a port that the service lacks");
    assert_eq!(world.client.0.tcp(&cluster), Ok(format!("a {}", world.client.1)));
    world.sync(&[]);
    assert_eq!(world.host.space.tcp(&node), refused);
}

#[test]
fn load_balancer_and_external_addresses_lead_to_the_service_from_inside_and_outside() {
    let world = World::new();
    let mut service = world.service("b");
    service.load_balancer_ips = vec![LB_IP];
    service.external_ips = vec![Ipv4Addr::new(172, 17, 4, 241)];
    world.sync(&[service]);
    for ip in ["172.17.4.240", "172.17.4.241"] {
        assert_eq!(
            world.client.0.tcp(format!("{ip}:80")).map(|text| text[..1].to_string()),
            Ok("b".into()),
            "{ip} from a pod"
        );
        assert_eq!(
            world.one.space.tcp(format!("{ip}:80")),
            Ok(format!("b {}", world.one.ip)),
            "{ip} from a node"
        );
    }
}

#[test]
fn source_ranges_keep_others_from_the_load_balancer_address() {
    let world = World::new();
    let mut service = world.service("a");
    service.load_balancer_ips = vec![LB_IP];
    service.source_ranges = vec!["10.2.1.0/24".parse().unwrap()];
    world.sync(&[service.clone()]);
    let to = format!("{LB_IP}:80");
    assert_eq!(world.client.0.tcp(&to).map(|text| text[..1].to_string()), Ok("a".into()));
    service.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    world.sync(&[service]);
    assert!(world.client.0.is_dropped(&to));
    assert_eq!(world.client.0.tcp(format!("{CLUSTER_IP}:80")), Ok(format!("a {}", world.client.1)));
}

#[test]
fn a_client_with_affinity_stays_with_its_endpoint_until_that_is_gone() {
    let world = World::new();
    let sticky = |pods| {
        let mut service = world.service(pods);
        service.affinity = Some(Duration::from_secs(60));
        service
    };
    world.sync(&[sticky("ab")]);
    let to = format!("{CLUSTER_IP}:80");
    let first = names(|| world.client.0.tcp(&to));
    assert_eq!(first.len(), 1, "{first:?}");
    let others: BTreeSet<String> = (0..20)
        .map(|number| {
            let (pod, _) = world.one.pod(&format!("other {number}"));
            let found = names(|| pod.tcp(&to));
            assert_eq!(found.len(), 1);
            found.into_iter().next().unwrap()
        })
        .collect();
    assert_eq!(others, both(), "different clients get different endpoints");
    let (kept, gone) = if first.contains("a") { ("b", "a") } else { ("a", "b") };
    world.sync(&[sticky(kept)]);
    assert_eq!(names(|| world.client.0.tcp(&to)), BTreeSet::from([kept.into()]));
    world.sync(&[sticky("ab")]);
    assert_eq!(names(|| world.client.0.tcp(&to)), BTreeSet::from([kept.into()]), "{gone} came back");
    let node_port = format!("{}:30080", world.one.ip);
    assert_eq!(names(|| world.host.space.tcp(&node_port)).len(), 1);
}

#[test]
fn affinity_ends_when_its_time_is_over() {
    let world = World::new();
    let mut service = world.service("ab");
    service.affinity = Some(Duration::from_secs(1));
    world.sync(&[service]);
    let to = format!("{CLUSTER_IP}:80");
    let mut met = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(60);
    while met.len() < 2 && Instant::now() < end {
        met.insert(world.client.0.tcp(&to).unwrap()[..1].to_string());
        world.client.0.run(async { tokio::time::sleep(Duration::from_millis(1300)).await });
    }
    assert_eq!(met, both());
}

#[test]
fn external_traffic_policy_local_keeps_the_clients_address_and_drops_elsewhere() {
    let world = World::new();
    let mut service = world.service("a");
    service.external_local = true;
    world.sync(&[service]);
    let (here, there) = (format!("{}:30080", world.one.ip), format!("{}:30080", world.two.ip));
    assert_eq!(world.host.space.tcp(&here), Ok("a 172.17.4.1".into()));
    assert!(world.host.space.is_dropped(&there));
    assert_eq!(world.two.space.tcp(&there), Ok(format!("a {}", world.two.ip)), "from the node itself");
}

#[test]
fn internal_traffic_policy_local_uses_the_nodes_own_endpoints() {
    let world = World::new();
    let mut service = world.service("ab");
    service.internal_local = true;
    world.sync(&[service.clone()]);
    let to = format!("{CLUSTER_IP}:80");
    assert_eq!(names(|| world.client.0.tcp(&to)), BTreeSet::from(["a".into()]));
    assert_eq!(names(|| world.two.space.tcp(&to)), BTreeSet::from(["b".into()]));
}

#[test]
fn a_udp_client_that_keeps_its_socket_follows_to_the_new_endpoint() {
    let world = World::new();
    world.sync(&[world.service("a")]);
    let socket = world.client.0.run(async {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect((CLUSTER_IP, 80)).await.unwrap();
        Arc::new(socket)
    });
    let ask = || {
        let socket = socket.clone();
        world.client.0.run(async move {
            socket.send(b"hello").await.unwrap();
            let mut buffer = [0; 100];
            let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer)).await;
            length.map(|length| char::from(buffer[..length.unwrap()][0]))
        })
    };
    assert_eq!(ask(), Ok('a'));
    world.sync(&[world.service("b")]);
    assert_eq!(ask(), Ok('b'));
}

#[test]
fn connections_go_on_while_rules_change_and_a_new_proxy_takes_over() {
    let world = World::new();
    world.sync(&[world.service("a")]);
    let to = format!("{CLUSTER_IP}:80");
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let start = Instant::now();
                world.client.0.tcp(&to).unwrap();
                // A lost packet would be sent again after a second.
                assert!(start.elapsed() < Duration::from_millis(900));
                count += 1;
            }
            count
        });
        for round in 0..40 {
            world.sync(&[world.service(if round % 2 == 0 { "ab" } else { "a" })]);
            if round % 10 == 0 {
                // A whole replacement, as after a restart of the agent.
                sync(&world.one, &proxy(&world.one), &[world.service("a")]);
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
}

#[test]
fn a_table_that_somebody_removed_is_made_again_at_the_next_change() {
    let world = World::new();
    world.sync(&[world.service("a")]);
    // Another writer of the same table, which starts by replacing it.
    sync(&world.one, &proxy(&world.one), &[]);
    let to = format!("{CLUSTER_IP}:80");
    assert!(world.client.0.is_dropped(&to), "an address of no service");
    world.sync(&[world.service("ab")]);
    assert_eq!(names(|| world.client.0.tcp(&to)), both());
}

#[test]
fn measured_a_thousand_services_sync_fast_and_a_change_costs_little() {
    let host = Host::new();
    let node = Node::new(&host, 1);
    let proxy = proxy(&node);
    let mut services: Vec<Service> = (0..1000u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let endpoint = |third| Endpoint {
                address: Ipv4Addr::new(10, 2, third, low),
                port: 8080 + u16::from(high),
                ready: true,
                serving: true,
                terminating: false,
                local: third == 1,
            };
            Service {
                namespace: "default".into(),
                name: format!("service-{number}"),
                cluster_ips: vec![Ipv4Addr::new(10, 3, high, low)],
                ports: vec![ServicePort {
                    name: String::new(),
                    protocol: Protocol::Tcp,
                    port: 80,
                    node_port: None,
                    endpoints: vec![endpoint(1), endpoint(2)],
                }],
                ..Service::default()
            }
        })
        .collect();
    let timed = |services: &[Service]| {
        let start = Instant::now();
        let report = sync(&node, &proxy, services);
        (start.elapsed(), report.changes)
    };
    let (first, changes) = timed(&services);
    assert!(changes > 3000);
    println!("1,000 services, first sync: {first:?}, {changes} changes");
    services[500].ports[0].endpoints.pop();
    let (one, changes) = timed(&services);
    assert!(changes < 10, "{changes}");
    println!("1,000 services, one endpoint less: {one:?}, {changes} changes");
    let (none, changes) = timed(&services);
    assert_eq!(changes, 0);
    println!("1,000 services, nothing new: {none:?}");
    let (all, changes) = timed(&[]);
    println!("all services gone: {all:?}, {changes} changes");
}
