use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RecordType};
use machinery::tasks::Tasks;
use network::dns::{
    DnsConfig, DnsServer, HeadlessEndpoint, Zone, ZonePort, ZoneService, ZoneServiceKind, claim_address,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;

use crate::lab::{Host, Node, Space};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 10);

fn zone(domain: &str, address: [u8; 4]) -> Zone {
    let mut zone = Zone {
        domain: domain.into(),
        dns_address: Some(DNS),
        namespaces: ["default".to_string()].into(),
        ..Zone::default()
    };
    let ports = vec![ZonePort { name: "http".into(), protocol: network::Protocol::Tcp, port: 80 }];
    let kind = ZoneServiceKind::ClusterIp { addresses: vec![address.into()], ports: ports.clone() };
    zone.services.insert(("default".into(), "web".into()), ZoneService { kind });
    let endpoints = (0..200)
        .map(|last| HeadlessEndpoint {
            address: [10, 2, 1, last].into(),
            hostname: None,
            ports: ports.clone(),
        })
        .collect();
    let kind = ZoneServiceKind::Headless { endpoints };
    zone.services.insert(("default".into(), "many".into()), ZoneService { kind });
    let kind = ZoneServiceKind::ExternalName("web.default.svc.outside.test".into());
    zone.services.insert(("default".into(), "alias".into()), ZoneService { kind });
    zone
}

fn start(space: &Space, config: DnsConfig, zone: Zone) -> (watch::Sender<Arc<Zone>>, Tasks) {
    let (sender, receiver) = watch::channel(Arc::new(zone));
    let tasks = Tasks::new(tokio_util::sync::CancellationToken::new());
    let group = tasks.clone();
    space.run(async move { DnsServer::start(config, receiver, &group).await.unwrap() });
    (sender, tasks)
}

fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn udp(space: &Space, to: SocketAddr, message: Message) -> Message {
    space.run(async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect(to).await.unwrap();
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 65536];
        let length = tokio::time::timeout(Duration::from_secs(8), socket.recv(&mut buffer)).await;
        Message::from_vec(&buffer[..length.unwrap().unwrap()]).unwrap()
    })
}

fn tcp(space: &Space, to: SocketAddr, message: Message) -> Message {
    space.run(async move {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let bytes = message.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut buffer).await.unwrap();
        Message::from_vec(&buffer).unwrap()
    })
}

fn records(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
}

/// A node whose DNS server forwards to one on the host, and a pod that asks.
struct World {
    _host: Host,
    node: Node,
    pod: Space,
    server: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    _tasks: [Tasks; 2],
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let node = Node::new(&host, 1);
        let (pod, _) = node.pod("pod");
        let outside = SocketAddr::from(([172, 17, 4, 1], 53));
        let nobody = SocketAddr::from(([172, 17, 4, 99], 53));
        let patience = Duration::from_secs(2);
        let config = |listen, upstreams| DnsConfig { listen: vec![listen], upstreams, timeout: patience };
        let (_, upstream) = start(&host.space, config(outside, vec![]), zone("outside.test", [192, 0, 2, 7]));
        node.space.run(async {
            claim_address(DNS).await.unwrap();
            claim_address(DNS).await.unwrap();
        });
        let server = SocketAddr::from((DNS, 53));
        let (zone, own) =
            start(&node.space, config(server, vec![nobody, outside]), zone("cluster.local", [10, 3, 0, 7]));
        Self { _host: host, node, pod, server, zone, _tasks: [own, upstream] }
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        udp(&self.pod, self.server, query(name, kind, None))
    }
}

#[test]
fn a_pod_asks_its_node_by_udp_and_tcp() {
    let world = World::new();
    let name = "web.default.svc.cluster.local.";
    for answer in [
        world.ask(name, RecordType::A),
        tcp(&world.pod, world.server, query(name, RecordType::A, None)),
        udp(&world.node.space, world.server, query(name, RecordType::A, Some(4096))),
    ] {
        assert_eq!(records(&answer), ["web.default.svc.cluster.local. 10.3.0.7"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::NoError));
    }
}

