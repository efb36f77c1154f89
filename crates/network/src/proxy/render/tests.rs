use super::*;
use crate::Protocol;

fn config() -> ProxyConfig {
    ProxyConfig {
        cluster_pod_cidr: "10.2.0.0/16".parse().unwrap(),
        service_cidr: "10.3.0.0/24".parse().unwrap(),
        node_ip: Ipv4Addr::new(172, 17, 4, 201),
        local_addresses: vec![Ipv4Addr::new(10, 3, 0, 10)],
    }
}

/// Reads endpoints such as `10.2.1.2 local`, `10.2.1.3 terminating`, `10.2.1.4 unready`.
fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
    texts
        .iter()
        .map(|text| {
            let (address, flags) = text.split_once(' ').unwrap_or((text, ""));
            let has = |flag| flags.contains(flag);
            Endpoint {
                address: address.parse().unwrap(),
                port: 8080,
                ready: !has("terminating") && !has("unready"),
                serving: !has("unready"),
                terminating: has("terminating"),
                local: has("local"),
            }
        })
        .collect()
}

fn service(name: &str, ip: [u8; 4], at: &[&str]) -> Service {
    Service {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: vec![ip.into()],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: endpoints(at),
        }],
        ..Service::default()
    }
}

fn rendered(services: &[Service]) -> Table {
    render(&config(), &ServiceTable { services: services.to_vec() })
}

/// The parts of a table that services added to the empty one.
fn added(services: &[Service]) -> String {
    let (empty, full) = (rendered(&[]), rendered(services));
    let mut only = Table::new(TABLE);
    for (name, set) in full.sets {
        if !set.elements.is_empty() {
            only.sets.insert(name, set);
        }
    }
    only.chains = full.chains.into_iter().filter(|(name, _)| !empty.chains.contains_key(name)).collect();
    only.to_string()
}

#[test]
fn the_frame_of_an_empty_table() {
    insta::assert_snapshot!(rendered(&[]));
}

#[test]
fn a_cluster_ip_with_two_endpoints() {
    insta::assert_snapshot!(added(&[service("web", [10, 3, 0, 7], &["10.2.1.2 local", "10.2.2.2"])]));
}

#[test]
fn all_ways_into_a_load_balancer_service() {
    let mut one = service("web", [10, 3, 0, 7], &["10.2.1.2 local", "10.2.2.2"]);
    one.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
    one.load_balancer_ips = vec![Ipv4Addr::new(172, 17, 4, 240)];
    one.source_ranges = vec!["172.17.4.0/24".parse().unwrap(), "10.0.0.1/8".parse().unwrap()];
    one.ports[0].node_port = Some(30080);
    insta::assert_snapshot!(added(&[one]));
}

#[test]
fn traffic_policies_of_local() {
    let mut near = service("near", [10, 3, 0, 7], &["10.2.1.2 local", "10.2.2.2"]);
    let mut far = service("far", [10, 3, 0, 8], &["10.2.2.2"]);
    for (one, port) in [(&mut near, 30001), (&mut far, 30002)] {
        one.internal_local = true;
        one.external_local = true;
        one.ports[0].node_port = Some(port);
    }
    insta::assert_snapshot!(added(&[near, far]));
}

#[test]
fn session_affinity() {
    let mut one = service("web", [10, 3, 0, 7], &["10.2.1.2", "10.2.2.2"]);
    one.affinity = Some(Duration::from_secs(10800));
    one.ports[0].node_port = Some(30080);
    insta::assert_snapshot!(added(&[one]));
}

#[test]
fn services_of_one_kind_share_their_chain() {
    let services: Vec<Service> = (1..=100)
        .map(|number| service(&number.to_string(), [10, 3, 0, number], &["10.2.1.2", "10.2.2.2"]))
        .collect();
    let table = rendered(&services);
    assert_eq!(table.chains.len(), rendered(&[]).chains.len() + 1);
    assert_eq!(table.sets["endpoints"].elements.len(), 198, "the DNS server's address is not translated");
}

#[test]
fn the_order_of_services_ports_and_endpoints_does_not_matter() {
    let mut one = service("a", [10, 3, 0, 7], &["10.2.1.2", "10.2.2.2"]);
    one.ports.push(ServicePort { port: 443, name: "https".into(), ..one.ports[0].clone() });
    let two = service("b", [10, 3, 0, 8], &["10.2.1.2"]);
    let mut turned = one.clone();
    turned.ports.reverse();
    turned.ports[0].endpoints.reverse();
    assert_eq!(rendered(&[one.clone(), two.clone()]), rendered(&[two, turned]));
}

#[test]
fn of_two_services_with_one_external_address_the_first_by_name_has_it() {
    let mut one = service("a", [10, 3, 0, 7], &["10.2.1.2"]);
    let mut two = service("b", [10, 3, 0, 8], &["10.2.2.2", "10.2.2.3"]);
    for service in [&mut one, &mut two] {
        service.cluster_ips.clear();
        service.external_ips = vec![Ipv4Addr::new(192, 0, 2, 1)];
    }
    let table = rendered(&[two, one]);
    assert_eq!(table.sets["endpoints"].elements.len(), 1);
    assert_eq!(
        table.sets["endpoints"].elements.values().next(),
        Some(&Data::Target(Ipv4Addr::new(10, 2, 1, 2), 8080))
    );
}

#[test]
fn usable_endpoints_are_ready_ones_else_those_on_their_way_out() {
    let cases: [(&[&str], bool, &[&str]); 7] = [
        (&[], false, &[]),
        (&["10.2.1.2", "10.2.2.2 local"], false, &["10.2.1.2", "10.2.2.2"]),
        (&["10.2.1.2", "10.2.2.2 local"], true, &["10.2.2.2"]),
        (&["10.2.1.2 unready"], false, &[]),
        (&["10.2.1.2 terminating", "10.2.1.3"], false, &["10.2.1.3"]),
        (&["10.2.1.2 terminating", "10.2.1.3 unready"], false, &["10.2.1.2"]),
        (&["10.2.1.2 terminating local", "10.2.1.3"], true, &["10.2.1.2"]),
    ];
    for (given, local_only, expected) in cases {
        let found: Vec<String> = usable(&endpoints(given), local_only)
            .into_iter()
            .map(|(address, _)| address.to_string())
            .collect();
        assert_eq!(found, expected, "{given:?} {local_only}");
    }
}

#[test]
fn without_endpoints_an_entry_is_refused_and_with_forbidden_ones_dropped() {
    let verdict = |service: Service| {
        let table = rendered(&[service]);
        assert!(table.sets["services"].elements.is_empty());
        table.sets["refused"].elements.values().next().cloned()
    };
    let refuse = Some(Data::Verdict(Verdict::Goto("refuse".into())));
    let mut local = service("web", [10, 3, 0, 7], &["10.2.2.2"]);
    local.internal_local = true;
    assert_eq!(verdict(service("web", [10, 3, 0, 7], &[])), refuse);
    assert_eq!(verdict(service("web", [10, 3, 0, 7], &["10.2.2.2 unready"])), refuse);
    assert_eq!(verdict(local), Some(Data::Verdict(Verdict::Drop)));
}
