//! metrics.k8s.io: what nodes and pods use, computed from the node agents' statistics when it is asked for.

use std::sync::Arc;

use api::registry::{Kind, Registry, Storage};
use api::status::Status;
use futures::StreamExt;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::rest::{ListOptions, Resource};

/// How many node agents are asked at a time.
const AT_ONCE: usize = 32;
const GROUP: &str = "metrics.k8s.io";

/// Returns the kinds of this group. They are like nodes and pods, but computed.
pub(crate) fn kinds(registry: &Registry) -> Vec<Arc<Kind>> {
    [("nodes", "NodeMetrics"), ("pods", "PodMetrics")]
        .into_iter()
        .filter_map(|(plural, name)| {
            let mut kind = Kind::clone(registry.resource("", "v1", plural)?);
            kind.group = GROUP.into();
            kind.version = "v1beta1".into();
            kind.kind = name.into();
            kind.list_kind = format!("{name}List").into();
            kind.singular = "".into();
            kind.short_names.clear();
            kind.categories.clear();
            kind.verbs = vec!["get", "list"];
            kind.subresources.clear();
            kind.storage = None::<Storage>;
            kind.fields.clear();
            kind.table = api::registry::Table::generic();
            kind.definition = None;
            Some(Arc::new(kind))
        })
        .collect()
}

/// Answers a get or list of this group.
pub(crate) async fn serve(resource: &Resource) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(&resource.call.query, false)?;
    let view = resource.view()?;
    let server = &resource.call.server;
    server.cache.current().await?;
    let one = resource.call.info.verb == "get";
    let about_nodes = resource.kind.plural == "nodes";
    let name = if one { Some(resource.target.name.as_str()) } else { options.fields.exact("metadata.name") };
    // The labels that are selected by are those of the nodes and pods themselves.
    let (own, _) = server.cache.kind(&resource.kind.plural).all(resource.namespace());
    let wanted = own.into_iter().filter(|object| {
        name.is_none_or(|name| object.name() == name) && options.labels.matches(&*object.facts)
    });
    let mut items: Vec<Value> = Vec::new();
    if about_nodes {
        let nodes: Vec<Value> = wanted.map(|node| node.value()).collect();
        for (node, summary) in ask(resource, nodes).await {
            items.extend(node_metrics(&node, &summary));
        }
    } else {
        let pods: Map<String, Value> = wanted.map(|pod| (pod.facts.uid.to_string(), pod.value())).collect();
        let on = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
        let mut names: Vec<String> = pods.values().filter_map(on).filter(|node| !node.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let nodes = server.cache.kind("nodes");
        let nodes = names.iter().filter_map(|node| Some(nodes.get(node)?.value())).collect();
        for (_, summary) in ask(resource, nodes).await {
            for stats in summary["pods"].as_array().into_iter().flatten() {
                if let Some(pod) = stats["podRef"]["uid"].as_str().and_then(|uid| pods.get(uid)) {
                    items.extend(pod_metrics(pod, stats));
                }
            }
        }
    }
    items
        .sort_by_cached_key(|item| (api::meta::namespace(item).to_owned(), api::meta::name(item).to_owned()));
    if one {
        let item = items.pop().ok_or_else(|| resource.not_found())?;
        return Ok(view.value(StatusCode::OK, item));
    }
    Ok(view.values(items, json!({})))
}

/// Asks the agents of `nodes` for their statistics. A node that does not answer has none.
async fn ask(resource: &Resource, nodes: Vec<Value>) -> Vec<(Value, Value)> {
    let server = &resource.call.server;
    futures::stream::iter(nodes)
        .map(|node| async move {
            let summary = match server.ask_node(&node, "/stats/summary").await {
                Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
                Err(status) => Err(status.message),
            };
            match summary {
                Ok(summary) => Some((node, summary)),
                Err(error) => {
                    tracing::info!(node = api::meta::name(&node), error, "a node agent gives no statistics");
                    None
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// Returns cpu and memory as quantities, and the time they were measured.
fn usage(stats: &Value) -> Option<(Value, Value)> {
    let cpu = stats["cpu"]["usageNanoCores"].as_u64()?;
    let memory = stats["memory"]["workingSetBytes"].as_u64()?;
    let time = [&stats["cpu"]["time"], &stats["memory"]["time"]].into_iter().find(|time| time.is_string())?;
    Some((json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}), time.clone()))
}

fn metadata(object: &Value) -> Value {
    let mut metadata = json!({"name": api::meta::name(object)});
    for key in ["namespace", "creationTimestamp", "labels"] {
        if let Some(value) = object["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    metadata
}

fn node_metrics(node: &Value, summary: &Value) -> Option<Value> {
    let (usage, time) = usage(&summary["node"])?;
    Some(json!({
        "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata(node),
        "timestamp": time, "window": "10s", "usage": usage,
    }))
}

fn pod_metrics(pod: &Value, stats: &Value) -> Option<Value> {
    let mut latest = None;
    let mut containers = Vec::new();
    for container in stats["containers"].as_array().into_iter().flatten() {
        let (usage, time) = usage(container)?;
        latest = Some(time);
        containers.push(json!({"name": container["name"], "usage": usage}));
    }
    Some(json!({
        "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata(pod),
        "timestamp": latest?, "window": "10s", "containers": containers,
    }))
}
