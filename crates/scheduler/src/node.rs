//! A node with the sums over its pods, kept current pod by pod.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, PodInfo, Resources};

/// A node and what runs there.
#[derive(Debug, Default)]
pub(crate) struct NodeInfo {
    /// Unknown while only its pods have been seen.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) allowed_pods: i64,
    /// The bytes of each image that the node has.
    pub(crate) images: HashMap<String, i64>,
    /// By uid.
    pub(crate) pods: BTreeMap<String, Arc<PodInfo>>,
    pub(crate) requested: Resources,
    /// CPU and memory that its pods count for.
    pub(crate) weight: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    /// How many pods of each controller are there.
    pub(crate) by_owner: HashMap<String, i64>,
    /// How many of its pods have required anti-affinity, so that most nodes need no look.
    pub(crate) with_anti_affinity: usize,
    /// How many of its pods have any pod affinity.
    pub(crate) with_affinity: usize,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl NodeInfo {
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        self.allocatable = allocatable.map(Resources::of).unwrap_or_default();
        self.allowed_pods = allocatable.and_then(|list| list.get("pods")).map_or(0, crate::quantity::units);
        self.images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = Some(node);
    }

    pub(crate) fn name(&self) -> &str {
        self.node.as_ref().and_then(|node| node.metadata.name.as_deref()).unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        self.node.as_ref().and_then(|node| node.metadata.labels.as_ref()).unwrap_or(&NO_LABELS)
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        self.node
            .as_ref()
            .and_then(|node| node.spec.as_ref())
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default()
    }

    pub(crate) fn is_unschedulable(&self) -> bool {
        self.node
            .as_ref()
            .and_then(|node| node.spec.as_ref())
            .is_some_and(|spec| spec.unschedulable == Some(true))
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.uid.clone());
        self.requested.add(&pod.requests);
        self.weight.0 = self.weight.0.saturating_add(pod.weight.0);
        self.weight.1 = self.weight.1.saturating_add(pod.weight.1);
        self.ports.extend(pod.ports.iter().cloned());
        if let Some(owner) = &pod.owner {
            *self.by_owner.entry(owner.clone()).or_insert(0) += 1;
        }
        self.with_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        self.with_affinity += usize::from(has_affinity(&pod));
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.requested.subtract(&pod.requests);
        self.weight.0 = self.weight.0.saturating_sub(pod.weight.0);
        self.weight.1 = self.weight.1.saturating_sub(pod.weight.1);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|used| used == port) {
                self.ports.swap_remove(at);
            }
        }
        if let Some(owner) = &pod.owner
            && let Some(count) = self.by_owner.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(owner);
            }
        }
        self.with_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        self.with_affinity -= usize::from(has_affinity(&pod));
    }
}

fn has_affinity(pod: &PodInfo) -> bool {
    !pod.required_affinity.is_empty() || !pod.preferred_affinity.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn what_a_pod_adds_its_removal_takes_away() {
        let mut node = NodeInfo::default();
        let pod = Arc::new(testing::pod(serde_json::json!({"containers": [{
            "name": "a",
            "resources": {"requests": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"}},
            "ports": [{"containerPort": 80, "hostPort": 8080}],
        }]})));
        node.add(pod.clone());
        node.add(pod.clone());
        assert_eq!(node.requested.milli_cpu, 1000);
        assert_eq!(node.ports.len(), 1);
        node.remove(&pod.uid);
        assert_eq!((node.requested.milli_cpu, node.weight, node.ports.len()), (0, (0, 0), 0));
    }
}
