//! What the parts of the agent share: made once by `run`, read by all.

use std::path::PathBuf;
use std::sync::Arc;

use client::{EventType, Informer, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use kube::Resource;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use runtime::Runtime;

use crate::config::Config;
use crate::node::Machine;
use crate::objects::Objects;
use crate::pods::{Images, Pods};

/// The agent's shared parts.
pub(crate) struct Agent {
    /// What the provisioner said.
    pub(crate) config: Config,
    /// The API.
    pub(crate) client: kube::Client,
    /// The containers.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The time.
    pub(crate) clock: SharedClock,
    /// Chance.
    pub(crate) random: Random,
    /// Everything that runs.
    pub(crate) tasks: Tasks,
    /// Events.
    pub(crate) recorder: Recorder,
    /// Every service of the cluster.
    pub(crate) services: Informer<Service>,
    /// Config maps and secrets.
    pub(crate) objects: Objects,
    /// What this node is and has.
    pub(crate) machine: Machine,
    /// Pulls of images.
    pub(crate) images: Images,
    /// The pods of this node.
    pub(crate) pods: Pods,
}

impl Agent {
    /// Returns the directory of a pod's volumes and files.
    pub(crate) fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.data_directory.join("pods").join(uid)
    }

    /// Records something that happened to a pod.
    pub(crate) fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(pod, kind, reason, message);
    }

    /// Records something that happened to a container of a pod.
    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let spec = pod.spec.as_ref();
        let of = |list: Option<&Vec<k8s_openapi::api::core::v1::Container>>| {
            list.into_iter().flatten().any(|one| one.name == container)
        };
        let list = if of(spec.map(|spec| &spec.containers)) {
            "containers"
        } else if of(spec.and_then(|spec| spec.init_containers.as_ref())) {
            "initContainers"
        } else {
            "ephemeralContainers"
        };
        let about = ObjectReference {
            field_path: Some(format!("spec.{list}{{{container}}}")),
            resource_version: pod.metadata.resource_version.clone(),
            ..pod.object_ref(&())
        };
        self.recorder.event_about(about, kind, reason, message);
    }
}
