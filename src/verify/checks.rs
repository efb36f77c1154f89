//! The checks, each a function that says what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ReplicationController, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::kit::{Kit, PORT, address, describe};
use super::workload;
use crate::error::{Context, Error, Result};

/// The port of the services, another one than the pods'.
const SERVICE_PORT: u16 = 8000;
/// How often a service is asked until each of its pods has answered. With two pods and fair odds, one is
/// missed once in 2^40 runs.
const ROUNDS: usize = 40;
/// How long the host waits for one answer.
const HOST_PATIENCE: Duration = Duration::from_secs(2);

/// Every node is Ready.
pub(super) async fn nodes(kit: &Kit) -> Result<String> {
    let nodes: Api<Node> = Api::all(kit.client.clone());
    kit.wait(nodes, "", "all nodes to be Ready", |nodes| {
        let states: Vec<String> =
            nodes.iter().map(|(name, node)| format!("{name} {}", crate::commands::readiness(node))).collect();
        if !nodes.is_empty() && states.iter().all(|state| state.ends_with(" Ready")) {
            Ok(format!("{} of {} Ready", nodes.len(), nodes.len()))
        } else {
            Err(if states.is_empty() { "no nodes".into() } else { states.join("; ") })
        }
    })
    .await
}

/// A namespace can be made, and gets its service account.
pub(super) async fn namespace(kit: &Kit) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(kit.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": kit.namespace,
        "labels": { "app.kubernetes.io/managed-by": "cluster-verify" } } }))
    .context("describing the namespace")?;
    namespaces.create(&PostParams::default(), &namespace).await.context("creating the namespace")?;
    kit.wait(kit.api::<ServiceAccount>(), "", "the service account default", |accounts| {
        if accounts.contains_key("default") { Ok(()) } else { Err("it is not there".into()) }
    })
    .await?;
    Ok(format!("{} with its service account", kit.namespace))
}

/// Pods run, have addresses and logs, and two cannot have one name.
pub(super) async fn pods(kit: &Kit) -> Result<String> {
    for tier in ["one", "two"] {
        kit.create::<Pod>(single(kit, tier)).await?;
    }
    let pods = kit.running("app=single", 2).await?;
    let mut seen = Vec::new();
    for (name, pod) in &pods {
        let said = kit
            .eventually(&format!("pod {name} to answer"), async || kit.ask(name, "", "hostname").await)
            .await?;
        if said != *name {
            return Err(Error::user(format!("pod {name} has the host name {said}")));
        }
        seen.push(format!("{name} {}", address(pod).unwrap_or_default()));
    }
    let log =
        kit.api::<Pod>().logs("one", &LogParams::default()).await.context("reading the log of pod one")?;
    if !log.contains("serves port") {
        return Err(
            Error::user("the log of pod one lacks what the pod wrote").because(format!("it has: {log:?}"))
        );
    }
    let twice: Pod = serde_json::from_value(single(kit, "one")).context("describing a pod")?;
    match kit.api::<Pod>().create(&PostParams::default(), &twice).await {
        Err(kube::Error::Api(status))
            if status.code == 409 && status.message == "pods \"one\" already exists" => {}
        Err(error) => {
            return Err(Error::user("a second pod of one name is refused in the wrong words")
                .because(error.to_string()));
        }
        Ok(_) => return Err(Error::user("a second pod of one name was taken")),
    }
    Ok(seen.join(", "))
}

fn single(kit: &Kit, tier: &str) -> serde_json::Value {
    json!({ "metadata": { "name": tier, "labels": { "app": "single", "tier": tier } }, "spec": kit.pod_spec() })
}

/// Selectors select.
pub(super) async fn labels(kit: &Kit) -> Result<String> {
    for (selector, expected) in [
        ("tier=one", vec!["one"]),
        ("app=single,tier!=one", vec!["two"]),
        ("tier in (one, two)", vec!["one", "two"]),
        ("tier notin (one)", vec!["two"]),
        ("nothing", vec![]),
    ] {
        let found = kit
            .api::<Pod>()
            .list(&ListParams::default().labels(selector))
            .await
            .context(format!("listing pods with {selector}"))?;
        let names: BTreeSet<String> = found.items.iter().map(ResourceExt::name_any).collect();
        let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
        if names != expected {
            return Err(Error::user(format!("{selector:?} selects {names:?}, not {expected:?}")));
        }
    }
    Ok("5 selectors".into())
}

