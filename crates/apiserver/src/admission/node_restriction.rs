//! `NodeRestriction`: a node agent writes its own node and its own pods only.

use api::status::Status;
use serde_json::Value;

use super::{Context, Operation, Plugin, Request};
use crate::access::{list, text};

/// Labels in upstream's domains that an agent may put on its node.
const OWN_LABELS: [&str; 16] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "kubelet.kubernetes.io",
    "node.kubernetes.io",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/cluster",
    "node.kubernetes.io/provider",
];

pub(super) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let Some(node) = request.user.node() else { return Ok(()) };
        match (request.group, request.resource, request.subresource) {
            ("", "pods", "") => pods(request, context, node),
            ("", "pods", "status") => pod_status(request, node),
            ("", "pods", "eviction") => {
                let name = match text(request.object, "/metadata/name") {
                    "" => request.name,
                    name => name,
                };
                own_pod(request, context, node, name, "evict")
            }
            ("", "nodes", _) => nodes(request, node),
            ("", "serviceaccounts", "token") => token(request, context, node),
            ("coordination.k8s.io", "leases", _) => lease(request, node),
            ("storage.k8s.io", "csinodes", _) => {
                let name = name_of(request);
                if name == node {
                    Ok(())
                } else {
                    Err(request.forbidden(format!("can only {} CSINode {node}", verb(request))))
                }
            }
            ("", "persistentvolumeclaims", "status") => claim(request, node),
            _ => Ok(()),
        }
    }
}

fn name_of<'a>(request: &'a Request<'_>) -> &'a str {
    if request.name.is_empty() { text(request.object, "/metadata/name") } else { request.name }
}

fn verb(request: &Request<'_>) -> &'static str {
    match request.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Connect => "connect to",
    }
}

fn pods(request: &Request<'_>, context: &Context<'_>, node: &str) -> Result<(), Status> {
    match request.operation {
        Operation::Create => {
            let pod = &*request.object;
            if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_none() {
                return Err(request.forbidden(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                )));
            }
            if text(pod, "/spec/nodeName") != node {
                return Err(request.forbidden(format!(
                    "node {node:?} can only create pods with spec.nodeName set to itself"
                )));
            }
            let owners = list(pod, "/metadata/ownerReferences");
            let owned = owners.iter().all(|owner| {
                text(owner, "/kind") == "Node"
                    && text(owner, "/apiVersion") == "v1"
                    && text(owner, "/name") == node
            });
            if owners.len() > 1 || !owned {
                return Err(request.forbidden(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                )));
            }
            if !text(pod, "/spec/serviceAccountName").is_empty() {
                return Err(request.forbidden(format!(
                    "node {node:?} can not create pods that reference a service account"
                )));
            }
            let refers = list(pod, "/spec/volumes").iter().find_map(|volume| {
                ["secret", "configMap", "persistentVolumeClaim", "projected"]
                    .into_iter()
                    .find(|source| volume.get(source).is_some())
            });
            if let Some(source) = refers {
                return Err(request.forbidden(format!(
                    "node {node:?} can not create pods that reference a {}",
                    source.to_lowercase()
                )));
            }
            Ok(())
        }
        Operation::Delete => {
            // A deletion of many has no name; each pod is looked at when its turn comes.
            if request.name.is_empty() {
                Ok(())
            } else {
                own_pod(request, context, node, request.name, "delete")
            }
        }
        _ => Err(request.forbidden(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            verb(request)
        ))),
    }
}

fn own_pod(
    request: &Request<'_>,
    context: &Context<'_>,
    node: &str,
    name: &str,
    doing: &str,
) -> Result<(), Status> {
    let found;
    let pod = match request.old {
        Some(old) => Some(old),
        None => {
            found = context.world.lookup("pods", request.namespace, name);
            found.as_deref()
        }
    };
    match pod {
        // The deletion of what is not there says so itself.
        None => Ok(()),
        Some(pod) if text(pod, "/spec/nodeName") == node => Ok(()),
        Some(_) => Err(request
            .forbidden(format!("node {node:?} can only {doing} pods with spec.nodeName set to itself"))),
    }
}

