//! The environment of a container: values, references, and the variables of services. Pure: whatever is
//! referred to was fetched before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};

use super::expand::expand;
use crate::quantity::{self, List, milli};

/// What a container's environment is made from.
pub(crate) struct Sources<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// The pod's addresses, the primary one first.
    pub(crate) pod_ips: &'a [String],
    /// The node's address.
    pub(crate) host_ip: &'a str,
    /// What the node can give to pods: the limits of a container that has none.
    pub(crate) allocatable: &'a List,
    /// Config maps by name; `None` says that there is none of this name.
    pub(crate) config_maps: &'a BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets by name.
    pub(crate) secrets: &'a BTreeMap<String, Option<Arc<Secret>>>,
    /// The services that the pod sees.
    pub(crate) services: &'a [Arc<Service>],
}

/// Returns the names of the config maps and secrets that a container's environment refers to.
pub(crate) fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut config_maps = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|one| one.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|one| one.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|one| one.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|one| one.name.clone()));
    }
    (config_maps, secrets)
}

/// Returns the environment of `container`.
///
/// # Errors
/// The text of a `CreateContainerConfigError`.
pub(crate) fn make(container: &Container, sources: &Sources<'_>) -> Result<Vec<(String, String)>, String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |values: &mut BTreeMap<String, String>, name: String, value: String| {
        if values.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        set(&mut values, format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        set(
                            &mut values,
                            format!("{prefix}{key}"),
                            String::from_utf8_lossy(&value.0).into_owned(),
                        );
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    let services = service_variables(sources);
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => expand(text, &|name| {
                values.get(name).cloned().or_else(|| {
                    services.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
                })
            }),
            (_, Some(source)) => match referenced(source, container, sources)? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        set(&mut values, var.name.clone(), value);
    }
    let mut out: Vec<(String, String)> =
        services.into_iter().filter(|(name, _)| !values.contains_key(name)).collect();
    for name in order {
        let value = values.remove(&name).unwrap_or_default();
        out.push((name, value));
    }
    Ok(out)
}

fn referenced(
    source: &EnvVarSource,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_value(field, sources.pod, sources.pod_ips, sources.host_ip).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(resource, Some(container), sources.pod, sources.allocatable).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_maps.get(&reference.name).and_then(Option::as_ref) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("configmap {:?} not found", reference.name))
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secrets.get(&reference.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(format!("secret {:?} not found", reference.name)) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name))
            }
        };
    }
    Ok(Some(String::new()))
}

/// Returns the value of a field of the pod, for the environment and for downward API volumes.
///
/// # Errors
/// When the path names no field that may be asked for.
pub(crate) fn field_value(
    field: &ObjectFieldSelector,
    pod: &Pod,
    pod_ips: &[String],
    host_ip: &str,
) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let keyed = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    let listed = |map: Option<&BTreeMap<String, String>>| {
        map.into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Ok(match field.field_path.as_str() {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => listed(meta.labels.as_ref()),
        "metadata.annotations" => listed(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => host_ip.to_owned(),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        path => {
            let subscript = |prefix: &str| -> Option<&str> {
                path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")
            };
            if let Some(key) = subscript("metadata.labels") {
                keyed(meta.labels.as_ref(), key)
            } else if let Some(key) = subscript("metadata.annotations") {
                keyed(meta.annotations.as_ref(), key)
            } else {
                return Err(format!("unsupported fieldPath: {path}"));
            }
        }
    })
}

/// Returns the amount of a resource in units of the selector's divisor, rounded up.
///
/// # Errors
/// When the selector names an unknown container or resource.
pub(crate) fn resource_value(
    selector: &ResourceFieldSelector,
    container: Option<&Container>,
    pod: &Pod,
    allocatable: &List,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|one| one.name == name)
            .ok_or_else(|| format!("container {name} not found"))?,
        None => container.ok_or("no container is named in resourceFieldRef")?,
    };
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|one| one.limits.as_ref()).and_then(|list| list.get(resource));
    let request = resources.and_then(|one| one.requests.as_ref()).and_then(|list| list.get(resource));
    let amount = match kind {
        "limits" => limit.or_else(|| allocatable.get(resource)),
        "requests" => request.or(limit),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let amount = amount.and_then(|amount| milli(&amount.0)).unwrap_or(0);
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|divisor| quantity::milli(&divisor.0))
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok((amount / divisor + i128::from(amount % divisor != 0)).to_string())
}

fn variable_name(service: &str) -> String {
    service.to_uppercase().replace('-', "_")
}

