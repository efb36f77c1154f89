//! From API objects to the plain values that the network takes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::Protocol;
use network::dns::{HeadlessEndpoint, Zone, ZonePort, ZoneService, ZoneServiceKind};
use network::pods::NodeRoute;
use network::proxy::{self, Endpoint, ServicePort, ServiceTable};
use sha2::{Digest, Sha256};

/// The label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of nodes that answer for no load-balancer address.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// How long a client stays with its endpoint when nothing else is said, seconds.
const AFFINITY_SECONDS: i32 = 10800;

/// Returns the node's part of the pod addresses, once it has one.
pub(crate) fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten()).find_map(|text| text.parse().ok())
}

fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    node.status
        .as_ref()?
        .addresses
        .iter()
        .flatten()
        .find(|address| address.type_ == "InternalIP")
        .and_then(|address| address.address.parse().ok())
}

/// Returns the routes to the pods of other nodes.
pub(crate) fn peers(nodes: &[Arc<Node>], own: &str) -> Vec<NodeRoute> {
    let mut routes: Vec<NodeRoute> = nodes
        .iter()
        .filter(|node| node.metadata.name.as_deref() != Some(own))
        .filter_map(|node| Some(NodeRoute { node_ip: internal_ip(node)?, pod_cidr: pod_cidr(node)? }))
        .collect();
    routes.sort_unstable();
    routes
}

type Name = (String, String);

fn slices_by_service(slices: &[Arc<EndpointSlice>]) -> BTreeMap<Name, Vec<&EndpointSlice>> {
    let mut found: BTreeMap<Name, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else {
            continue;
        };
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        found.entry((namespace, service.clone())).or_default().push(slice);
    }
    found
}

fn name_of(service: &Service) -> Name {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn addresses(texts: Option<&Vec<String>>) -> Vec<Ipv4Addr> {
    texts.into_iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

fn cluster_ips(service: &Service) -> Vec<Ipv4Addr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut found = addresses(spec.cluster_ips.as_ref());
    if found.is_empty() {
        found.extend(spec.cluster_ip.as_deref().and_then(|text| text.parse::<Ipv4Addr>().ok()));
    }
    found
}

fn load_balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref())
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect()
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    text.unwrap_or("TCP").parse().ok()
}

/// Returns what the service proxy is to do.
pub(crate) fn services(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], own: &str) -> ServiceTable {
    let slices = slices_by_service(slices);
    let mut table = ServiceTable::default();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let cluster_ips = cluster_ips(service);
        if cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        let name = name_of(service);
        let of_service: &[&EndpointSlice] = slices.get(&name).map_or(&[], |list| list);
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let port_name = port.name.clone().unwrap_or_default();
                let protocol = protocol(port.protocol.as_deref())?;
                Some(ServicePort {
                    endpoints: endpoints(of_service, &port_name, protocol, own),
                    name: port_name,
                    protocol,
                    port: number(port.port)?,
                    node_port: port.node_port.and_then(number),
                })
            })
            .collect();
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
            Duration::from_secs(u64::from(seconds.unsigned_abs()))
        });
        table.services.push(proxy::Service {
            namespace: name.0,
            name: name.1,
            cluster_ips,
            external_ips: addresses(spec.external_ips.as_ref()),
            load_balancer_ips: load_balancer_ips(service),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|text| text.trim().parse().ok())
                .collect(),
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            ports,
        });
    }
    table.services.sort();
    table
}

fn endpoints(slices: &[&EndpointSlice], port_name: &str, wanted: Protocol, own: &str) -> Vec<Endpoint> {
    let mut found: BTreeMap<(Ipv4Addr, u16), Endpoint> = BTreeMap::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && protocol(port.protocol.as_deref()) == Some(wanted)
        });
        let Some(port) = port.and_then(|port| port.port).and_then(number) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                let one = Endpoint {
                    address,
                    port,
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating.unwrap_or(false),
                    local: endpoint.node_name.as_deref() == Some(own),
                };
                // While an endpoint moves between slices it may be in two: the ready one counts.
                let known = found.entry((address, port)).or_insert(one);
                if one.ready && !known.ready {
                    *known = one;
                }
            }
        }
    }
    found.into_values().collect()
}

/// Returns what cluster DNS is to answer.
pub(crate) fn zone(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    namespaces: &[Arc<Namespace>],
    domain: &str,
    dns_address: Ipv4Addr,
) -> Zone {
    let slices = slices_by_service(slices);
    let mut zone = Zone {
        domain: domain.trim_end_matches('.').to_owned(),
        dns_address: Some(dns_address),
        namespaces: namespaces.iter().filter_map(|one| one.metadata.name.clone()).collect(),
        ..Zone::default()
    };
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let name = name_of(service);
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            ZoneServiceKind::ExternalName(spec.external_name.clone().unwrap_or_default())
        } else if spec.cluster_ip.as_deref() == Some("None") {
            let all = spec.publish_not_ready_addresses == Some(true);
            let of_service: &[&EndpointSlice] = slices.get(&name).map_or(&[], |list| list);
            ZoneServiceKind::Headless { endpoints: headless(of_service, all) }
        } else {
            let addresses = cluster_ips(service);
            if addresses.is_empty() {
                continue;
            }
            let ports = spec
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    Some(ZonePort {
                        name: port.name.clone().unwrap_or_default(),
                        protocol: protocol(port.protocol.as_deref())?,
                        port: number(port.port)?,
                    })
                })
                .collect();
            ZoneServiceKind::ClusterIp { addresses, ports }
        };
        zone.services.insert(name, ZoneService { kind });
    }
    zone
}

