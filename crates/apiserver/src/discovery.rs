//! Discovery: which groups, versions and resources there are, in the old and the aggregated form.

use std::sync::Arc;

use api::registry::{Group, Kind, Registry, Scope, Subresource};
use api::status::Status;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::aggregate::Service;
use crate::body::Body;
use crate::negotiate::{self, Offer};
use crate::respond;
use crate::server::Call;

/// Answers `/api`, `/apis` and what is below them without being a resource.
pub(crate) fn dispatch(call: &Call, segments: &[&str]) -> Result<Response<Body>, Status> {
    let registry = call.server.registry.load();
    let others = call.server.aggregator.services();
    let address = format!("{}:{}", call.server.config.advertise_address, call.server.config.port);
    let value = match segments {
        ["api"] | ["apis"] if aggregated(&call.parts.headers).is_some() => {
            let version = aggregated(&call.parts.headers).unwrap_or("v2");
            return Ok(list_everything(
                (&registry, &others),
                segments == ["api"],
                version,
                &call.parts.headers,
            ));
        }
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        }),
        ["apis"] => {
            let mut groups: Vec<Value> =
                registry.groups().iter().filter(|group| !group.name.is_empty()).map(group_value).collect();
            for service in others.iter() {
                add_group_version(&mut groups, service);
            }
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let own = registry.groups();
            let own = own.iter().filter(|group| group.name == *name && !name.is_empty());
            let mut groups: Vec<Value> = own.map(group_value).collect();
            for service in others.iter().filter(|service| service.group == *name) {
                add_group_version(&mut groups, service);
            }
            let mut value = groups.pop().ok_or_else(Status::no_such_resource)?;
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            value
        }
        ["api", version] => resources(&registry, "", version)?,
        ["apis", group, version] => resources(&registry, group, version)?,
        _ => return Err(Status::no_such_resource()),
    };
    let headers = &call.parts.headers;
    let form = negotiate::choose(headers, Offer::PLAIN)
        .ok_or_else(|| Status::not_acceptable(&negotiate::OFFERED))?;
    Ok(respond::encode(StatusCode::OK, form.format, &value, respond::pretty(&call.query, headers)))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_value(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| json!({"groupVersion": group_version(group.name, version), "version": version}))
        .collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions[0]})
}

/// Adds what another server serves to the groups.
fn add_group_version(groups: &mut Vec<Value>, service: &Service) {
    let (group, version) = (&service.group, &service.version);
    let entry = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    match groups.iter_mut().find(|known| known["name"] == group.as_str()) {
        Some(known) => {
            if let Some(versions) = known["versions"].as_array_mut()
                && !versions.contains(&entry)
            {
                versions.push(entry);
            }
        }
        None => groups.push(json!({"name": group, "versions": [entry], "preferredVersion": entry})),
    }
}

/// Adds what another server serves to the aggregated form.
fn add_aggregated(items: &mut Vec<Value>, service: &Service) {
    let found = service.resources.load();
    let (list, freshness) = match &**found {
        Some(list) => (list, "Current"),
        None => (&Value::Null, "Stale"),
    };
    let mut resources: Vec<Value> = Vec::new();
    let all = list["resources"].as_array().map_or(&[][..], Vec::as_slice);
    for one in all {
        let name = one["name"].as_str().unwrap_or_default();
        let part = |key: &str, default: &str| match one[key].as_str() {
            None | Some("") => default.to_owned(),
            Some(own) => own.to_owned(),
        };
        let kind = json!({"group": part("group", &service.group), "version": part("version", &service.version),
            "kind": one["kind"]});
        match name.split_once('/') {
            None => {
                let scope = if one["namespaced"] == true { "Namespaced" } else { "Cluster" };
                let mut entry = json!({"resource": name, "responseKind": kind, "scope": scope,
                    "singularResource": one["singularName"], "verbs": one["verbs"]});
                for key in ["shortNames", "categories"] {
                    if one[key].is_array() {
                        entry[key] = one[key].clone();
                    }
                }
                resources.push(entry);
            }
            Some((owner, subresource)) => {
                let entry = json!({"subresource": subresource, "responseKind": kind, "verbs": one["verbs"]});
                if let Some(owner) = resources.iter_mut().find(|resource| resource["resource"] == owner) {
                    match owner["subresources"].as_array_mut() {
                        Some(subresources) => subresources.push(entry),
                        None => owner["subresources"] = json!([entry]),
                    }
                }
            }
        }
    }
    let entry = json!({"version": service.version, "resources": resources, "freshness": freshness});
    match items.iter_mut().find(|known| known["metadata"]["name"] == service.group.as_str()) {
        Some(known) => {
            if let Some(versions) = known["versions"].as_array_mut() {
                versions.retain(|known| known["version"] != service.version.as_str());
                versions.push(entry);
            }
        }
        None => items.push(json!({
            "metadata": {"name": service.group, "creationTimestamp": null}, "versions": [entry],
        })),
    }
}

fn resources(registry: &Registry, group: &str, version: &str) -> Result<Value, Status> {
    let mut list = Vec::new();
    for kind in registry.iter().filter(|kind| kind.group == group && kind.version == version) {
        let namespaced = kind.is_namespaced();
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for subresource in &kind.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, subresource.name), "singularName": "",
                "namespaced": namespaced, "kind": subresource.kind, "verbs": subresource.verbs,
            });
            if foreign(kind, subresource) {
                if !subresource.group.is_empty() {
                    entry["group"] = json!(subresource.group);
                }
                entry["version"] = json!(subresource.version);
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(Status::no_such_resource());
    }
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group, version), "resources": list,
    }))
}

fn foreign(kind: &Kind, subresource: &Subresource) -> bool {
    (&subresource.group, &subresource.version) != (&kind.group, &kind.version)
}

/// Returns the version of the aggregated form that the client takes, if any.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let json = matches!(parts.next(), Some("application/json" | "*/*"));
            let parts: Vec<&str> = parts.collect();
            let known = json
                && parts.contains(&"g=apidiscovery.k8s.io")
                && parts.contains(&"as=APIGroupDiscoveryList");
            ["v2", "v2beta1"]
                .into_iter()
                .find(|version| known && parts.contains(&format!("v={version}").as_str()))
        })
}

/// Answers with the aggregated form, or says that the client has it already.
fn list_everything(
    (registry, others): (&Registry, &[Arc<Service>]),
    core: bool,
    version: &str,
    headers: &HeaderMap,
) -> Response<Body> {
    let mut items: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = registry
                        .iter()
                        .filter(|kind| kind.group == group.name && kind.version == **version)
                        .map(|kind| aggregated_resource(kind))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.name.is_empty() {
                metadata["name"] = json!(group.name);
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    for service in others.iter().filter(|_| !core) {
        add_aggregated(&mut items, service);
    }
    let value = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    });
    let text = value.to_string();
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02X}")).collect();
    let etag = format!("\"{hash}\"");
    let known =
        headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|value| value == etag);
    let mut response = Response::new(if known { Body::empty() } else { Body::from(text) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    for (name, text) in [(CONTENT_TYPE, content_type.as_str()), (ETAG, &etag), (VARY, "Accept")] {
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        resource["subresources"] = kind
            .subresources
            .iter()
            .map(|subresource| {
                json!({
                    "subresource": subresource.name,
                    "responseKind": {
                        "group": subresource.group, "version": subresource.version, "kind": subresource.kind,
                    },
                    "verbs": subresource.verbs,
                })
            })
            .collect();
    }
    resource
}
