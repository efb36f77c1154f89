//! What every cluster has from its first moment: namespaces, the API's own service, priority classes.

use std::sync::Arc;

use api::status::{Reason, Status};
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::access::bootstrap as policy;
use crate::path::{Query, RequestInfo, Target};
use crate::rest::{Resource, WriteOptions};
use crate::server::{ApiServer, Call};

/// Creates what is missing and corrects what differs.
pub(crate) async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
        ensure(server, ("", "namespaces"), "", object).await?;
    }
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let object = json!({"metadata": {"name": name}, "value": value, "description": description});
        ensure(server, ("scheduling.k8s.io", "priorityclasses"), "", object).await?;
    }
    let mut authentication = json!({
        "metadata": {"name": "extension-apiserver-authentication"},
        "data": {"client-ca-file": server.config.pki.ca_certificate},
    });
    overlay(&mut authentication["data"], &server.aggregator.request_header());
    ensure(server, ("", "configmaps"), "kube-system", authentication).await?;
    roles(server).await?;
    flows(server).await?;
    own_service(server).await
}

/// The roles and bindings that every cluster has. All at once: the store groups them into few commits.
async fn roles(server: &Arc<ApiServer>) -> Result<(), Status> {
    let all =
        policy::objects().into_iter().map(|policy::Default { resource, namespace, object, .. }| async move {
            let group = "rbac.authorization.k8s.io";
            let name = api::meta::name(&object);
            let cached = server.cache.kind(&format!("{resource}.{group}"));
            match cached.get(&crate::rest::key(namespace, name)) {
                Some(present) if !lacks(&present.value(), &object) => Ok(()),
                _ => ensure(server, (group, resource), namespace, object).await,
            }
        });
    futures::future::try_join_all(all).await.map(drop)
}

/// The flow schemas and priority levels that every cluster has. Those that somebody has taken over stay as they
/// are.
async fn flows(server: &Arc<ApiServer>) -> Result<(), Status> {
    let all = crate::flow::default_objects().into_iter().map(|(resource, object)| async move {
        let group = "flowcontrol.apiserver.k8s.io";
        let cached = server.cache.kind(&format!("{resource}.{group}"));
        match cached.get(api::meta::name(&object)).map(|present| present.value()) {
            Some(present)
                if present["spec"] == object["spec"]
                    || present["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] == "false" =>
            {
                Ok(())
            }
            _ => ensure(server, (group, resource), "", object).await,
        }
    });
    futures::future::try_join_all(all).await.map(drop)
}

/// Whether a default object was there before but has lost rules or subjects, and wants to be put back.
fn lacks(present: &Value, wanted: &Value) -> bool {
    if present["metadata"]["annotations"][policy::AUTOUPDATE] == "false" {
        return false;
    }
    ["rules", "subjects"].iter().any(|key| {
        let have = present[*key].as_array().map_or(&[][..], Vec::as_slice);
        wanted[*key].as_array().into_iter().flatten().any(|one| !have.contains(one))
    })
}

/// The service through which pods reach this API, and where it leads.
pub(crate) async fn own_service(server: &Arc<ApiServer>) -> Result<(), Status> {
    let config = &server.config;
    let (address, port) = (config.advertise_address, config.port);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service_address = config.api_service_address().to_string();
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": service_address, "clusterIPs": [service_address],
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    ensure(server, ("", "services"), "default", service).await?;
    if address.is_loopback() {
        // Only a trial on one machine listens there, and no pod could reach it.
        return Ok(());
    }
    let present = crate::masters::present(server).await.map_err(Status::internal)?;
    let addresses: Vec<Value> = present.iter().map(|address| json!({"ip": address.to_string()})).collect();
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": addresses,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    ensure(server, ("", "endpoints"), "default", endpoints).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": present
            .iter()
            .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
            .collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(server, ("discovery.k8s.io", "endpointslices"), "default", slice).await
}

/// Creates an object, or gives an existing one the parts that `object` names.
pub(crate) async fn ensure(
    server: &Arc<ApiServer>,
    (group, plural): (&str, &str),
    namespace: &str,
    mut object: Value,
) -> Result<(), Status> {
    let target = Target {
        group: group.into(),
        version: "v1".into(),
        namespace: namespace.into(),
        resource: plural.into(),
        name: api::meta::name(&object).into(),
        ..Target::default()
    };
    let resource = internal(server, target)?;
    resource.kind.stamp(&mut object);
    let options = WriteOptions::default();
    match resource.create_object(object.clone(), &options).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == Reason::AlreadyExists => {
            let correct = |old: &Value| {
                let mut new = old.clone();
                overlay(&mut new, &object);
                Ok(new)
            };
            resource.modify(api::registry::Part::Main, &options, &correct).await.map(drop)
        }
        Err(status) => Err(status),
    }
}

/// Puts the values of `wanted` into `object`; lists are replaced.
fn overlay(object: &mut Value, wanted: &Value) {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            for (key, value) in wanted {
                overlay(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, wanted) => wanted.clone_into(object),
    }
}

/// Returns a resource for a step that the server takes by itself.
pub(crate) fn internal(server: &Arc<ApiServer>, target: Target) -> Result<Resource, Status> {
    let kind = server.registry.load().resource(&target.group, &target.version, &target.resource).cloned();
    let kind = kind.ok_or_else(Status::no_such_resource)?;
    let cached = kind.storage.as_ref().map(|storage| server.cache.kind(&crate::rest::id(storage)));
    let (parts, ()) = http::Request::new(()).into_parts();
    let call = Arc::new(Call {
        server: server.clone(),
        user: Arc::new(UserInfo::new("system:apiserver", &["system:masters"])),
        info: RequestInfo { verb: "patch".into(), path: String::new(), resource: Some(target.clone()) },
        query: Query::default(),
        parts,
        warnings: parking_lot::Mutex::default(),
        annotations: Arc::default(),
    });
    Ok(Resource { call, kind, target, cached })
}
