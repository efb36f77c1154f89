//! The node authorizer: a node agent may read what the pods of its own node refer to, and nothing else's.
//!
//! The graph holds one edge set for each pod that runs on a node (secrets, config maps, claims, its service
//! account), one for each persistent volume (its claim and its secrets) and one for each volume attachment.
//! An index from (node, thing) to the number of pods that refer to it makes a decision one look-up.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::{Attributes, Decision, Rule, bootstrap, list, text};

/// A pod that mirrors a static one names objects without anybody's permission.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// Where the leases of nodes live.
const LEASES: &str = "kube-node-lease";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Account,
    Pod,
}

/// Something in a namespace that a node may have to do with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Thing {
    kind: Kind,
    namespace: Box<str>,
    name: Box<str>,
}

/// What is known of pods, volumes and attachments.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// By the pod (as a [`Thing`]): its node and what it refers to.
    pods: HashMap<Thing, (Box<str>, Vec<Thing>)>,
    /// By node: how many pods refer to a thing.
    nodes: HashMap<Box<str>, HashMap<Thing, usize>>,
    /// By volume: its claim and the secrets that mounting it needs.
    volumes: HashMap<Box<str>, (Thing, Vec<Thing>)>,
    /// By attachment: its node.
    attachments: HashMap<Box<str>, Box<str>>,
}