/// A replication controller adopts a pod that has its label, makes the missing one, and takes both along.
pub(super) async fn replication(kit: &Kit) -> Result<String> {
    let labels = json!({ "app": "adopted" });
    kit.create::<Pod>(json!({ "metadata": { "name": "orphan", "labels": labels }, "spec": kit.pod_spec() }))
        .await?;
    kit.running("app=adopted", 1).await?;
    let controller: ReplicationController = kit
        .create(json!({ "metadata": { "name": "adopter" }, "spec": { "replicas": 2, "selector": labels,
            "template": { "metadata": { "labels": labels }, "spec": kit.pod_spec() } } }))
        .await?;
    let pods = kit.running("app=adopted", 2).await?;
    let owner = controller.uid();
    for (name, pod) in &pods {
        let owned = pod.owner_references().iter().any(|reference| Some(&reference.uid) == owner.as_ref());
        if !owned {
            return Err(Error::user(format!("pod {name} was not adopted by the replication controller")));
        }
    }
    if !pods.contains_key("orphan") {
        return Err(
            Error::user("the pod that was there was replaced, not adopted").because(describe(pods.values()))
        );
    }
    kit.api::<ReplicationController>()
        .delete("adopter", &DeleteParams::background())
        .await
        .context("deleting the replication controller")?;
    kit.wait(kit.api::<Pod>(), "app=adopted", "its pods to go with the replication controller", |pods| {
        if pods.is_empty() { Ok(()) } else { Err(describe(pods.values())) }
    })
    .await?;
    Ok("adopted 1 pod, made 1, took both along".into())
}

/// Makes the web pods behind the services that are there before them.
async fn service(kit: &Kit, name: &str, mut spec: serde_json::Value) -> Result<Service> {
    spec["selector"] = json!({ "app": "web" });
    spec["ports"] = json!([{ "port": SERVICE_PORT, "targetPort": PORT, "protocol": "TCP" }]);
    kit.create::<Service>(json!({ "metadata": { "name": name }, "spec": spec })).await
}

/// A service that is there before its pods finds them, and spreads requests over them.
pub(super) async fn cluster_ip(kit: &Kit) -> Result<String> {
    let service = service(kit, "web", json!({})).await?;
    let labels = json!({ "app": "web" });
    kit.create::<ReplicationController>(json!({ "metadata": { "name": "web" }, "spec": { "replicas": 2,
        "selector": labels, "template": { "metadata": { "labels": labels }, "spec": kit.pod_spec() } } }))
        .await?;
    let pods = kit.running("app=web", 2).await?;
    let expected: BTreeSet<String> =
        pods.values().filter_map(|pod| address(pod).map(str::to_owned)).collect();
    kit.wait(
        kit.api::<EndpointSlice>(),
        "kubernetes.io/service-name=web",
        "endpoints equal to the pods' addresses",
        |slices| {
            let found: BTreeSet<String> = slices
                .values()
                .flat_map(|slice| slice.endpoints.iter().flatten())
                .filter(|endpoint| {
                    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
                })
                .flat_map(|endpoint| endpoint.addresses.clone())
                .collect();
            if found == expected { Ok(()) } else { Err(format!("endpoints {found:?}, pods {expected:?}")) }
        },
    )
    .await?;
    let address = cluster_address(&service)?;
    let target = format!("{address}:{SERVICE_PORT}");
    let names: BTreeSet<String> = pods.keys().cloned().collect();
    everyone_answers(kit, &names, &target, async || kit.ask("one", "fetch", &target).await).await?;
    Ok(format!("{target} reaches {} pods", names.len()))
}

fn cluster_address(service: &Service) -> Result<String> {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    address
        .filter(|address| !address.is_empty())
        .context(format!("service {} has no address", service.name_any()))
}

/// Asks until every pod has answered.
async fn everyone_answers(
    kit: &Kit,
    names: &BTreeSet<String>,
    target: &str,
    mut ask: impl AsyncFnMut() -> Result<String>,
) -> Result<()> {
    let mut answered = BTreeSet::new();
    for _ in 0..ROUNDS {
        let name = kit.eventually(&format!("an answer from {target}"), &mut ask).await?;
        if !names.contains(&name) {
            return Err(Error::user(format!(
                "{target} was answered by {name:?}, which is none of {names:?}"
            )));
        }
        answered.insert(name);
        if answered == *names {
            return Ok(());
        }
    }
    Err(Error::user(format!("of {names:?} only {answered:?} answered in {ROUNDS} requests to {target}")))
}

async fn web_pods(kit: &Kit) -> Result<BTreeSet<String>> {
    Ok(kit.running("app=web", 2).await?.into_keys().collect())
}