/// Returns the variables of the services of the pod's namespace (when it wants them) and of the API.
fn service_variables(sources: &Sources<'_>) -> Vec<(String, String)> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = sources.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut seen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in sources.services {
        let (name, of) = (
            service.metadata.name.as_deref().unwrap_or_default(),
            service.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        if address.is_empty() || address == "None" {
            continue;
        }
        if of == namespace && links {
            seen.insert(name, service);
        } else if of == "default" && name == "kubernetes" {
            seen.entry(name).or_insert(service);
        }
    }
    let mut out = Vec::new();
    for (name, service) in seen {
        let Some(spec) = &service.spec else { continue };
        let prefix = variable_name(name);
        let address = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        out.push((format!("{prefix}_SERVICE_HOST"), address.to_owned()));
        if let Some(first) = ports.first() {
            out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        }
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                out.push((
                    format!("{prefix}_SERVICE_PORT_{}", variable_name(port_name)),
                    port.port.to_string(),
                ));
            }
        }
        for (at, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            let url = format!("{lower}://{host}:{}", port.port);
            if at == 0 {
                out.push((format!("{prefix}_PORT"), url.clone()));
            }
            let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.push((link.clone(), url));
            out.push((format!("{link}_PROTO"), lower));
            out.push((format!("{link}_PORT"), port.port.to_string()));
            out.push((format!("{link}_ADDR"), address.to_owned()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: serde_json::Value, expected: Result<&[(&str, &str)], &str>) {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "env": env, "resources": {"limits": {"cpu": "1500m"}}}]}
        }))
        .unwrap();
        let map: ConfigMap = serde_json::from_value(serde_json::json!({"data": {"k": "v"}})).unwrap();
        let sources = Sources {
            pod: &pod,
            pod_ips: &["10.2.0.5".into()],
            host_ip: "172.17.4.201",
            allocatable: &BTreeMap::new(),
            config_maps: &BTreeMap::from([("m".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)]),
            secrets: &BTreeMap::new(),
            services: &[],
        };
        let found = make(&pod.spec.as_ref().unwrap().containers[0], &sources);
        match expected {
            Ok(pairs) => {
                let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
                assert_eq!(found, Ok(pairs), "{env}");
            }
            Err(text) => assert_eq!(found, Err(text.to_owned()), "{env}"),
        }
    }

    #[test]
    fn values_and_references_are_resolved_in_order() {
        use serde_json::json;
        check(
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2 $(C)"}]),
            Ok(&[("A", "1"), ("B", "12 $(C)")]),
        );
        let from = |source: serde_json::Value| json!([{"name": "A", "valueFrom": source}]);
        check(from(json!({"fieldRef": {"fieldPath": "metadata.labels['a']"}})), Ok(&[("A", "b")]));
        check(from(json!({"fieldRef": {"fieldPath": "status.podIP"}})), Ok(&[("A", "10.2.0.5")]));
        check(from(json!({"resourceFieldRef": {"resource": "limits.cpu"}})), Ok(&[("A", "2")]));
        check(
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}})),
            Ok(&[("A", "1500")]),
        );
        check(from(json!({"configMapKeyRef": {"name": "m", "key": "k"}})), Ok(&[("A", "v")]));
        check(
            from(json!({"configMapKeyRef": {"name": "m", "key": "x"}})),
            Err("couldn't find key x in ConfigMap ns/m"),
        );
        check(
            from(json!({"configMapKeyRef": {"name": "gone", "key": "x"}})),
            Err("configmap \"gone\" not found"),
        );
        check(from(json!({"secretKeyRef": {"name": "s", "key": "x", "optional": true}})), Ok(&[]));
    }

    #[test]
    fn services_are_seen_in_both_styles_of_variables() {
        let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(serde_json::json!({
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"clusterIP": ip, "ports": [{"name": "http-x", "port": 80, "protocol": "TCP"}]}
                }))
                .unwrap(),
            )
        };
        let services = [
            service("ns", "my-svc", "10.3.0.7"),
            service("other", "no", "10.3.0.8"),
            service("ns", "headless", "None"),
            service("default", "kubernetes", "10.3.0.1"),
        ];
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"namespace": "ns"}, "spec": {"containers": []}}),
        )
        .unwrap();
        let empty = BTreeMap::new();
        let sources = Sources {
            pod: &pod,
            pod_ips: &[],
            host_ip: "",
            allocatable: &BTreeMap::new(),
            config_maps: &empty,
            secrets: &BTreeMap::new(),
            services: &services,
        };
        let found = service_variables(&sources);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"KUBERNETES_SERVICE_HOST"));
        assert!(!names.iter().any(|name| name.starts_with("NO_") || name.starts_with("HEADLESS")));
        assert!(found.contains(&("MY_SVC_SERVICE_PORT_HTTP_X".into(), "80".into())));
        assert!(found.contains(&("MY_SVC_PORT_80_TCP".into(), "tcp://10.3.0.7:80".into())));
    }
}