impl Graph {
    pub(crate) fn pod(&mut self, namespace: &str, name: &str, pod: Option<&Value>) {
        let key = Thing::new(Kind::Pod, namespace, name);
        let new = pod.and_then(|pod| {
            let node = text(pod, "/spec/nodeName");
            (!node.is_empty()).then(|| (Box::from(node), references(namespace, name, pod)))
        });
        if self.pods.get(&key) == new.as_ref() {
            return;
        }
        if let Some((node, things)) = self.pods.remove(&key)
            && let Some(counts) = self.nodes.get_mut(&node)
        {
            for thing in things {
                if let Some(count) = counts.get_mut(&thing) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&thing);
                    }
                }
            }
            if counts.is_empty() {
                self.nodes.remove(&node);
            }
        }
        if let Some((node, things)) = new {
            let counts = self.nodes.entry(node.clone()).or_default();
            for thing in &things {
                *counts.entry(thing.clone()).or_default() += 1;
            }
            self.pods.insert(key, (node, things));
        }
    }

    pub(crate) fn persistent_volume(&mut self, name: &str, volume: Option<&Value>) {
        self.volumes.remove(name);
        let Some(volume) = volume else { return };
        let (namespace, claim) =
            (text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name"));
        if claim.is_empty() {
            return;
        }
        let mut secrets = Vec::new();
        if let Some(spec) = volume.get("spec") {
            volume_secrets(spec, namespace, &mut secrets);
        }
        self.volumes.insert(name.into(), (Thing::new(Kind::Claim, namespace, claim), secrets));
    }

    pub(crate) fn volume_attachment(&mut self, name: &str, attachment: Option<&Value>) {
        match attachment.map(|attachment| text(attachment, "/spec/nodeName")) {
            Some(node) => self.attachments.insert(name.into(), node.into()),
            None => self.attachments.remove(name),
        };
    }

    /// Says whether a pod of the node refers to the thing, directly or through a volume that it claims.
    fn refers(&self, node: &str, thing: &Thing) -> bool {
        let Some(counts) = self.nodes.get(node) else { return false };
        counts.contains_key(thing)
            || (thing.kind == Kind::Secret
                && self
                    .volumes
                    .values()
                    .any(|(claim, secrets)| secrets.contains(thing) && counts.contains_key(claim)))
    }

    /// Decides whether the agent of `node` may do what `request` describes.
    pub(crate) fn authorize(&self, node: &str, request: &Attributes<'_>) -> Decision {
        let Attributes { verb, group, resource, subresource, namespace, name, .. } = *request;
        let what = |kind| Thing::new(kind, namespace, name);
        let no_path =
            || Decision::deny(format!("no relationship found between node '{node}' and this object"));
        match (group, resource) {
            ("", "secrets" | "configmaps") => {
                if !request.is_read() || !subresource.is_empty() {
                    return Decision::deny("can only read resources of this type");
                }
                if name.is_empty() {
                    return Decision::deny("No Object name found");
                }
                let kind = if resource == "secrets" { Kind::Secret } else { Kind::ConfigMap };
                if self.refers(node, &what(kind)) { Decision::allow("") } else { no_path() }
            }
            ("", "persistentvolumeclaims") => {
                let verb_fits = if subresource == "status" {
                    matches!(verb, "get" | "update" | "patch")
                } else {
                    verb == "get" && subresource.is_empty()
                };
                if !verb_fits {
                    return Decision::deny(if subresource == "status" {
                        "can only get/update/patch this type"
                    } else {
                        "can only get individual resources of this type"
                    });
                }
                if self.refers(node, &what(Kind::Claim)) { Decision::allow("") } else { no_path() }
            }
            ("", "persistentvolumes") => {
                if verb != "get" || !subresource.is_empty() {
                    return Decision::deny("can only get individual resources of this type");
                }
                let claim = self.volumes.get(name).map(|(claim, _)| claim);
                if claim.is_some_and(|claim| self.refers(node, claim)) {
                    Decision::allow("")
                } else {
                    no_path()
                }
            }
            ("storage.k8s.io", "volumeattachments") => {
                if verb != "get" || !subresource.is_empty() {
                    return Decision::deny("can only get individual resources of this type");
                }
                if self.attachments.get(name).is_some_and(|other| **other == *node) {
                    Decision::allow("")
                } else {
                    no_path()
                }
            }
            ("", "serviceaccounts") if subresource == "token" => {
                if verb != "create" {
                    return Decision::deny("can only create tokens for individual service accounts");
                }
                if self.refers(node, &what(Kind::Account)) { Decision::allow("") } else { no_path() }
            }
            ("coordination.k8s.io", "leases") => {
                if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
                    return Decision::deny("can only get, create, update, patch, or delete a node lease");
                }
                if namespace != LEASES {
                    return Decision::deny(format!(
                        "can only access leases in the \"{LEASES}\" system namespace"
                    ));
                }
                if verb != "create" && name != node {
                    return Decision::deny(
                        "can only access node lease with the same name as the requesting node",
                    );
                }
                Decision::allow("")
            }
            ("storage.k8s.io", "csinodes") => {
                if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
                    return Decision::deny("can only get, create, update, patch, or delete a CSINode");
                }
                if verb != "create" && name != node {
                    return Decision::deny(
                        "can only access CSINode with the same name as the requesting node",
                    );
                }
                Decision::allow("")
            }
            ("", "nodes") => self.own_node(node, request),
            ("", "pods") => self.pods(node, request),
            _ if RULES.iter().any(|rule| rule.allows(request)) => Decision::allow(""),
            _ => Decision::deny(""),
        }
    }

    fn own_node(&self, node: &str, request: &Attributes<'_>) -> Decision {
        let Attributes { verb, subresource, name, .. } = *request;
        match (verb, subresource) {
            ("create", "") => Decision::allow(""),
            ("get" | "update" | "patch", "" | "status") if name == node => Decision::allow(""),
            ("list" | "watch", "") if name == node || request.fields.contains(&("metadata.name", node)) => {
                Decision::allow("")
            }
            ("get" | "list" | "watch", "") => {
                Decision::deny(format!("node '{node}' cannot read '{name}', only its own Node object"))
            }
            ("get" | "update" | "patch", _) => Decision::deny("can only access the own Node object"),
            _ => Decision::deny(""),
        }
    }

    fn pods(&self, node: &str, request: &Attributes<'_>) -> Decision {
        let Attributes { verb, subresource, namespace, name, .. } = *request;
        match (verb, subresource) {
            ("get", "") if self.refers(node, &Thing::new(Kind::Pod, namespace, name)) => Decision::allow(""),
            ("get", "") => {
                Decision::deny(format!("no relationship found between node '{node}' and this object"))
            }
            ("list" | "watch", "") if request.fields.contains(&("spec.nodeName", node)) => {
                Decision::allow("")
            }
            ("list" | "watch", "") => Decision::deny(format!(
                "can only list/watch pods with spec.nodeName field selector, as node '{node}'"
            )),
            // Admission looks into the object: the pod must be the node's.
            ("create" | "delete", "") | ("patch" | "update", "status") | ("create", "eviction") => {
                Decision::allow("")
            }
            _ => Decision::deny(""),
        }
    }
}

impl Thing {
    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

/// What the agent of any node may do, beside what depends on its pods.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    bootstrap::rules_of("system:node")
        .into_iter()
        .map(|mut rule| {
            // These are decided above, object by object.
            rule.resources.retain(|resource| {
                !matches!(
                    resource.split('/').next().unwrap_or_default(),
                    "secrets"
                        | "configmaps"
                        | "persistentvolumeclaims"
                        | "persistentvolumes"
                        | "volumeattachments"
                        | "serviceaccounts"
                        | "leases"
                        | "csinodes"
                        | "nodes"
                        | "pods"
                )
            });
            rule
        })
        .collect()
});

