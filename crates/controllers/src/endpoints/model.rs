//! What a service and its pods add up to, before it is written in either form.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::frame::{is_deleting, name, namespace};
use crate::pods;

/// A port that traffic goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// A pod behind a service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backend {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    /// Ready, and not on its way out (or the service publishes all).
    pub(crate) ready: bool,
    /// Ready, even if it is on its way out.
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) pod: ObjectReference,
}

pub(crate) fn publishes_all(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true))
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// Returns the pod as a backend of `service`, if it is one (`None` for one without address or future).
pub(crate) fn backend(service: &Service, pod: &Arc<Pod>) -> Option<Backend> {
    if pods::is_finished(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let mut addresses: Vec<IpAddr> =
        status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    if addresses.is_empty() {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|port| resolve(port, pod)).collect();
    let terminating = is_deleting(&**pod);
    let serving = pods::is_ready(pod);
    let pod_spec = pod.spec.as_ref()?;
    let is_member = pod_spec.subdomain.as_deref() == Some(name(service));
    Some(Backend {
        addresses,
        ports,
        ready: publishes_all(service) || (serving && !terminating),
        serving,
        terminating,
        hostname: pod_spec.hostname.clone().filter(|hostname| is_member && !hostname.is_empty()),
        node: pods::node(pod).map(str::to_owned),
        pod: ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(namespace(&**pod).to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    })
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or("TCP".into());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) if text.is_empty() => port.port,
        Some(IntOrString::String(text)) => named(pod, text, &protocol)?,
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        port: number,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named(pod: &Pod, wanted: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(is_sidecar))
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name.as_deref() == Some(wanted) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

/// Tells whether a change of a pod can matter to any service.
pub(crate) fn matters(old: &Pod, new: &Pod) -> bool {
    let view = |pod: &Pod| {
        (
            pods::is_finished(pod),
            pods::is_ready(pod),
            is_deleting(pod),
            pods::node(pod).map(str::to_owned),
            pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone())),
            pod.metadata.uid.clone(),
        )
    };
    old.metadata.labels != new.metadata.labels || view(old) != view(new)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "s1",
            "labels": {"app": "web"}}, "spec": spec}))
        .unwrap()
    }

    pub(crate) fn pod(name: &str, ip: &str, ready: bool, deleted: bool) -> Arc<Pod> {
        let deletion = deleted.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "default", "uid": name, "deletionTimestamp": deletion},
                "spec": {"nodeName": "n1", "hostname": name, "subdomain": "web", "containers": [{"name": "a",
                    "ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_backend_has_the_ports_that_its_pod_gives_their_names() {
        let ports = json!([{"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "targetPort": 9},
            {"name": "c", "port": 82, "targetPort": "none"}, {"name": "d", "port": 83}]);
        let found = backend(&service(json!({"ports": ports})), &pod("p", "10.2.0.2", true, false)).unwrap();
        let ports: Vec<_> = found.ports.iter().map(|port| (port.name.as_str(), port.port)).collect();
        assert_eq!(ports, [("a", 8080), ("b", 9), ("d", 83)]);
        assert_eq!(found.hostname.as_deref(), Some("p"));
    }

    #[test]
    fn a_pod_that_ends_serves_but_is_not_ready_unless_all_is_published() {
        for (publish, ready, deleted, expect) in [
            (false, true, false, (true, true, false)),
            (false, false, false, (false, false, false)),
            (false, true, true, (false, true, true)),
            (true, false, true, (true, false, true)),
        ] {
            let service = service(json!({"publishNotReadyAddresses": publish}));
            let found = backend(&service, &pod("p", "10.2.0.2", ready, deleted)).unwrap();
            assert_eq!((found.ready, found.serving, found.terminating), expect);
        }
    }
}
