//! Small clusters for the tests of this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::NodeInfo;
use crate::pod::PodInfo;

static COUNT: AtomicU64 = AtomicU64::new(0);

fn pod_with(metadata: Value, mut spec: Value) -> PodInfo {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut metadata = metadata;
    metadata["name"] = json!(format!("pod-{number}"));
    metadata["namespace"] = json!("default");
    metadata["uid"] = json!(format!("uid-{number}"));
    if spec.get("containers").is_none() {
        spec["containers"] = json!([]);
    }
    let value = json!({"metadata": metadata, "spec": spec});
    PodInfo::new(Arc::new(serde_json::from_value(value).unwrap()))
}

pub(crate) fn pod(spec: Value) -> PodInfo {
    pod_with(json!({}), spec)
}

pub(crate) fn labelled_pod(key: &str, value: &str, spec: Value) -> PodInfo {
    pod_with(json!({"labels": {key: value}}), spec)
}

pub(crate) fn owned_pod(owner: &str, spec: Value) -> PodInfo {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true});
    pod_with(json!({"ownerReferences": [owner]}), spec)
}

/// A node with 4 CPUs, 8 GiB and room for 110 pods.
pub(crate) fn roomy() -> Value {
    json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}})
}

fn api_node(name: &str, value: &Value) -> Arc<k8s_openapi::api::core::v1::Node> {
    let mut object = json!({"metadata": {"name": name, "labels": value["labels"]}});
    for part in ["spec", "status"] {
        if let Some(part_value) = value.get(part) {
            object[part] = part_value.clone();
        }
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

pub(crate) fn node(name: &str, value: Value) -> NodeInfo {
    let mut info = NodeInfo::default();
    info.set_node(api_node(name, &value));
    info
}

pub(crate) fn cluster<N: Into<String>>(nodes: impl IntoIterator<Item = (N, Value)>) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, value) in nodes {
        cluster.set_node(api_node(&name.into(), &value));
    }
    cluster
}