#[test]
fn what_has_no_records_comes_with_the_zones_authority() {
    let world = World::new();
    for (name, kind, code) in [
        ("web.default.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
        ("nothing.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = world.ask(name, kind);
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
}

#[test]
fn the_case_of_the_question_comes_back() {
    let world = World::new();
    let answer = world.ask("WEB.default.SVC.cluster.LOCAL.", RecordType::A);
    assert_eq!(answer.queries[0].name().to_ascii(), "WEB.default.SVC.cluster.LOCAL.");
    assert_eq!(answer.answers[0].name.to_ascii(), "WEB.default.SVC.cluster.LOCAL.");
}

#[test]
fn an_answer_too_large_for_udp_says_so_and_is_whole_by_tcp() {
    let world = World::new();
    let name = "many.default.svc.cluster.local.";
    let small = world.ask(name, RecordType::A);
    assert!(small.metadata.truncation);
    assert!(small.answers.len() < 40, "{}", small.answers.len());
    let larger = udp(&world.pod, world.server, query(name, RecordType::A, Some(4096)));
    assert!(larger.metadata.truncation);
    assert!(larger.answers.len() > small.answers.len());
    let whole = tcp(&world.pod, world.server, query(name, RecordType::A, None));
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[test]
fn a_changed_zone_is_answered_at_once() {
    let world = World::new();
    let ask = || records(&world.ask("web.default.svc.cluster.local.", RecordType::A));
    assert_eq!(ask(), ["web.default.svc.cluster.local. 10.3.0.7"]);
    world.zone.send_replace(Arc::new(zone("cluster.local", [10, 3, 0, 8])));
    assert_eq!(ask(), ["web.default.svc.cluster.local. 10.3.0.8"]);
}

#[test]
fn names_outside_are_forwarded_past_a_silent_server_and_remembered() {
    let world = World::new();
    let name = "web.default.svc.outside.test.";
    let answer = world.ask(name, RecordType::A);
    assert_eq!(records(&answer), ["web.default.svc.outside.test. 192.0.2.7"]);
    assert!(!answer.metadata.authoritative);
    let start = Instant::now();
    assert_eq!(records(&world.ask(name, RecordType::A)), records(&answer));
    assert!(start.elapsed() < Duration::from_millis(1500), "the silent server was not asked again");
    assert_eq!(
        world.ask("nothing.default.svc.outside.test.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    let large = tcp(&world.pod, world.server, query("many.default.svc.outside.test.", RecordType::A, None));
    assert_eq!(large.answers.len(), 200, "truncated upstream, so asked again by TCP");
    assert_eq!(world.ask("web.example.com.", RecordType::A).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn an_external_name_is_followed_outside() {
    let world = World::new();
    let answer = world.ask("alias.default.svc.cluster.local.", RecordType::A);
    assert_eq!(
        records(&answer),
        [
            "alias.default.svc.cluster.local. web.default.svc.outside.test.",
            "web.default.svc.outside.test. 192.0.2.7"
        ]
    );
    let alone = world.ask("alias.default.svc.cluster.local.", RecordType::CNAME);
    assert_eq!(alone.answers.len(), 1);
}

#[test]
fn without_an_answer_from_any_upstream_the_server_says_that_it_failed() {
    let host = Host::new();
    let node = Node::new(&host, 1);
    let nobody = SocketAddr::from(([172, 17, 4, 99], 53));
    let server = SocketAddr::from(([127, 0, 0, 1], 5353));
    let config =
        DnsConfig { listen: vec![server], upstreams: vec![nobody], timeout: Duration::from_millis(100) };
    let (_zone, _tasks) = start(&node.space, config, zone("cluster.local", [10, 3, 0, 7]));
    let answer = udp(&node.space, server, query("www.example.com.", RecordType::A, None));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn measured_an_answer_takes_less_than_a_millisecond() {
    let world = World::new();
    let server = world.server;
    let mut times: Vec<u128> = world.pod.run(async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect(server).await.unwrap();
        let bytes = query("web.default.svc.cluster.local.", RecordType::A, None).to_vec().unwrap();
        let mut buffer = [0; 512];
        let mut times = Vec::new();
        for round in 0..500 {
            let start = Instant::now();
            socket.send(&bytes).await.unwrap();
            let answered = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
            answered.unwrap_or_else(|_| panic!("no answer in round {round}")).unwrap();
            times.push(start.elapsed().as_micros());
        }
        times
    });
    times.sort_unstable();
    println!("DNS answer: median {} µs, 99th percentile {} µs", times[250], times[495]);
}
