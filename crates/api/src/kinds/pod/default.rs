//! Defaulting of pods and pod templates.

use serde_json::{Map, Value, json};

use crate::quantity::Quantity;
use crate::value::{default, each_mut, flag, int, object, set, text, unset};

/// Fills in a pod: its spec, and what only pods (not templates) get.
pub(super) fn pod(pod: &mut Value) {
    let Some(spec) = object(pod, "spec") else { return };
    spec_of_template(spec);
    for key in ["containers", "initContainers"] {
        each_mut(spec, key, requests_from_limits);
    }
    if spec["enableServiceLinks"].is_null() {
        set(spec, "enableServiceLinks", true);
    }
    host_network_ports(spec);
}

/// Fills in the pod template of a workload.
pub(in crate::kinds) fn template(template: &mut Value) {
    if let Some(spec) = object(template, "spec") {
        spec_of_template(spec);
    }
}

fn spec_of_template(spec: &mut Value) {
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "restartPolicy", "Always");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    if spec["securityContext"].is_null() {
        set(spec, "securityContext", Map::new());
    }
    service_account(spec);
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        each_mut(spec, key, container);
    }
    each_mut(spec, "volumes", volume);
    host_network_ports(spec);
}

/// The old name of the field says the same as the new one.
fn service_account(spec: &mut Value) {
    if unset(&spec["serviceAccountName"]) && !unset(&spec["serviceAccount"]) {
        let name = spec["serviceAccount"].clone();
        set(spec, "serviceAccountName", name);
    }
    if !unset(&spec["serviceAccountName"]) {
        let name = spec["serviceAccountName"].clone();
        set(spec, "serviceAccount", name);
    }
}

fn container(container: &mut Value) {
    if unset(&container["imagePullPolicy"]) {
        let policy = pull_policy(text(container, "image"));
        set(container, "imagePullPolicy", policy);
    }
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    if container["resources"].is_null() {
        set(container, "resources", Map::new());
    }
    whole_millis(container);
    each_mut(container, "ports", |port| default(port, "protocol", "TCP"));
    each_mut(container, "env", |variable| {
        let Some(from) = variable.get_mut("valueFrom") else { return };
        if let Some(field) = from.get_mut("fieldRef") {
            default(field, "apiVersion", "v1");
        }
        if let Some(resource) = from.get_mut("resourceFieldRef") {
            default(resource, "divisor", "0");
        }
    });
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = container.get_mut(key) {
            probe(found);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook)) {
            http_get(action);
        }
    }
}

/// Amounts finer than a thousandth are rounded up.
fn whole_millis(container: &mut Value) {
    for side in ["limits", "requests"] {
        let amounts = container.get_mut("resources").and_then(|resources| resources.get_mut(side));
        for (_, amount) in amounts.and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(fine) = Quantity::read(amount).filter(|quantity| !quantity.is_whole_millis()) {
                *amount = fine.up_to_millis().to_string().into();
            }
        }
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if int(probe, key).unwrap_or(0) == 0 {
            set(probe, key, value);
        }
    }
    http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc")
        && grpc["service"].is_null()
    {
        set(grpc, "service", "");
    }
}

fn http_get(action: &mut Value) {
    if let Some(get) = action.get_mut("httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

/// `Always` for images whose tag moves, `IfNotPresent` for the others.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let latest = match name.split_once('@') {
        Some(_) => false,
        None => name.split_once(':').is_none_or(|(_, tag)| tag == "latest"),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.keys().all(|key| key == "name") {
        map.insert("emptyDir".into(), json!({}));
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map.get_mut(key) {
            default(source, "defaultMode", 420);
        }
    }
    if let Some(source) = map.get_mut("hostPath")
        && source["type"].is_null()
    {
        set(source, "type", "");
    }
    if let Some(source) = map.get_mut("downwardAPI") {
        each_mut(source, "items", downward_item);
    }
    if let Some(source) = map.get_mut("projected") {
        each_mut(source, "sources", |source| {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                each_mut(downward, "items", downward_item);
            }
        });
    }
    if let Some(source) = map.get_mut("image")
        && unset(&source["pullPolicy"])
    {
        let policy = pull_policy(text(source, "reference"));
        set(source, "pullPolicy", policy);
    }
    if let Some(source) = map.get_mut("iscsi") {
        default(source, "iscsiInterface", "default");
    }
    let claim = map.get_mut("ephemeral").and_then(|source| source.get_mut("volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|claim| claim.get_mut("spec")) {
        default(spec, "volumeMode", "Filesystem");
    }
}

fn downward_item(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef") {
        default(field, "apiVersion", "v1");
    }
    if let Some(resource) = item.get_mut("resourceFieldRef") {
        default(resource, "divisor", "0");
    }
}

/// What is limited and not requested is requested as far as it is limited.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    let Some(limits) = resources["limits"].as_object().cloned() else { return };
    let Some(Value::Object(requests)) = object(resources, "requests") else { return };
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// On the host's network a container's ports are the host's ports.
fn host_network_ports(spec: &mut Value) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for key in ["containers", "initContainers"] {
        each_mut(spec, key, |container| {
            each_mut(container, "ports", |port| {
                if int(port, "hostPort").unwrap_or(0) == 0 {
                    let number = port["containerPort"].clone();
                    set(port, "hostPort", number);
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_pod_gets_upstreams_defaults() {
        let mut object = json!({"spec": {
            "containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
            "serviceAccountName": "sa",
        }});
        pod(&mut object);
        assert_eq!(
            object["spec"],
            json!({
                "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
                "serviceAccountName": "sa", "serviceAccount": "sa",
            })
        );
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaulting twice changes nothing");
    }

    #[test]
    fn a_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("host:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
