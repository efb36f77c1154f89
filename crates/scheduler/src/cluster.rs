//! The scheduler's picture of the cluster: nodes with their pods, those it has only decided about included.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};

use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// The picture. Owned by the scheduling task alone.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    /// Where each pod is, by uid.
    placed: HashMap<String, Place>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// What each service selects, by namespace and name.
    services: BTreeMap<(String, String), BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Place {
    node: String,
    /// Only decided: the API server has not shown it yet.
    assumed: bool,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl Cluster {
    /// The nodes that exist, in the order of their names.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|info| info.node.is_some())
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|info| info.node.is_some())
    }

    /// For trying what a node would say without some of its pods; the caller puts them back.
    pub(crate) fn node_mut(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.nodes.get_mut(name)
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.nodes.entry(name).or_default().set_node(node);
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
        }
        self.sweep(name);
    }

    /// Places a pod that the API server shows on `node`.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, false);
    }

    /// Places a pod on `node` ahead of the API server.
    pub(crate) fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, true);
    }

    /// Takes back an assumption that did not come true.
    pub(crate) fn unassume(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|place| place.assumed) {
            self.remove_pod(uid);
        }
    }

    /// Tells whether the pod is on a node, or about to be.
    pub(crate) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(place) = self.placed.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&place.node) {
            info.remove(uid);
        }
        self.sweep(&place.node);
        true
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        if self.placed.get(&pod.uid).is_some_and(|place| place.node != node) {
            self.remove_pod(&pod.uid);
        }
        self.placed.insert(pod.uid.clone(), Place { node: node.to_owned(), assumed });
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    fn sweep(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }

    pub(crate) fn set_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        self.namespaces.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
    }

    pub(crate) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub(crate) fn namespace_labels(&self, name: &str) -> &BTreeMap<String, String> {
        self.namespaces.get(name).unwrap_or(&NO_LABELS)
    }

    pub(crate) fn set_service(&mut self, service: &Service) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        self.services.insert(service_key(service), selector);
    }

    pub(crate) fn remove_service(&mut self, service: &Service) {
        self.services.remove(&service_key(service));
    }

    /// The selectors of the services that `pod` belongs to.
    pub(crate) fn selectors_of(&self, pod: &PodInfo) -> Vec<&BTreeMap<String, String>> {
        let namespace = &*pod.key.namespace;
        let labels = pod.labels();
        self.services
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((of, _), _)| of == namespace)
            .map(|(_, selector)| selector)
            .filter(|selector| {
                !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            })
            .collect()
    }
}

fn service_key(service: &Service) -> (String, String) {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