fn pod_status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.operation != Operation::Update {
        return Err(request.forbidden(format!("unexpected operation {:?}", verb(request))));
    }
    let old = request.old.unwrap_or(&Value::Null);
    if text(old, "/spec/nodeName") != node {
        return Err(request.forbidden(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    let labels = |pod: &Value| {
        pod.pointer("/metadata/labels").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()))
    };
    if labels(old) != labels(request.object) {
        return Err(request.forbidden(format!("node {node:?} cannot update labels through pod status")));
    }
    Ok(())
}

fn nodes(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let name = name_of(request).to_owned();
    if request.operation == Operation::Create {
        if name != node {
            return Err(request.forbidden(format!("node {node:?} is not allowed to modify node {name:?}")));
        }
        return labels(request, node, &Value::Null);
    }
    if name != node {
        return Err(request.forbidden(format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    if request.operation == Operation::Update {
        let old = request.old.unwrap_or(&Value::Null);
        let part = |value: &Value, pointer: &str| value.pointer(pointer).cloned().unwrap_or_default();
        if request.subresource.is_empty() && part(old, "/spec/taints") != part(request.object, "/spec/taints")
        {
            return Err(request.forbidden(format!("node {node:?} is not allowed to modify taints")));
        }
        if part(old, "/metadata/ownerReferences") != part(request.object, "/metadata/ownerReferences") {
            return Err(request.forbidden(format!("node {node:?} is not allowed to modify owner references")));
        }
        return labels(request, node, old);
    }
    Ok(())
}

/// Checks that the agent sets or changes no label that says what others may do on its node.
fn labels(request: &Request<'_>, node: &str, old: &Value) -> Result<(), Status> {
    let map = |value: &Value| {
        value.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let (old, new) = (map(old), map(request.object));
    let mut foreign: Vec<&str> = old
        .keys()
        .chain(new.keys())
        .filter(|key| old.get(*key) != new.get(*key) && !is_own(key))
        .map(String::as_str)
        .collect();
    foreign.sort_unstable();
    foreign.dedup();
    if foreign.is_empty() {
        return Ok(());
    }
    let doing = if request.operation == Operation::Create { "set" } else { "modify" };
    Err(request.forbidden(format!(
        "is not allowed to {doing} the following labels: {} (node {node:?})",
        foreign.join(", ")
    )))
}

fn is_own(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let under = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    if under("node-restriction.kubernetes.io") {
        return false;
    }
    (!under("kubernetes.io") && !under("k8s.io"))
        || OWN_LABELS.contains(&label)
        || under("kubelet.kubernetes.io")
        || under("node.kubernetes.io")
}

fn token(request: &Request<'_>, context: &Context<'_>, node: &str) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let reference = request.object.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null);
    let fail = |why: &str| Err(request.forbidden(why));
    if text(reference, "/kind") != "Pod"
        || text(reference, "/apiVersion") != "v1"
        || text(reference, "/name").is_empty()
    {
        return fail("node requested token not bound to a pod");
    }
    if text(reference, "/uid").is_empty() {
        return fail("node requested token with a pod binding without a uid");
    }
    let Some(pod) = context.world.lookup("pods", request.namespace, text(reference, "/name")) else {
        return fail(&format!("pod {:?} not found", text(reference, "/name")));
    };
    if text(&pod, "/metadata/uid") != text(reference, "/uid") {
        return fail("the UID in the bound object reference does not match the UID in record");
    }
    if text(&pod, "/spec/nodeName") != node {
        return fail("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

fn lease(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return Err(request.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    if name_of(request) != node {
        return Err(request.forbidden("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}

/// A node may change the status of a claim, not the claim.
fn claim(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let spec = |claim: &Value| claim.get("spec").cloned().unwrap_or_default();
    if spec(request.old.unwrap_or(&Value::Null)) == spec(request.object) {
        return Ok(());
    }
    Err(request.forbidden(format!("node {node:?} may not update persistentvolumeclaim spec")))
}
