//! The newer form: slices of at most a hundred endpoints, changed as little as possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::model::Port;

const MOST: usize = 100;
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The slices that a service has to have: address type and ports to endpoints.
pub(crate) type Wanted = BTreeMap<(String, Vec<Port>), Vec<Endpoint>>;

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    /// Names.
    pub(crate) delete: Vec<String>,
}

/// What all slices of a service share.
pub(crate) struct Frame {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owner: OwnerReference,
}

pub(crate) fn conditions(ready: bool, serving: bool, terminating: bool) -> EndpointConditions {
    EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }
}

fn ports(ports: &[Port]) -> Vec<EndpointPort> {
    ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

/// An endpoint stays the same one as long as address and pod do.
fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), pod)
}

/// Compares what is there with what is wanted. `placeholder` asks for an empty slice where nothing is wanted,
/// so that readers can tell "no endpoints" from "not looked at yet".
pub(crate) fn plan(
    frame: &Frame,
    existing: &[Arc<EndpointSlice>],
    mut wanted: Wanted,
    placeholder: Option<&str>,
) -> Changes {
    let mut changes = Changes::default();
    if wanted.values().all(Vec::is_empty) {
        wanted.clear();
        if let Some(address_type) = placeholder {
            wanted.insert((address_type.to_owned(), Vec::new()), Vec::new());
        }
    }
    let mut leftovers: Vec<&Arc<EndpointSlice>> = Vec::new();
    let shapes: Vec<_> = wanted.keys().map(|(kind, own)| (kind.clone(), ports(own))).collect();
    let mut alike: Vec<Vec<&Arc<EndpointSlice>>> = vec![Vec::new(); shapes.len()];
    for slice in existing {
        let shape = (slice.address_type.clone(), slice.ports.clone().unwrap_or_default());
        let is_ending = slice.metadata.deletion_timestamp.is_some();
        match shapes.iter().position(|wanted| *wanted == shape) {
            Some(at) if !is_ending => alike[at].push(slice),
            _ if is_ending => {}
            _ => leftovers.push(slice),
        }
    }
    for (((address_type, own_ports), endpoints), alike) in wanted.into_iter().zip(alike) {
        let mut missing: Vec<Endpoint> = endpoints;
        missing.sort_by_key(identity);
        let mut slices: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for slice in alike {
            let mut stay = Vec::new();
            for known in slice.endpoints.iter().flatten() {
                let known = identity(known);
                if let Ok(at) = missing.binary_search_by_key(&known, identity) {
                    stay.push(missing.remove(at));
                }
            }
            slices.push((slice, stay));
        }
        let wants_placeholder = missing.is_empty() && slices.iter().all(|(_, stay)| stay.is_empty());
        let mut placed_placeholder = false;
        for (slice, mut stay) in slices {
            let room = MOST.saturating_sub(stay.len()).min(missing.len());
            stay.extend(missing.drain(..room));
            if stay.is_empty() && (!wants_placeholder || placed_placeholder) {
                changes.delete.extend(slice.metadata.name.clone());
                continue;
            }
            placed_placeholder |= stay.is_empty();
            let mut new = (**slice).clone();
            let endpoints = (!stay.is_empty()).then_some(stay);
            let same = new.endpoints.clone().filter(|known| !known.is_empty()) == endpoints
                && new.metadata.labels.as_ref() == Some(&frame.labels);
            if !same {
                new.endpoints = endpoints;
                new.metadata.labels = Some(frame.labels.clone());
                changes.update.push(new);
            }
        }
        let mut rest = missing.into_iter().peekable();
        while rest.peek().is_some() || (wants_placeholder && !placed_placeholder) {
            placed_placeholder = true;
            let endpoints: Vec<_> = rest.by_ref().take(MOST).collect();
            changes.create.push(new_slice(frame, &address_type, &own_ports, endpoints));
        }
    }
    changes.delete.extend(leftovers.into_iter().filter_map(|slice| slice.metadata.name.clone()));
    changes
}

fn new_slice(
    frame: &Frame,
    address_type: &str,
    own_ports: &[Port],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        address_type: address_type.to_owned(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", frame.service)),
            namespace: Some(frame.namespace.clone()),
            labels: Some(frame.labels.clone()),
            owner_references: Some(vec![frame.owner.clone()]),
            ..ObjectMeta::default()
        },
        ports: (!own_ports.is_empty()).then(|| ports(own_ports)),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            service: "web".into(),
            namespace: "default".into(),
            labels: BTreeMap::from([(SERVICE.to_owned(), "web".to_owned())]),
            owner: OwnerReference::default(),
        }
    }

    fn endpoint(address: &str, ready: bool) -> Endpoint {
        Endpoint {
            addresses: vec![address.into()],
            conditions: Some(conditions(ready, ready, false)),
            ..Endpoint::default()
        }
    }

    fn port() -> Vec<Port> {
        vec![Port { name: String::new(), protocol: "TCP".into(), port: 80, app_protocol: None }]
    }

    fn wanted(endpoints: Vec<Endpoint>) -> Wanted {
        Wanted::from([(("IPv4".to_owned(), port()), endpoints)])
    }

    fn named(mut slice: EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        slice.metadata.name = Some(name.into());
        Arc::new(slice)
    }

    #[test]
    fn a_service_without_endpoints_has_an_empty_slice_that_makes_room_for_the_first() {
        let changes = plan(&frame(), &[], Wanted::new(), Some("IPv4"));
        assert_eq!(changes.create.len(), 1);
        let placeholder = named(changes.create[0].clone(), "web-1");
        let again = plan(&frame(), std::slice::from_ref(&placeholder), Wanted::new(), Some("IPv4"));
        assert_eq!(again, Changes::default());
        let changes = plan(&frame(), &[placeholder], wanted(vec![endpoint("10.2.0.1", true)]), Some("IPv4"));
        assert_eq!((changes.create.len(), changes.delete.len()), (1, 1));
    }

    #[test]
    fn only_the_slice_that_holds_a_changed_endpoint_is_written() {
        let all: Vec<_> = (0..150).map(|number| endpoint(&format!("10.2.0.{number}"), true)).collect();
        let changes = plan(&frame(), &[], wanted(all.clone()), Some("IPv4"));
        assert_eq!(changes.create.len(), 2);
        let existing: Vec<_> = changes
            .create
            .into_iter()
            .enumerate()
            .map(|(at, slice)| named(slice, &format!("web-{at}")))
            .collect();
        assert_eq!(plan(&frame(), &existing, wanted(all.clone()), Some("IPv4")), Changes::default());
        let mut changed = all;
        changed[0] = endpoint("10.2.0.0", false);
        changed.push(endpoint("10.2.0.200", true));
        let changes = plan(&frame(), &existing, wanted(changed), Some("IPv4"));
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 2, 0));
        let changes = plan(&frame(), &existing, Wanted::new(), Some("IPv4"));
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (1, 0, 2));
    }
}
