//! From a question to an answer: a pure function of the zone. The behaviour is that of the Kubernetes DNS
//! specification 1.1.0; where that leaves a choice, CoreDNS's.

use std::net::Ipv4Addr;

use hickory_server::proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};

use super::zone::{HeadlessEndpoint, Zone, ZonePort, ZoneService, ZoneServiceKind};

/// How long records may be kept, in seconds. Short, since endpoints come and go.
pub(super) const TTL: u32 = 5;
/// The version of the specification never changes under a running server.
const VERSION_TTL: u32 = 28800;
const VERSION: &str = "1.1.0";

/// What the zone says of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The name does not belong to the cluster.
    Elsewhere,
    /// The name belongs to the cluster and does not exist.
    NoSuchName,
    /// The name exists; without answers it has no records of this type.
    Found(Found),
}

/// Records for a name that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) answers: Vec<Record>,
    pub(super) additionals: Vec<Record>,
    /// Where the question leads on, when the last answer is an alias.
    pub(super) alias: Option<Name>,
}

/// An address behind a service name, with the name and the port that SRV records show.
struct Target<'a> {
    name: Name,
    address: Ipv4Addr,
    port: Option<&'a ZonePort>,
}

/// Answers one question.
pub(super) fn lookup(zone: &Zone, name: &Name, kind: RecordType) -> Outcome {
    let Some(origin) = origin(zone) else { return Outcome::Elsewhere };
    if let Some(address) = reversed(name) {
        return reverse(zone, &origin, name, kind, address);
    }
    if !origin.zone_of(name) {
        return Outcome::Elsewhere;
    }
    let depth = usize::from(name.num_labels()) - usize::from(origin.num_labels());
    let labels: Vec<String> =
        name.iter().take(depth).map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [] => apex(zone, &origin, name, kind),
        ["dns-version"] if kind == RecordType::TXT => {
            let text = RData::TXT(TXT::new(vec![VERSION.into()]));
            found(vec![Record::from_rdata(name.clone(), VERSION_TTL, text)])
        }
        ["ns", "dns"] => match (zone.dns_address, kind) {
            (Some(address), RecordType::A) => found(vec![address_record(name, address)]),
            _ => nothing(),
        },
        ["dns-version" | "dns" | "svc" | "pod"] => nothing(),
        [namespace, "svc" | "pod"] if zone.namespaces.contains(*namespace) => nothing(),
        [label, namespace, "pod"] if zone.namespaces.contains(*namespace) => match dashed(label) {
            Some(address) if kind == RecordType::A => found(vec![address_record(name, address)]),
            Some(_) => nothing(),
            None => Outcome::NoSuchName,
        },
        [rest @ .., service, namespace, "svc"] => {
            let key = ((*namespace).to_string(), (*service).to_string());
            match zone.services.get(&key) {
                Some(found) => of_service(&origin, name, kind, found, &key, rest),
                None => Outcome::NoSuchName,
            }
        }
        _ => Outcome::NoSuchName,
    }
}

/// Returns the zone's SOA record, which goes with every answer that has no records.
pub(super) fn authority(zone: &Zone) -> Option<Record> {
    let origin = origin(zone)?;
    let server = name_server(&origin)?;
    let mailbox = Name::from_ascii("hostmaster").ok()?.append_domain(&origin).ok()?;
    let soa = SOA::new(server, mailbox, zone.serial, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(origin, TTL, RData::SOA(soa)))
}

fn origin(zone: &Zone) -> Option<Name> {
    let mut name = Name::from_ascii(&zone.domain).ok()?;
    name.set_fqdn(true);
    (!name.is_root()).then_some(name)
}

fn name_server(origin: &Name) -> Option<Name> {
    Name::from_ascii("ns.dns").ok()?.append_domain(origin).ok()
}

fn found(answers: Vec<Record>) -> Outcome {
    Outcome::Found(Found { answers, ..Found::default() })
}

/// The name exists without records of the type that was asked for.
fn nothing() -> Outcome {
    Outcome::Found(Found::default())
}

fn address_record(name: &Name, address: Ipv4Addr) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::A(A(address)))
}

/// Reads an address with dashes, such as `10-2-3-4`.
fn dashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok().filter(|_| !label.contains('.'))
}