/// A node port answers on every node, from a pod and, where it stands beside the nodes, from the host.
pub(super) async fn node_port(kit: &Kit) -> Result<String> {
    let service = service(kit, "ported", json!({ "type": "NodePort" })).await?;
    let port = node_port_of(&service)?;
    let names = web_pods(kit).await?;
    let mut asked = 0;
    for node in node_addresses(kit).await? {
        let target = format!("{node}:{port}");
        everyone_answers(kit, &names, &target, async || kit.ask("one", "fetch", &target).await).await?;
        if kit.on_host {
            from_host(kit, &names, &target).await?;
        }
        asked += 1;
    }
    let who = if kit.on_host { "from a pod and the host" } else { "from a pod" };
    Ok(format!("port {port} of {asked} nodes, {who}"))
}

fn node_port_of(service: &Service) -> Result<i32> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let port = ports.into_iter().flatten().find_map(|port| port.node_port).filter(|port| *port > 0);
    port.context(format!("service {} has no node port", service.name_any()))
}

async fn node_addresses(kit: &Kit) -> Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(kit.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.context("listing nodes")?;
    Ok(nodes.items.iter().filter_map(internal_address).collect())
}

fn internal_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|address| address.type_ == "InternalIP").map(|address| address.address.clone())
}

async fn from_host(kit: &Kit, names: &BTreeSet<String>, target: &str) -> Result<()> {
    let address: SocketAddr = target.parse().context(format!("reading the address {target}"))?;
    everyone_answers(kit, names, target, async || {
        tokio::task::spawn_blocking(move || workload::get(address, HOST_PATIENCE))
            .await
            .context("asking from the host")?
    })
    .await
    .context("from the host")
}

/// A load balancer gets an address that answers. Where nothing hands addresses out, that is said.
pub(super) async fn load_balancer(kit: &Kit) -> Result<String> {
    service(kit, "balanced", json!({ "type": "LoadBalancer" })).await?;
    let waited = kit
        .wait(kit.api::<Service>(), "", "an address for the load balancer", |services| {
            let status = services.get("balanced").and_then(|service| service.status.as_ref());
            let ingress = status
                .and_then(|status| status.load_balancer.as_ref())
                .and_then(|balancer| balancer.ingress.as_ref());
            ingress
                .into_iter()
                .flatten()
                .find_map(|ingress| ingress.ip.clone())
                .ok_or_else(|| "none yet".into())
        })
        .await;
    let address = match waited {
        Ok(address) => address,
        Err(error) if kit.on_host => return Err(error),
        Err(_) => return Ok("not checked: this cluster hands out no addresses".into()),
    };
    let target = format!("{address}:{SERVICE_PORT}");
    let names = web_pods(kit).await?;
    everyone_answers(kit, &names, &target, async || kit.ask("one", "fetch", &target).await).await?;
    if kit.on_host {
        from_host(kit, &names, &target).await?;
    }
    Ok(format!("{target} reaches {} pods", names.len()))
}

/// Names of services resolve, short and full, and a headless one gives its pods.
pub(super) async fn dns(kit: &Kit) -> Result<String> {
    let headless = service(kit, "headless", json!({ "clusterIP": "None" })).await?;
    let web = kit.api::<Service>().get("web").await.context("reading service web")?;
    let web = BTreeSet::from([cluster_address(&web)?]);
    let default: Api<Service> = Api::namespaced(kit.client.clone(), "default");
    let kubernetes = default.get("kubernetes").await.context("reading service kubernetes")?;
    let kubernetes = BTreeSet::from([cluster_address(&kubernetes)?]);
    let pods: BTreeSet<String> =
        kit.running("app=web", 2).await?.values().filter_map(|pod| address(pod).map(str::to_owned)).collect();
    let Kit { namespace, domain, .. } = kit;
    let names = [
        ("web".to_owned(), &web),
        (format!("web.{namespace}"), &web),
        (format!("web.{namespace}.svc"), &web),
        (format!("web.{namespace}.svc.{domain}"), &web),
        ("kubernetes.default".to_owned(), &kubernetes),
        (headless.name_any(), &pods),
    ];
    for (name, expected) in &names {
        kit.eventually(&format!("{name} to resolve"), async || {
            let answer = kit.ask("one", "resolve", name).await?;
            let found: BTreeSet<String> = answer.lines().map(|line| line.trim().to_owned()).collect();
            if found == **expected {
                Ok(())
            } else {
                Err(Error::user(format!("it gives {found:?}, not {expected:?}")))
            }
        })
        .await?;
    }
    let target = format!("web:{SERVICE_PORT}");
    kit.eventually("a service to answer by its name", async || kit.ask("one", "fetch", &target).await)
        .await?;
    Ok(format!("{} names", names.len()))
}

