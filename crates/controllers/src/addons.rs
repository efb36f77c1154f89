//! The cluster's own services: DNS, which every node agent answers itself, and the metrics of nodes and pods,
//! which the API server serves.

use std::sync::Arc;

use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::frame::{Context, Next, Result, code};

const NAMESPACE: &str = "kube-system";
const DNS: &str = "kube-dns";
const METRICS: &str = "metrics-server";

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes: context.informers.of(),
        services: context.informers.of(),
        endpoints: context.informers.of(),
    });
    let queue = context.queue();
    queue.add(Key::new(NAMESPACE, DNS));
    queue.add(Key::new(NAMESPACE, METRICS));
    let node_queue = queue.clone();
    controller.nodes.observe(move |delta: &Delta<Node>| {
        if delta.old().is_none_or(|old| address(old) != address(delta.object())) {
            node_queue.add(Key::new(NAMESPACE, DNS));
        }
    });
    for service in [DNS, METRICS] {
        let key = Key::new(NAMESPACE, service);
        let (own, own_queue) = (key.clone(), queue.clone());
        controller.services.observe(move |delta| {
            if Key::of(&**delta.object()) == own {
                own_queue.add(own.clone());
            }
        });
        let own_queue = queue.clone();
        controller.endpoints.observe(move |delta| {
            if Key::of(&**delta.object()) == key {
                own_queue.add(key.clone());
            }
        });
    }
    let ready = {
        let controller = controller.clone();
        async move {
            controller.nodes.wait_synced().await;
            controller.services.wait_synced().await;
            controller.endpoints.wait_synced().await;
        }
    };
    context.work("add-ons", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Returns the address of a node that answers, if this one does.
fn address(node: &Node) -> Option<String> {
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    let addresses = status.addresses.as_ref()?;
    let own = addresses.iter().find(|address| address.type_ == "InternalIP")?;
    ready.then(|| own.address.clone())
}

impl Controller {
    fn service(&self, name: &str) -> Value {
        let (spec, shown, labels) = if name == DNS {
            let spec = json!({
                "clusterIP": self.context.config.dns_address,
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
                ],
            });
            (spec, "KubeDNS", json!({ "k8s-app": DNS }))
        } else {
            let spec = json!({ "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 10250 }] });
            (spec, "Metrics-server", json!({ "k8s-app": METRICS }))
        };
        let mut labels = labels;
        labels["kubernetes.io/cluster-service"] = json!("true");
        labels["kubernetes.io/name"] = json!(shown);
        json!({ "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels }, "spec": spec })
    }

    async fn reconcile(&self, key: &Key) -> Result<Next> {
        if self.services.get(key).is_none() {
            let service = serde_json::from_value(self.service(&key.name))
                .map_err(|error| crate::frame::Error::Other(format!("building service {key}: {error}")))?;
            match self.context.api::<Service>(NAMESPACE).create(&PostParams::default(), &service).await {
                Ok(_) => {}
                Err(error) if code(&error) == 409 => {}
                Err(error) => return Err(error.into()),
            }
        }
        if &*key.name == DNS {
            self.write_endpoints(key).await?;
        }
        Ok(Next::Done)
    }

    async fn write_endpoints(&self, key: &Key) -> Result<()> {
        let mut addresses: Vec<Value> = self
            .nodes
            .all()
            .iter()
            .filter_map(|node| Some(json!({ "ip": address(node)?, "nodeName": node.metadata.name })))
            .collect();
        addresses.sort_by_key(|address| address["ip"].as_str().map(str::to_owned));
        let subsets = if addresses.is_empty() {
            Value::Null
        } else {
            json!([{ "addresses": addresses, "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ] }])
        };
        let wanted: Endpoints = serde_json::from_value(json!({
            "metadata": { "name": DNS, "namespace": NAMESPACE, "labels": { "k8s-app": DNS } },
            "subsets": subsets,
        }))
        .map_err(|error| crate::frame::Error::Other(format!("building endpoints {key}: {error}")))?;
        let api = self.context.api::<Endpoints>(NAMESPACE);
        match self.endpoints.get(key) {
            None => match api.create(&PostParams::default(), &wanted).await {
                Ok(_) => Ok(()),
                Err(error) if code(&error) == 409 => Ok(()),
                Err(error) => Err(error.into()),
            },
            Some(current)
                if current.subsets.clone().unwrap_or_default()
                    != wanted.subsets.clone().unwrap_or_default() =>
            {
                let mut new = (*current).clone();
                new.subsets = wanted.subsets;
                Ok(api.replace(DNS, &PostParams::default(), &new).await.map(|_| ())?)
            }
            Some(_) => Ok(()),
        }
    }
}