fn apex(zone: &Zone, origin: &Name, name: &Name, kind: RecordType) -> Outcome {
    match kind {
        RecordType::SOA => found(authority(zone).into_iter().collect()),
        RecordType::NS => {
            let Some(server) = name_server(origin) else { return nothing() };
            let additionals =
                zone.dns_address.map(|address| address_record(&server, address)).into_iter().collect();
            let answers = vec![Record::from_rdata(name.clone(), TTL, RData::NS(NS(server)))];
            Outcome::Found(Found { answers, additionals, alias: None })
        }
        _ => nothing(),
    }
}

fn of_service(
    origin: &Name,
    name: &Name,
    kind: RecordType,
    service: &ZoneService,
    (namespace, service_name): &(String, String),
    rest: &[&str],
) -> Outcome {
    let own_name = || {
        let own = Name::from_labels([service_name.as_bytes(), namespace.as_bytes(), b"svc"]).ok()?;
        own.append_domain(origin).ok()
    };
    let Some(own_name) = own_name() else { return Outcome::NoSuchName };
    // One label more is an endpoint, two are a port and its protocol.
    let (endpoint, wanted) = match rest {
        [] => (None, None),
        [endpoint] => (Some(*endpoint), None),
        [port, protocol] => (
            None,
            Some((port.strip_prefix('_').unwrap_or(port), protocol.strip_prefix('_').unwrap_or(protocol))),
        ),
        _ => return Outcome::NoSuchName,
    };
    let targets = match &service.kind {
        ZoneServiceKind::ExternalName(target) => {
            return if rest.is_empty() { alias(name, target) } else { Outcome::NoSuchName };
        }
        ZoneServiceKind::ClusterIp { .. } if endpoint.is_some() => return Outcome::NoSuchName,
        ZoneServiceKind::ClusterIp { addresses, ports } => addresses
            .iter()
            .flat_map(|address| with_ports(&own_name, *address, ports, wanted))
            .collect::<Vec<_>>(),
        ZoneServiceKind::Headless { endpoints } => endpoints
            .iter()
            .filter(|one| endpoint.is_none_or(|wanted| host_label(one).eq_ignore_ascii_case(wanted)))
            .filter_map(|one| {
                let name =
                    Name::from_labels([host_label(one).as_bytes()]).ok()?.append_domain(&own_name).ok()?;
                Some(with_ports(&name, one.address, &one.ports, wanted).collect::<Vec<_>>())
            })
            .flatten()
            .collect(),
    };
    if targets.is_empty() {
        return Outcome::NoSuchName;
    }
    match kind {
        RecordType::A => {
            let mut answers: Vec<Record> = Vec::with_capacity(targets.len());
            for target in &targets {
                let record = address_record(name, target.address);
                if !answers.contains(&record) {
                    answers.push(record);
                }
            }
            found(answers)
        }
        RecordType::SRV => services(name, &targets),
        _ => nothing(),
    }
}

/// Returns one target for each port that matches. Without any wish, a target without ports counts, too.
fn with_ports<'a>(
    name: &Name,
    address: Ipv4Addr,
    ports: &'a [ZonePort],
    wanted: Option<(&str, &str)>,
) -> impl Iterator<Item = Target<'a>> {
    let matching: Vec<Option<&ZonePort>> = match wanted {
        None if ports.is_empty() => vec![None],
        None => ports.iter().map(Some).collect(),
        Some((port, protocol)) => ports
            .iter()
            .filter(|one| {
                one.name.eq_ignore_ascii_case(port) && one.protocol.to_string().eq_ignore_ascii_case(protocol)
            })
            .map(Some)
            .collect(),
    };
    let name = name.clone();
    matching.into_iter().map(move |port| Target { name: name.clone(), address, port })
}

fn host_label(endpoint: &HeadlessEndpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) if !hostname.is_empty() => hostname.clone(),
        _ => endpoint.address.to_string().replace('.', "-"),
    }
}

fn services(name: &Name, targets: &[Target<'_>]) -> Outcome {
    let with_port = || targets.iter().filter_map(|target| Some((target, target.port?)));
    let weight = u16::try_from(100 / with_port().count().max(1)).unwrap_or(100);
    let mut result = Found::default();
    for (target, port) in with_port() {
        let data = RData::SRV(SRV::new(0, weight, port.port, target.name.clone()));
        let record = Record::from_rdata(name.clone(), TTL, data);
        if !result.answers.contains(&record) {
            result.answers.push(record);
        }
        let address = address_record(&target.name, target.address);
        if !result.additionals.contains(&address) {
            result.additionals.push(address);
        }
    }
    Outcome::Found(result)
}

fn alias(name: &Name, target: &str) -> Outcome {
    let Ok(mut target) = Name::from_utf8(target) else { return nothing() };
    target.set_fqdn(true);
    let answers = vec![Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())))];
    Outcome::Found(Found { answers, additionals: Vec::new(), alias: Some(target) })
}