fn headless(slices: &[&EndpointSlice], all: bool) -> Vec<HeadlessEndpoint> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let ports: Vec<ZonePort> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(ZonePort {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol(port.protocol.as_deref())?,
                    port: number(port.port?)?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if !ready && !all {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                found.insert(HeadlessEndpoint {
                    address,
                    hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
                    ports: ports.clone(),
                });
            }
        }
    }
    found.into_iter().collect()
}

/// Returns the load-balancer addresses that the node `own` answers for: each address has one node, chosen by
/// rendezvous hashing, so that a node that comes or goes moves only its own share.
pub(crate) fn claims(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    nodes: &[Arc<Node>],
    own: &str,
) -> BTreeSet<Ipv4Addr> {
    let ready: BTreeSet<&str> =
        nodes.iter().filter(|node| answers(node)).filter_map(|node| node.metadata.name.as_deref()).collect();
    let by_service = slices_by_service(slices);
    let mut claims = BTreeSet::new();
    for service in services {
        let local =
            service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local");
        let candidates: BTreeSet<&str> = if local {
            by_service
                .get(&name_of(service))
                .into_iter()
                .flatten()
                .flat_map(|slice| slice.endpoints.iter().flatten())
                .filter(|one| one.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true))
                .filter_map(|one| one.node_name.as_deref())
                .filter(|node| ready.contains(node))
                .collect()
        } else {
            ready.clone()
        };
        for address in load_balancer_ips(service) {
            let winner = candidates.iter().max_by_key(|node| (score(node, address), **node));
            if winner == Some(&own) {
                claims.insert(address);
            }
        }
    }
    claims
}

fn answers(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let ready = node.status.as_ref().is_some_and(|status| {
        status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
    });
    ready && !excluded
}

fn score(node: &str, address: Ipv4Addr) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update([0]);
    hash.update(address.octets());
    let digest = hash.finalize();
    let mut out = [0; 8];
    out.copy_from_slice(&digest[..8]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn slice(endpoints: serde_json::Value) -> Arc<EndpointSlice> {
        object(serde_json::json!({
            "metadata": {"name": "s-1", "namespace": "ns", "labels": {SERVICE_NAME: "s"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}]
        }))
    }

    #[test]
    fn a_service_is_joined_with_its_endpoints_by_port_name() {
        let service: Arc<Service> = object(serde_json::json!({
            "metadata": {"name": "s", "namespace": "ns"},
            "spec": {"clusterIP": "10.3.0.7", "sessionAffinity": "ClientIP",
                "ports": [{"name": "web", "port": 80, "nodePort": 30080}, {"name": "other", "port": 81}]}
        }));
        let slice = slice(serde_json::json!([
            {"addresses": ["10.2.0.2"], "nodeName": "me"},
            {"addresses": ["10.2.1.2"], "nodeName": "you", "conditions": {"ready": false, "serving": true, "terminating": true}}
        ]));
        let table = services(&[service], &[slice], "me");
        let one = &table.services[0];
        assert_eq!(one.affinity, Some(Duration::from_secs(10800)));
        assert_eq!(one.ports[0].node_port, Some(30080));
        let found: Vec<_> = one.ports[0]
            .endpoints
            .iter()
            .map(|e| (e.port, e.ready, e.serving, e.terminating, e.local))
            .collect();
        assert_eq!(found, [(8080, true, true, false, true), (8080, false, true, true, false)]);
        assert!(one.ports[1].endpoints.is_empty());
    }

    #[test]
    fn headless_services_publish_ready_endpoints_only() {
        let service: Arc<Service> = object(serde_json::json!({
            "metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIP": "None"}}));
        let slice = slice(serde_json::json!([
            {"addresses": ["10.2.0.2"], "hostname": "h"},
            {"addresses": ["10.2.0.3"], "conditions": {"ready": false}}
        ]));
        let zone = zone(&[service], &[slice], &[], "cluster.local.", "10.3.0.10".parse().unwrap());
        let ZoneServiceKind::Headless { endpoints } = &zone.services[&("ns".into(), "s".into())].kind else {
            panic!("it is headless")
        };
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].hostname.as_deref(), Some("h"));
        assert_eq!(zone.domain, "cluster.local");
    }

    #[test]
    fn every_address_is_claimed_by_exactly_one_ready_node() {
        let node = |name: &str, ready: &str| -> Arc<Node> {
            object(serde_json::json!({"metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        };
        let nodes = [node("a", "True"), node("b", "True"), node("c", "False")];
        let service: Arc<Service> = object(serde_json::json!({
            "metadata": {"name": "s", "namespace": "ns"}, "spec": {},
            "status": {"loadBalancer": {"ingress": (10..40).map(|n| serde_json::json!({"ip": format!("172.17.4.{n}")})).collect::<Vec<_>>()}}
        }));
        let of = |name: &str| claims(std::slice::from_ref(&service), &[], &nodes, name);
        let (a, b) = (of("a"), of("b"));
        assert_eq!(a.len() + b.len(), 30);
        assert!(a.is_disjoint(&b) && !a.is_empty() && !b.is_empty());
        assert!(of("c").is_empty());
    }
}
