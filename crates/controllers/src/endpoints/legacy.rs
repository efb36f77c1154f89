//! The older form: one Endpoints object for a service.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Service};

use super::model::{Backend, Port, is_headless, publishes_all};

/// How many addresses an Endpoints object may hold.
const MOST: usize = 1000;
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

/// Groups the backends by their ports. A pod that ends is left out unless the service publishes all.
pub(crate) fn subsets(service: &Service, backends: &[Backend]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<Vec<Port>, Vec<&Backend>> = BTreeMap::new();
    let has_ports =
        service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_some_and(|ports| !ports.is_empty());
    for backend in backends {
        if backend.terminating && !publishes_all(service) {
            continue;
        }
        if backend.ports.is_empty() && (has_ports || !is_headless(service)) {
            continue;
        }
        let mut ports = backend.ports.clone();
        ports.sort();
        groups.entry(ports).or_default().push(backend);
    }
    let mut room = MOST;
    groups
        .into_iter()
        .map(|(ports, mut backends)| {
            backends.sort_by_key(|backend| backend.addresses.first().copied());
            // Ready addresses are kept first when there are too many.
            let mut take = |ready: bool| {
                let found: Vec<_> = backends
                    .iter()
                    .filter(|backend| backend.ready == ready)
                    .take(room)
                    .filter_map(|backend| address(backend))
                    .collect();
                room -= found.len();
                (!found.is_empty()).then_some(found)
            };
            EndpointSubset {
                addresses: take(true),
                not_ready_addresses: take(false),
                ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
            }
        })
        .collect()
}

fn address(backend: &Backend) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: backend.addresses.first()?.to_string(),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(backend.pod.clone()),
    })
}

/// The labels of the Endpoints object: the service's, and what marks it as made here.
pub(crate) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::backend;
    use super::super::model::tests::{pod, service};
    use super::*;

    #[test]
    fn ready_and_unready_pods_stand_apart_and_ending_ones_are_left_out() {
        let service = service(json!({"ports": [{"port": 8000, "targetPort": 80}]}));
        let pods = [
            pod("b", "10.2.75.10", true, false),
            pod("a", "10.2.75.9", true, false),
            pod("c", "10.2.75.11", false, false),
            pod("d", "10.2.75.12", true, true),
        ];
        let backends: Vec<_> = pods.iter().filter_map(|pod| backend(&service, pod)).collect();
        let subsets = subsets(&service, &backends);
        assert_eq!(subsets.len(), 1);
        let ips = |addresses: &Option<Vec<EndpointAddress>>| {
            addresses.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&subsets[0].addresses), ["10.2.75.9", "10.2.75.10"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.2.75.11"]);
        assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 80);
    }
}