/// Reads the address out of a name below `in-addr.arpa`.
fn reversed(name: &Name) -> Option<Ipv4Addr> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let [a, b, c, d, first, second] = labels.as_slice() else { return None };
    if !first.eq_ignore_ascii_case(b"in-addr") || !second.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let octet = |label: &&[u8]| std::str::from_utf8(label).ok()?.parse::<u8>().ok();
    Some(Ipv4Addr::new(octet(d)?, octet(c)?, octet(b)?, octet(a)?))
}

fn reverse(zone: &Zone, origin: &Name, name: &Name, kind: RecordType, address: Ipv4Addr) -> Outcome {
    let mut names = Vec::new();
    for ((namespace, service), found) in &zone.services {
        let mut labels: Vec<Vec<u8>> =
            vec![service.clone().into(), namespace.clone().into(), b"svc".to_vec()];
        match &found.kind {
            ZoneServiceKind::ClusterIp { addresses, .. } if addresses.contains(&address) => {}
            ZoneServiceKind::Headless { endpoints } => {
                let Some(endpoint) = endpoints.iter().find(|one| one.address == address) else { continue };
                labels.insert(0, host_label(endpoint).into_bytes());
            }
            _ => continue,
        }
        let labels = labels.iter().map(Vec::as_slice);
        if let Ok(full) = Name::from_labels(labels).and_then(|own| own.append_domain(origin)) {
            names.push(full);
        }
    }
    if names.is_empty() {
        let ours = zone.networks.iter().any(|network| network.contains(&address));
        return if ours { Outcome::NoSuchName } else { Outcome::Elsewhere };
    }
    if kind != RecordType::PTR {
        return nothing();
    }
    found(
        names.into_iter().map(|full| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(full)))).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::zone::Zone;
    use super::*;
    use crate::Protocol;

    fn port(name: &str, protocol: Protocol, port: u16) -> ZonePort {
        ZonePort { name: name.into(), protocol, port }
    }

    fn zone() -> Zone {
        let mut zone = Zone {
            domain: "cluster.local".into(),
            dns_address: Some(Ipv4Addr::new(10, 3, 0, 10)),
            namespaces: ["default", "testns", "empty"].map(String::from).into(),
            networks: vec!["10.2.0.0/16".parse().unwrap(), "10.3.0.0/24".parse().unwrap()],
            serial: 7,
            ..Zone::default()
        };
        let mut add = |namespace: &str, name: &str, kind| {
            zone.services.insert((namespace.into(), name.into()), ZoneService { kind });
        };
        let http = || vec![port("http", Protocol::Tcp, 80)];
        let cluster_ip =
            |last, ports| ZoneServiceKind::ClusterIp { addresses: vec![[10, 3, 0, last].into()], ports };
        add("default", "kubernetes", cluster_ip(1, vec![port("https", Protocol::Tcp, 443)]));
        add("testns", "web", cluster_ip(7, http()));
        add(
            "testns",
            "dns",
            cluster_ip(8, vec![port("dns", Protocol::Udp, 53), port("dns", Protocol::Tcp, 53)]),
        );
        add("testns", "portless", cluster_ip(9, vec![port("", Protocol::Tcp, 80)]));
        let endpoint = |last, hostname: Option<&str>, ports| HeadlessEndpoint {
            address: Ipv4Addr::new(10, 2, 1, last),
            hostname: hostname.map(Into::into),
            ports,
        };
        add(
            "testns",
            "db",
            ZoneServiceKind::Headless {
                endpoints: vec![
                    endpoint(2, Some("db-0"), http()),
                    endpoint(3, Some("db-1"), http()),
                    endpoint(4, None, http()),
                ],
            },
        );
        add("testns", "bare", ZoneServiceKind::Headless { endpoints: vec![endpoint(20, None, vec![])] });
        add("testns", "nobody", ZoneServiceKind::Headless { endpoints: vec![] });
        add("testns", "outside", ZoneServiceKind::ExternalName("www.example.com".into()));
        add("testns", "inside", ZoneServiceKind::ExternalName("web.testns.svc.cluster.local.".into()));
        zone
    }

    /// Asks as `name TYPE` and returns the answer as text.
    fn ask(question: &str) -> String {
        let (name, kind) = question.split_once(' ').unwrap();
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        match lookup(&zone(), &name, kind.parse().unwrap()) {
            Outcome::Elsewhere => "elsewhere".into(),
            Outcome::NoSuchName => "NXDOMAIN".into(),
            Outcome::Found(found) if found.answers.is_empty() => "NODATA".into(),
            Outcome::Found(found) => {
                let line = |mark: &str, record: &Record| {
                    let name = record.name.to_ascii();
                    let own =
                        if name == format!("{}.", question.split(' ').next().unwrap()) { "@" } else { &name };
                    format!("{mark}{own} {} {} {}", record.ttl, record.record_type(), record.data)
                };
                let answers = found.answers.iter().map(|record| line("", record));
                let additionals = found.additionals.iter().map(|record| line("+ ", record));
                answers.chain(additionals).collect::<Vec<_>>().join("\n")
            }
        }
    }

    #[test]
    fn questions_and_answers() {
        let cases = [
            // Services with a cluster IP.
            ("kubernetes.default.svc.cluster.local A", "@ 5 A 10.3.0.1"),
            ("web.testns.svc.cluster.local A", "@ 5 A 10.3.0.7"),
            ("wEb.TESTNS.svc.Cluster.Local A", "@ 5 A 10.3.0.7"),
            ("web.testns.svc.cluster.local AAAA", "NODATA"),
            ("web.testns.svc.cluster.local TXT", "NODATA"),
            ("web.testns.svc.cluster.local SOA", "NODATA"),
            ("dns.testns.svc.cluster.local A", "@ 5 A 10.3.0.8"),
            ("nothing.testns.svc.cluster.local A", "NXDOMAIN"),
            ("nothing.testns.svc.cluster.local AAAA", "NXDOMAIN"),
            ("web.default.svc.cluster.local A", "NXDOMAIN"),
            ("web.nowhere.svc.cluster.local A", "NXDOMAIN"),
            ("endpoint.web.testns.svc.cluster.local A", "NXDOMAIN"),
            // Ports.
            (
                "_http._tcp.web.testns.svc.cluster.local SRV",
                "@ 5 SRV 0 100 80 web.testns.svc.cluster.local.\n+ web.testns.svc.cluster.local. 5 A 10.3.0.7",
            ),
            (
                "web.testns.svc.cluster.local SRV",
                "@ 5 SRV 0 100 80 web.testns.svc.cluster.local.\n+ @ 5 A 10.3.0.7",
            ),
            (
                "_dns._udp.dns.testns.svc.cluster.local SRV",
                "@ 5 SRV 0 100 53 dns.testns.svc.cluster.local.\n+ dns.testns.svc.cluster.local. 5 A 10.3.0.8",
            ),
            ("_http._tcp.web.testns.svc.cluster.local A", "@ 5 A 10.3.0.7"),
            ("_http._udp.web.testns.svc.cluster.local SRV", "NXDOMAIN"),
            ("_https._tcp.web.testns.svc.cluster.local SRV", "NXDOMAIN"),
            ("a._http._tcp.web.testns.svc.cluster.local SRV", "NXDOMAIN"),
            (
                "portless.testns.svc.cluster.local SRV",
                "@ 5 SRV 0 100 80 portless.testns.svc.cluster.local.\n+ @ 5 A 10.3.0.9",
            ),
            // Headless services.
            ("db.testns.svc.cluster.local A", "@ 5 A 10.2.1.2\n@ 5 A 10.2.1.3\n@ 5 A 10.2.1.4"),
            ("db-0.db.testns.svc.cluster.local A", "@ 5 A 10.2.1.2"),
            ("DB-1.db.testns.svc.cluster.local A", "@ 5 A 10.2.1.3"),
            ("db-2.db.testns.svc.cluster.local A", "NXDOMAIN"),
            ("10-2-1-4.db.testns.svc.cluster.local A", "@ 5 A 10.2.1.4"),
            ("10-2-1-2.db.testns.svc.cluster.local A", "NXDOMAIN"),
            (
                "_http._tcp.db.testns.svc.cluster.local SRV",
                "@ 5 SRV 0 33 80 db-0.db.testns.svc.cluster.local.\n\
                 @ 5 SRV 0 33 80 db-1.db.testns.svc.cluster.local.\n\
                 @ 5 SRV 0 33 80 10-2-1-4.db.testns.svc.cluster.local.\n\
                 + db-0.db.testns.svc.cluster.local. 5 A 10.2.1.2\n\
                 + db-1.db.testns.svc.cluster.local. 5 A 10.2.1.3\n\
                 + 10-2-1-4.db.testns.svc.cluster.local. 5 A 10.2.1.4",
            ),
            ("bare.testns.svc.cluster.local A", "@ 5 A 10.2.1.20"),
            ("bare.testns.svc.cluster.local SRV", "NODATA"),
            ("nobody.testns.svc.cluster.local A", "NXDOMAIN"),
            // Other names.
            ("outside.testns.svc.cluster.local CNAME", "@ 5 CNAME www.example.com."),
            ("outside.testns.svc.cluster.local A", "@ 5 CNAME www.example.com."),
            ("inside.testns.svc.cluster.local A", "@ 5 CNAME web.testns.svc.cluster.local."),
            ("endpoint.outside.testns.svc.cluster.local CNAME", "NXDOMAIN"),
            ("_http._tcp.outside.testns.svc.cluster.local SRV", "NXDOMAIN"),
            // Pods.
            ("10-2-1-5.testns.pod.cluster.local A", "@ 5 A 10.2.1.5"),
            ("10-2-1-5.testns.pod.cluster.local AAAA", "NODATA"),
            ("10-2-1-5.nowhere.pod.cluster.local A", "NXDOMAIN"),
            ("10-2-1.testns.pod.cluster.local A", "NXDOMAIN"),
            ("10-2-1-500.testns.pod.cluster.local A", "NXDOMAIN"),
            ("x.10-2-1-5.testns.pod.cluster.local A", "NXDOMAIN"),
            // The zone itself and what is between.
            ("cluster.local NS", "@ 5 NS ns.dns.cluster.local.\n+ ns.dns.cluster.local. 5 A 10.3.0.10"),
            (
                "cluster.local SOA",
                "@ 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5",
            ),
            ("cluster.local A", "NODATA"),
            ("ns.dns.cluster.local A", "@ 5 A 10.3.0.10"),
            ("dns-version.cluster.local TXT", "@ 28800 TXT 1.1.0"),
            ("dns-version.cluster.local A", "NODATA"),
            ("svc.cluster.local A", "NODATA"),
            ("pod.cluster.local A", "NODATA"),
            ("testns.svc.cluster.local A", "NODATA"),
            ("testns.svc.cluster.local NS", "NODATA"),
            ("empty.svc.cluster.local A", "NODATA"),
            ("nowhere.svc.cluster.local NS", "NXDOMAIN"),
            ("foo.cluster.local A", "NXDOMAIN"),
            ("web.testns.foo.cluster.local A", "NXDOMAIN"),
            // Reverse names.
            ("7.0.3.10.in-addr.arpa PTR", "@ 5 PTR web.testns.svc.cluster.local."),
            ("7.0.3.10.in-addr.arpa A", "NODATA"),
            ("2.1.2.10.in-addr.arpa PTR", "@ 5 PTR db-0.db.testns.svc.cluster.local."),
            ("4.1.2.10.IN-ADDR.arpa PTR", "@ 5 PTR 10-2-1-4.db.testns.svc.cluster.local."),
            ("99.0.3.10.in-addr.arpa PTR", "NXDOMAIN"),
            ("1.4.17.172.in-addr.arpa PTR", "elsewhere"),
            ("0.3.10.in-addr.arpa PTR", "elsewhere"),
            // Everything else.
            ("www.example.com A", "elsewhere"),
            ("local A", "elsewhere"),
            ("web.testns.svc A", "elsewhere"),
            ("mycluster.local A", "elsewhere"),
        ];
        for (question, expected) in cases {
            assert_eq!(ask(question), expected, "{question}");
        }
    }

    #[test]
    fn a_zone_without_a_domain_answers_nothing() {
        let name = Name::from_ascii("web.testns.svc.").unwrap();
        assert_eq!(lookup(&Zone::default(), &name, RecordType::A), Outcome::Elsewhere);
        assert_eq!(authority(&Zone::default()), None);
    }
}