/// A deployment rolls out, scales, and replaces its pods when its template changes.
pub(super) async fn deployments(kit: &Kit) -> Result<String> {
    let labels = json!({ "app": "rolled" });
    kit.create::<Deployment>(json!({ "metadata": { "name": "rolled" }, "spec": { "replicas": 2,
        "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels }, "spec": kit.pod_spec() } } }))
        .await?;
    let before: BTreeSet<String> = rolled_out(kit, 2).await?;
    let scale = json!({ "spec": { "replicas": 3 } });
    let deployments = kit.api::<Deployment>();
    deployments
        .patch_scale("rolled", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .context("scaling the deployment")?;
    let scaled = rolled_out(kit, 3).await?;
    if !scaled.is_superset(&before) {
        return Err(Error::user("scaling replaced pods").because(format!("{before:?} became {scaled:?}")));
    }
    let change = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web",
        "env": [{ "name": "REVISION", "value": "2" }] }] } } } });
    deployments
        .patch("rolled", &PatchParams::default(), &Patch::Strategic(&change))
        .await
        .context("changing the deployment")?;
    let rolled = rolled_out(kit, 3).await?;
    if !rolled.is_disjoint(&scaled) {
        return Err(Error::user("a pod of the old template is still there")
            .because(format!("{scaled:?} became {rolled:?}")));
    }
    let sets = kit
        .api::<ReplicaSet>()
        .list(&ListParams::default().labels("app=rolled"))
        .await
        .context("listing replica sets")?;
    if sets.items.len() != 2 {
        return Err(Error::user(format!("{} replica sets for 2 revisions", sets.items.len())));
    }
    deployments.delete("rolled", &DeleteParams::background()).await.context("deleting the deployment")?;
    Ok("rolled out, scaled to 3, rolled to a second revision".into())
}

/// Waits until a deployment is rolled out as `kubectl rollout status` sees it; returns its pods' names.
async fn rolled_out(kit: &Kit, replicas: i32) -> Result<BTreeSet<String>> {
    let what = format!("the deployment to be rolled out with {replicas} pods");
    kit.wait(kit.api::<Deployment>(), "", &what, |deployments| {
        let Some(deployment) = deployments.get("rolled") else { return Err("it is not there".into()) };
        let status = deployment.status.clone().unwrap_or_default();
        let seen = status.observed_generation == deployment.metadata.generation;
        let counts = [status.replicas, status.updated_replicas, status.available_replicas]
            .map(Option::unwrap_or_default);
        if seen && counts == [replicas; 3] {
            Ok(())
        } else {
            Err(format!("replicas, updated, available: {counts:?}; seen by its controller: {seen}"))
        }
    })
    .await?;
    let count = usize::try_from(replicas).unwrap_or_default();
    Ok(kit.running("app=rolled", count).await?.into_keys().collect())
}

/// A pod on every node reaches a pod on every other one.
pub(super) async fn across_nodes(kit: &Kit) -> Result<String> {
    let nodes: Api<Node> = Api::all(kit.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.context("listing nodes")?;
    for (index, node) in nodes.items.iter().enumerate() {
        let mut spec = kit.pod_spec();
        spec["nodeName"] = json!(node.name_any());
        spec["tolerations"] = json!([{ "operator": "Exists" }]);
        kit.create::<Pod>(json!({ "metadata": { "name": format!("on-{index}"), "labels": { "app": "spread" } }, "spec": spec }))
            .await?;
    }
    let pods = kit.running("app=spread", nodes.items.len()).await?;
    let mut pairs = 0;
    for from in pods.keys() {
        for (to, pod) in &pods {
            let target = format!("{}:{PORT}", address(pod).unwrap_or_default());
            let answer = kit
                .eventually(&format!("{from} to reach {to} at {target}"), async || {
                    kit.ask(from, "fetch", &target).await
                })
                .await?;
            if answer != *to {
                return Err(Error::user(format!(
                    "{from} asked {to} at {target} and was answered by {answer}"
                )));
            }
            pairs += 1;
        }
    }
    Ok(format!("{pairs} pairs on {} nodes", nodes.items.len()))
}

/// The namespace goes, with everything in it.
pub(super) async fn cleanup(kit: &Kit) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(kit.client.clone());
    match namespaces.delete(&kit.namespace, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok("nothing was made".into()),
        Err(error) => return Err(Error::from(error).within("deleting the namespace")),
    }
    kit.wait(namespaces, "", "the namespace to be gone", |namespaces: &BTreeMap<String, Namespace>| {
        match namespaces.get(&kit.namespace) {
            None => Ok(()),
            Some(namespace) => {
                let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
                let messages: Vec<String> = conditions
                    .into_iter()
                    .flatten()
                    .filter_map(|condition| condition.message.clone())
                    .collect();
                Err(format!("it is still there: {}", messages.join("; ")))
            }
        }
    })
    .await?;
    Ok(format!("{} is gone", kit.namespace))
}
