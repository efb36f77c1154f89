//! Endpoints and slices of services that select pods.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Delta, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};

use super::legacy;
use super::model::{self, Backend, backend, is_headless};
use super::slices::{self, Frame, MANAGED_BY, SERVICE, Wanted};
use crate::claim::labels;
use crate::frame::{
    self, Context, Next, Result, Written, absent_is_fine, code, controlled_by, is_deleting, name, namespace,
    uid,
};

const WORKERS: usize = 4;
pub(crate) const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The index of slices by the service that they are of.
pub(crate) const BY_SERVICE: &str = "service";

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    written: Written<Key>,
}

pub(crate) fn index_slices(slices: &Informer<EndpointSlice>) {
    slices.add_index(BY_SERVICE, |slice| {
        let service = labels(slice).get(SERVICE);
        service.map(|service| format!("{}/{service}", namespace(slice))).into_iter().collect()
    });
}

pub(super) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        services: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        endpoints: context.informers.of(),
        slices: context.informers.of(),
        written: Written::default(),
    });
    index_slices(&controller.slices);
    let queue = context.queue();
    frame::enqueue(&controller.services, &queue);
    watch_pods(&controller.services, &controller.pods, &queue);
    // Someone else's change of what is kept here is put right.
    frame::enqueue(&controller.endpoints, &queue);
    let slices_queue = queue.clone();
    controller.slices.observe(move |delta| {
        let slice = delta.object();
        if let Some(service) = labels(&**slice).get(SERVICE) {
            slices_queue.add(Key::new(namespace(&**slice), service));
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.services.wait_synced().await;
            controller.pods.wait_synced().await;
            controller.nodes.wait_synced().await;
            controller.endpoints.wait_synced().await;
            controller.slices.wait_synced().await;
        }
    };
    context.work("endpoints controller", WORKERS, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    let has = labels(pod);
    !selector.is_empty() && selector.iter().all(|(key, value)| has.get(key) == Some(value))
}

fn watch_pods(services: &Informer<Service>, pods: &Informer<Pod>, queue: &WorkQueue<Key>) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.observe(move |delta: &Delta<Pod>| {
        let pod = delta.object();
        if delta.old().is_some_and(|old| !model::matters(old, pod)) {
            return;
        }
        for service in services.in_namespace(namespace(&**pod)) {
            if selects(&service, pod) || delta.old().is_some_and(|old| selects(&service, old)) {
                queue.add(Key::of(&*service));
            }
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(service) = self.services.get(key) else { return self.clean_up(key).await };
        let spec = service.spec.clone().unwrap_or_default();
        if is_deleting(&*service)
            || spec.type_.as_deref() == Some("ExternalName")
            || spec.selector.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
        {
            return Ok(Next::Done);
        }
        let backends: Vec<Backend> = self
            .pods
            .in_namespace(&key.namespace)
            .iter()
            .filter(|pod| selects(&service, pod))
            .filter_map(|pod| backend(&service, pod))
            .collect();
        self.write_endpoints(key, &service, &backends).await?;
        if !self.written.is_shown(key, self.slices.version()) {
            return Ok(Next::After(Written::<Key>::CATCH_UP));
        }
        self.write_slices(key, &service, &backends).await?;
        Ok(Next::Done)
    }

    async fn clean_up(&self, key: &Key) -> Result<Next> {
        self.written.forget(key);
        let made_here = |labels: &std::collections::BTreeMap<String, String>, label: &str, value: &str| {
            labels.get(label).is_some_and(|found| found == value)
        };
        if let Some(endpoints) = self.endpoints.get(key)
            && made_here(labels(&*endpoints), legacy::MANAGED_BY, "endpoint-controller")
        {
            let api = self.context.api::<Endpoints>(&key.namespace);
            absent_is_fine(api.delete(&key.name, &only(uid(&*endpoints))).await)?;
        }
        let api = self.context.api::<EndpointSlice>(&key.namespace);
        for slice in self.slices.by_index(BY_SERVICE, &key.to_string()) {
            if made_here(labels(&*slice), MANAGED_BY, CONTROLLER) {
                absent_is_fine(api.delete(name(&*slice), &only(uid(&*slice))).await)?;
            }
        }
        Ok(Next::Done)
    }

    async fn write_endpoints(&self, key: &Key, service: &Service, backends: &[Backend]) -> Result<()> {
        let subsets = legacy::subsets(service, backends);
        let subsets = (!subsets.is_empty()).then_some(subsets);
        let labels = legacy::labels(service);
        let current = self.endpoints.get(key);
        if let Some(current) = &current
            && current.metadata.labels.as_ref() == Some(&labels)
            && current.subsets.clone().filter(|subsets| !subsets.is_empty()) == subsets
        {
            return Ok(());
        }
        let api = self.context.api::<Endpoints>(&key.namespace);
        let mut metadata = current.as_ref().map_or_else(
            || ObjectMeta {
                name: Some(key.name.to_string()),
                namespace: Some(key.namespace.to_string()),
                ..ObjectMeta::default()
            },
            |current| current.metadata.clone(),
        );
        metadata.labels = Some(labels);
        metadata.annotations.get_or_insert_default().insert(TRIGGER.into(), self.context.now().0.to_string());
        let new = Endpoints { metadata, subsets };
        match current {
            None => match api.create(&PostParams::default(), &new).await {
                Ok(_) => Ok(()),
                // A namespace on its way out takes nothing new.
                Err(error) if matches!(code(&error), 403 | 404) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Some(_) => Ok(api.replace(&key.name, &PostParams::default(), &new).await.map(|_| ())?),
        }
    }

    async fn write_slices(&self, key: &Key, service: &Service, backends: &[Backend]) -> Result<()> {
        let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
        let families = if families.is_empty() { vec!["IPv4".to_owned()] } else { families };
        let mut wanted = Wanted::new();
        for backend in backends {
            for family in &families {
                let address = backend.addresses.iter().find(|address| match address {
                    IpAddr::V4(_) => family == "IPv4",
                    IpAddr::V6(_) => family == "IPv6",
                });
                if let Some(address) = address {
                    wanted
                        .entry((family.clone(), backend.ports.clone()))
                        .or_default()
                        .push(self.endpoint(backend, *address));
                }
            }
        }
        let existing: Vec<_> = self
            .slices
            .by_index(BY_SERVICE, &key.to_string())
            .into_iter()
            .filter(|slice| labels(&**slice).get(MANAGED_BY).is_some_and(|by| by == CONTROLLER))
            .collect();
        let frame = frame_of(service, CONTROLLER);
        let changes = slices::plan(&frame, &existing, wanted, families.first().map(String::as_str));
        apply(&self.context, key, changes, &self.written).await
    }

    fn endpoint(&self, backend: &Backend, address: IpAddr) -> Endpoint {
        let zone = backend
            .node
            .as_deref()
            .and_then(|node| self.nodes.find("", node))
            .and_then(|node| labels(&*node).get(ZONE).cloned());
        Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(slices::conditions(backend.ready, backend.serving, backend.terminating)),
            hostname: backend.hostname.clone(),
            node_name: backend.node.clone(),
            target_ref: Some(backend.pod.clone()),
            zone,
            ..Endpoint::default()
        }
    }
}

fn only(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// What the slices of `service` share when `manager` makes them.
pub(super) fn frame_of(service: &Service, manager: &str) -> Frame {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(legacy::HEADLESS);
    if is_headless(service) {
        labels.insert(legacy::HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE.into(), name(service).to_owned());
    labels.insert(MANAGED_BY.into(), manager.to_owned());
    Frame {
        service: name(service).to_owned(),
        namespace: namespace(service).to_owned(),
        labels,
        owner: controlled_by(service),
    }
}

/// Writes the changes of the slices of the service at `key`.
pub(super) async fn apply(
    context: &Context,
    key: &Key,
    changes: slices::Changes,
    written: &Written<Key>,
) -> Result<()> {
    let api = context.api::<EndpointSlice>(&key.namespace);
    for slice in changes.create {
        match api.create(&PostParams::default(), &slice).await {
            Ok(made) => written.note(key, &made),
            Err(error) if matches!(code(&error), 403 | 404) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    for slice in changes.update {
        let made = api.replace(name(&slice), &PostParams::default(), &slice).await?;
        written.note(key, &made);
    }
    for slice in changes.delete {
        absent_is_fine(api.delete(&slice, &DeleteParams::default()).await)?;
    }
    Ok(())
}