/// Returns everything that a pod refers to, itself included, each once.
fn references(namespace: &str, name: &str, pod: &Value) -> Vec<Thing> {
    let mut found = vec![Thing::new(Kind::Pod, namespace, name)];
    if pod.pointer(MIRROR).is_some() {
        return found;
    }
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            found.push(Thing::new(kind, namespace, name));
        }
    };
    add(Kind::Account, text(pod, "/spec/serviceAccountName"));
    for secret in list(pod, "/spec/imagePullSecrets") {
        add(Kind::Secret, text(secret, "/name"));
    }
    for containers in ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"] {
        for container in list(pod, containers) {
            for env in list(container, "/env") {
                add(Kind::Secret, text(env, "/valueFrom/secretKeyRef/name"));
                add(Kind::ConfigMap, text(env, "/valueFrom/configMapKeyRef/name"));
            }
            for source in list(container, "/envFrom") {
                add(Kind::Secret, text(source, "/secretRef/name"));
                add(Kind::ConfigMap, text(source, "/configMapRef/name"));
            }
        }
    }
    for volume in list(pod, "/spec/volumes") {
        add(Kind::Secret, text(volume, "/secret/secretName"));
        add(Kind::ConfigMap, text(volume, "/configMap/name"));
        add(Kind::Claim, text(volume, "/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some() {
            add(Kind::Claim, &format!("{name}-{}", text(volume, "/name")));
        }
        for source in list(volume, "/projected/sources") {
            add(Kind::Secret, text(source, "/secret/name"));
            add(Kind::ConfigMap, text(source, "/configMap/name"));
        }
    }
    for volume in list(pod, "/spec/volumes") {
        volume_secrets(volume, namespace, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Adds the secrets that a volume's driver needs.
fn volume_secrets(volume: &Value, namespace: &str, found: &mut Vec<Thing>) {
    for (driver, field) in [
        ("cephfs", "secretRef"),
        ("cinder", "secretRef"),
        ("flexVolume", "secretRef"),
        ("iscsi", "secretRef"),
        ("rbd", "secretRef"),
        ("scaleIO", "secretRef"),
        ("storageos", "secretRef"),
        ("csi", "nodePublishSecretRef"),
        ("csi", "nodeStageSecretRef"),
        ("csi", "nodeExpandSecretRef"),
    ] {
        let Some(secret) = volume.get(driver).and_then(|driver| driver.get(field)) else { continue };
        let namespace = match text(secret, "/namespace") {
            "" => namespace,
            namespace => namespace,
        };
        if !text(secret, "/name").is_empty() {
            found.push(Thing::new(Kind::Secret, namespace, text(secret, "/name")));
        }
    }
    if let Some(azure) = volume.get("azureFile") {
        let namespace = match text(azure, "/secretNamespace") {
            "" => namespace,
            namespace => namespace,
        };
        if !text(azure, "/secretName").is_empty() {
            found.push(Thing::new(Kind::Secret, namespace, text(azure, "/secretName")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> Graph {
        let mut graph = Graph::default();
        let pod = json!({"spec": {
            "nodeName": "n1",
            "serviceAccountName": "default",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "init"}}}]}],
            "containers": [{
                "env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}, {"value": "x"}],
                "envFrom": [{"configMapRef": {"name": "from"}}, {"secretRef": {"name": "sfrom"}}],
            }],
            "volumes": [
                {"name": "a", "secret": {"secretName": "vol"}},
                {"name": "b", "configMap": {"name": "cm"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "psec"}}, {"configMap": {"name": "pcm"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "e", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
                {"name": "f", "ephemeral": {}},
            ],
        }});
        graph.pod("ns", "p", Some(&pod));
        graph.pod("ns", "pending", Some(&json!({"spec": {"serviceAccountName": "other"}})));
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "stolen"}}]}});
        graph.pod("ns", "mirror", Some(&mirror));
        graph.persistent_volume(
            "pv",
            Some(&json!({"spec": {
                "claimRef": {"namespace": "ns", "name": "claim"},
                "csi": {"nodeStageSecretRef": {"namespace": "store", "name": "stage"}},
            }})),
        );
        graph.persistent_volume("free", Some(&json!({"spec": {}})));
        graph.volume_attachment("va", Some(&json!({"spec": {"nodeName": "n1"}})));
        graph
    }

    #[track_caller]
    fn check(graph: &Graph, node: &str, request: &str, expect: bool) {
        let words: Vec<&str> = request.split(' ').collect();
        let [verb, resource, place] = words[..] else { panic!("{request}") };
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        let attributes =
            Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() };
        let decision = graph.authorize(node, &attributes);
        assert_eq!(decision.allowed, expect, "{node}: {request}: {decision:?}");
    }

    #[test]
    fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
        let graph = graph();
        for (request, expect) in [
            ("get secrets ns/pull", true),
            ("get secrets ns/env", true),
            ("get secrets ns/sfrom", true),
            ("get secrets ns/vol", true),
            ("watch secrets ns/vol", true),
            ("list secrets ns/vol", true),
            ("get secrets ns/psec", true),
            ("get secrets ns/csi", true),
            ("get secrets store/stage", true),
            ("get secrets ns/other", false),
            ("get secrets ns/stolen", false),
            ("get secrets other/vol", false),
            ("list secrets ns/", false),
            ("update secrets ns/vol", false),
            ("delete secrets ns/vol", false),
            ("get configmaps ns/init", true),
            ("get configmaps ns/from", true),
            ("get configmaps ns/cm", true),
            ("get configmaps ns/pcm", true),
            ("get configmaps ns/vol", false),
            ("get persistentvolumeclaims ns/claim", true),
            ("get persistentvolumeclaims ns/p-f", true),
            ("list persistentvolumeclaims ns/claim", false),
            ("update persistentvolumeclaims/status ns/claim", true),
            ("delete persistentvolumeclaims ns/claim", false),
            ("get persistentvolumes pv", true),
            ("get persistentvolumes free", false),
            ("get volumeattachments.storage.k8s.io va", true),
            ("get volumeattachments.storage.k8s.io vb", false),
            ("create serviceaccounts/token ns/default", true),
            ("create serviceaccounts/token ns/other", false),
            ("get serviceaccounts/token ns/default", false),
            ("get serviceaccounts ns/default", false),
        ] {
            check(&graph, "n1", request, expect);
            check(&graph, "n2", request, false);
        }
    }

    #[test]
    fn a_node_writes_only_what_is_its_own() {
        let graph = graph();
        for (request, expect) in [
            ("get nodes n1", true),
            ("get nodes n2", false),
            ("create nodes n1", true),
            ("update nodes n1", true),
            ("patch nodes/status n1", true),
            ("patch nodes/status n2", false),
            ("delete nodes n1", false),
            ("list nodes x", false),
            ("get pods ns/p", true),
            ("get pods ns/mirror", true),
            ("get pods ns/pending", false),
            ("list pods ns/", false),
            ("delete pods ns/p", true),
            ("patch pods/status ns/p", true),
            ("create pods/exec ns/p", false),
            ("create pods/binding ns/p", false),
            ("get leases.coordination.k8s.io kube-node-lease/n1", true),
            ("create leases.coordination.k8s.io kube-node-lease/", true),
            ("update leases.coordination.k8s.io kube-node-lease/n2", false),
            ("list leases.coordination.k8s.io kube-node-lease/", false),
            ("get leases.coordination.k8s.io kube-system/n1", false),
            ("get csinodes.storage.k8s.io n1", true),
            ("get csinodes.storage.k8s.io n2", false),
            ("list services ns/", true),
            ("delete services ns/x", false),
            ("create events ns/", true),
            ("create subjectaccessreviews.authorization.k8s.io x", true),
            ("create tokenreviews.authentication.k8s.io x", true),
            ("list runtimeclasses.node.k8s.io x", true),
            ("list deployments.apps ns/", false),
            ("create clusterrolebindings.rbac.authorization.k8s.io x", false),
        ] {
            check(&graph, "n1", request, expect);
        }
        let pods = Attributes {
            verb: "watch",
            resource: "pods",
            fields: &[("spec.nodeName", "n1")],
            ..Default::default()
        };
        assert!(graph.authorize("n1", &pods).allowed);
        assert!(!graph.authorize("n2", &pods).allowed);
        let own = Attributes {
            verb: "list",
            resource: "nodes",
            fields: &[("metadata.name", "n1")],
            ..Default::default()
        };
        assert!(graph.authorize("n1", &own).allowed);
    }

    #[test]
    fn what_a_pod_gave_goes_with_it() {
        let mut graph = graph();
        let second = json!({"spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "vol"}}]}});
        graph.pod("ns", "second", Some(&second));
        graph.pod("ns", "p", None);
        check(&graph, "n1", "get secrets ns/vol", true);
        check(&graph, "n1", "get secrets ns/env", false);
        check(&graph, "n1", "get secrets store/stage", false);
        graph.pod("ns", "second", None);
        graph.pod("ns", "mirror", None);
        check(&graph, "n1", "get secrets ns/vol", false);
        assert!(graph.nodes.is_empty());
    }
}
