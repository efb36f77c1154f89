//! What is special about each kind: one file a kind, or a few that belong together.
//!
//! A file exports `describe(&mut Kind)`, which sets the strategy, the selectable fields and the table of its
//! kind; the list below says which file speaks for which kind. What is not listed is generic.

mod admission;
mod apps;
mod autoscaling;
mod batch;
pub(crate) mod cells;
mod certificate;
mod check;
mod config;
mod endpoints;
mod event;
mod extension;
mod fields;
mod flow_control;
mod namespace;
mod network;
mod node;
mod pod;
mod policy;
mod rbac;
mod service;
mod small;
mod storage;

use crate::registry::Kind;

/// Completes the descriptor of a kind whose facts are read.
pub(crate) fn describe(kind: &mut Kind) {
    fields::describe(kind);
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "Pod" | "PodTemplate") => pod::describe(kind),
        ("", "ReplicationController") | ("apps", "ReplicaSet") => apps::replicas::describe(kind),
        ("", "ConfigMap" | "Secret") => config::describe(kind),
        ("", "Endpoints") => endpoints::describe(kind),
        ("" | "events.k8s.io", "Event") => event::describe(kind),
        ("", "Namespace") => namespace::describe(kind),
        ("", "Node") => node::describe(kind),
        ("", "Service") => service::describe(kind),
        ("", "PersistentVolume" | "PersistentVolumeClaim") | ("storage.k8s.io", _) => storage::describe(kind),
        ("", "ResourceQuota") => policy::quota(kind),
        ("", "LimitRange") => policy::limits(kind),
        ("policy", "PodDisruptionBudget") => policy::budget(kind),
        ("scheduling.k8s.io", "PriorityClass") => policy::priority(kind),
        ("rbac.authorization.k8s.io", _) => rbac::describe(kind),
        ("networking.k8s.io", _) => network::describe(kind),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::describe(kind),
        ("", "ComponentStatus") => small::component_status(kind),
        ("", "ServiceAccount") => small::service_account(kind),
        ("coordination.k8s.io", "Lease") => small::lease(kind),
        ("node.k8s.io", "RuntimeClass") => small::runtime_class(kind),
        ("apiregistration.k8s.io", _) => extension::api_service(kind),
        ("apiextensions.k8s.io", _) => extension::custom_definition(kind),
        ("admissionregistration.k8s.io", _) => admission::describe(kind),
        ("flowcontrol.apiserver.k8s.io", _) => flow_control::describe(kind),
        ("certificates.k8s.io", "CertificateSigningRequest") => certificate::signing_request(kind),
        ("discovery.k8s.io", "EndpointSlice") => endpoints::describe_slice(kind),
        ("apps", "ControllerRevision") => apps::controller_revision::describe(kind),
        ("apps", "DaemonSet") => apps::daemonset::describe(kind),
        ("apps", "Deployment") => apps::deployment::describe(kind),
        ("apps", "StatefulSet") => apps::statefulset::describe(kind),
        ("batch", "CronJob") => batch::cronjob::describe(kind),
        ("batch", "Job") => batch::job::describe(kind),
        _ => {}
    }
    if kind.group == "rbac.authorization.k8s.io" {
        // Roles are called what people like: `system:node`.
        kind.strategy.name_errors = crate::meta::path_segment_errors;
        kind.strategy.create_on_update = true;
    }
    kind.strategy.generation = generation(kind);
}

/// Whether `metadata.generation` counts changes of the kind's desired state.
fn generation(kind: &Kind) -> bool {
    match kind.group.as_ref() {
        "apps" => kind.kind != "ControllerRevision",
        "" => matches!(kind.kind.as_ref(), "Pod" | "ReplicationController"),
        "batch"
        | "admissionregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "policy"
        | "flowcontrol.apiserver.k8s.io" => true,
        "networking.k8s.io" => matches!(kind.kind.as_ref(), "Ingress" | "IngressClass" | "NetworkPolicy"),
        "discovery.k8s.io" => true,
        "resource.k8s.io" => matches!(kind.kind.as_ref(), "DeviceClass" | "ResourceSlice"),
        _ => false,
    }
}
