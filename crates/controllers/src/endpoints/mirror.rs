//! Slices of services that select nothing: a mirror of the Endpoints that someone wrote for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, Key};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::DeleteParams;

use super::model::Port;
use super::selected::{BY_SERVICE, apply, frame_of, index_slices};
use super::slices::{self, MANAGED_BY, SERVICE, Wanted};
use crate::claim::labels;
use crate::frame::{self, Context, Next, Result, Written, absent_is_fine, is_deleting, name, namespace};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct Controller {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    written: Written<Key>,
}

pub(super) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        services: context.informers.of(),
        endpoints: context.informers.of(),
        slices: context.informers.of(),
        written: Written::default(),
    });
    index_slices(&controller.slices);
    let queue = context.queue();
    frame::enqueue(&controller.services, &queue);
    frame::enqueue(&controller.endpoints, &queue);
    let slices_queue = queue.clone();
    controller.slices.observe(move |delta| {
        let slice = delta.object();
        if is_mirror(slice)
            && let Some(service) = labels(&**slice).get(SERVICE)
        {
            slices_queue.add(Key::new(namespace(&**slice), service));
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.services.wait_synced().await;
            controller.endpoints.wait_synced().await;
            controller.slices.wait_synced().await;
        }
    };
    context.work("endpoint slice mirror", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn is_mirror(slice: &EndpointSlice) -> bool {
    labels(slice).get(MANAGED_BY).is_some_and(|by| by == CONTROLLER)
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let leads = endpoints.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(LEADER));
    let skipped = labels(endpoints).get(SKIP).is_some_and(|value| value == "true");
    !leads && !skipped && !is_deleting(endpoints)
}

fn selects_nothing(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty) && !is_deleting(service)
}

/// Returns the slices that say the same as `endpoints`.
fn wanted(endpoints: &Endpoints) -> Wanted {
    let mut wanted = Wanted::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<Port> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or("TCP".into()),
                port: port.port,
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let mut add = |address: &EndpointAddress, ready: bool| {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            wanted.entry((family.to_owned(), ports.clone())).or_default().push(Endpoint {
                addresses: vec![address.ip.clone()],
                conditions: Some(slices::conditions(ready, ready, false)),
                hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
                node_name: address.node_name.clone(),
                target_ref: address.target_ref.clone(),
                ..Endpoint::default()
            });
        };
        subset.addresses.iter().flatten().for_each(|address| add(address, true));
        subset.not_ready_addresses.iter().flatten().for_each(|address| add(address, false));
    }
    wanted
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let existing: Vec<_> = self
            .slices
            .by_index(BY_SERVICE, &key.to_string())
            .into_iter()
            .filter(|slice| is_mirror(slice))
            .collect();
        let service = self.services.get(key).filter(|service| selects_nothing(service));
        let endpoints = self.endpoints.get(key).filter(|endpoints| is_mirrored(endpoints));
        let (Some(service), Some(endpoints)) = (service, endpoints) else {
            self.written.forget(key);
            let api = self.context.api::<EndpointSlice>(&key.namespace);
            for slice in existing {
                absent_is_fine(api.delete(name(&*slice), &DeleteParams::default()).await)?;
            }
            return Ok(Next::Done);
        };
        if !self.written.is_shown(key, self.slices.version()) {
            return Ok(Next::After(Written::<Key>::CATCH_UP));
        }
        let frame = frame_of(&service, CONTROLLER);
        let changes = slices::plan(&frame, &existing, wanted(&endpoints), None);
        apply(&self.context, key, changes, &self.written).await?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hand_made_endpoints_become_slices_with_the_same_readiness() {
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets": [{
            "addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"port": 5432}]}]}))
        .unwrap();
        let wanted = wanted(&endpoints);
        let ((family, ports), found) = wanted.first_key_value().unwrap();
        assert_eq!((family.as_str(), ports[0].port), ("IPv4", 5432));
        let ready: Vec<_> = found.iter().map(|one| one.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
    }
}
