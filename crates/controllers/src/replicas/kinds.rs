//! What the engine needs of a replication controller or a replica set.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use kube::Resource;
use kube::core::Selector;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::claim;

/// A kind that keeps a number of pods.
pub(crate) trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The name that its events come from.
    const COMPONENT: &'static str;
    /// Whether its status counts pods that are on their way out.
    const COUNTS_TERMINATING: bool;

    fn selector(&self) -> Option<Selector>;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The status as JSON.
    fn status(&self) -> Value;
}

fn to_value<S: serde::Serialize>(status: Option<&S>) -> Value {
    status.and_then(|status| serde_json::to_value(status).ok()).unwrap_or(Value::Null)
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn selector(&self) -> Option<Selector> {
        let map = self.spec.as_ref()?.selector.clone()?;
        (!map.is_empty()).then(|| map.into_iter().collect())
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Value {
        to_value(self.status.as_ref())
    }
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn selector(&self) -> Option<Selector> {
        claim::selector(self.spec.as_ref().map(|spec| &spec.selector))
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Value {
        to_value(self.status.as_ref())
    }
}
