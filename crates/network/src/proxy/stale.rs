//! Which tracked UDP connections must be forgotten. A UDP client that keeps its socket would otherwise send
//! to an endpoint that is gone for as long as it sends.

use std::net::Ipv4Addr;

use super::render::UdpEntries;
use crate::conntrack::Connection;

const UDP: u8 = 17;

/// Whether `connection` leads elsewhere than the entries now do. `before` are the entries that were.
pub(super) fn is_stale(connection: &Connection, before: &UdpEntries, now: &UdpEntries) -> bool {
    let Connection { original, reply } = connection;
    if original.protocol != UDP {
        return false;
    }
    let (destination, port) = original.destination;
    let translated = reply.source != original.destination;
    let gone = |endpoints: &std::collections::BTreeSet<(Ipv4Addr, u16)>| {
        if translated { !endpoints.contains(&reply.source) } else { !endpoints.is_empty() }
    };
    if let Some(endpoints) = now.addresses.get(&(destination, port)) {
        return gone(endpoints);
    }
    if before.addresses.contains_key(&(destination, port)) {
        return translated;
    }
    // Without a look at the node's addresses: only what was translated can have been for a node port.
    match now.node_ports.get(&port) {
        Some(endpoints) => translated && gone(endpoints),
        None => translated && before.node_ports.contains_key(&port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::Tuple;

    fn parse(text: &str) -> (Ipv4Addr, u16) {
        let address: std::net::SocketAddrV4 = text.parse().unwrap();
        (*address.ip(), address.port())
    }

    fn entries(addresses: &[(&str, &[&str])], node_ports: &[(u16, &[&str])]) -> UdpEntries {
        let set = |endpoints: &&[&str]| endpoints.iter().map(|one| parse(one)).collect();
        UdpEntries {
            addresses: addresses.iter().map(|(entry, all)| (parse(entry), set(all))).collect(),
            node_ports: node_ports.iter().map(|(entry, all)| (*entry, set(all))).collect(),
        }
    }

    #[test]
    fn stale_is_what_leads_elsewhere_than_now() {
        let before = entries(&[("10.3.0.9:53", &["10.2.1.9:53"])], &[(30054, &["10.2.1.9:53"])]);
        let now = entries(
            &[("10.3.0.7:53", &["10.2.1.2:53", "10.2.2.2:53"]), ("10.3.0.8:53", &[])],
            &[(30053, &["10.2.1.2:53"])],
        );
        let cases = [
            ("an endpoint that is there", 17, "10.3.0.7:53", "10.2.1.2:53", false),
            ("an endpoint that is gone", 17, "10.3.0.7:53", "10.2.1.3:53", true),
            ("TCP ends by itself", 6, "10.3.0.7:53", "10.2.1.3:53", false),
            ("not translated, and now there is an endpoint", 17, "10.3.0.7:53", "10.3.0.7:53", true),
            ("not translated, and still no endpoint", 17, "10.3.0.8:53", "10.3.0.8:53", false),
            ("the last endpoint is gone", 17, "10.3.0.8:53", "10.2.1.2:53", true),
            ("the service is gone", 17, "10.3.0.9:53", "10.2.1.9:53", true),
            ("a service that never was", 17, "10.3.0.99:53", "10.2.1.9:53", false),
            ("a node port's endpoint", 17, "172.17.4.201:30053", "10.2.1.2:53", false),
            ("a node port's endpoint that is gone", 17, "172.17.4.201:30053", "10.2.1.7:53", true),
            ("a node port that is gone", 17, "172.17.4.201:30054", "10.2.1.9:53", true),
            ("a port elsewhere", 17, "192.0.2.1:30053", "192.0.2.1:30053", false),
        ];
        for (what, protocol, destination, went_to, expected) in cases {
            let client = parse("10.2.1.50:4000");
            let connection = Connection {
                original: Tuple { source: client, destination: parse(destination), protocol },
                reply: Tuple { source: parse(went_to), destination: client, protocol },
            };
            assert_eq!(is_stale(&connection, &before, &now), expected, "{what}");
        }
    }
}
