//! This node in the API: its registration, its status and its lease.

mod machine;
mod object;

use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::{self, Attempt, Backoff};
use tokio::sync::{Notify, watch};

pub(crate) use machine::{Machine, VERSION, meminfo};
pub(crate) use object::Health;

use crate::agent::Agent;
use crate::config::Config;

/// How often the lease is renewed and the status compared.
const TICK: Duration = Duration::from_secs(10);
/// How long a lease is good, seconds.
const LEASE_SECONDS: i32 = 40;
/// How often a status is sent that has not changed.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// How the API is tried at the start: it comes up beside this agent, and everything waits for this node.
const REGISTER: Backoff =
    Backoff { first: Duration::from_millis(10), most: Duration::from_millis(100), factor: 1.3, jitter: 0.2 };
/// How long the first status waits for the network: it should say "ready" at once.
const FIRST_STATUS: Duration = Duration::from_secs(1);
/// How long the API may be away at the start.
const REGISTRATION: Duration = Duration::from_secs(24 * 3600);
/// The most images that the status names.
const MOST_IMAGES: usize = 50;

/// Why the node is not ready before its network is there.
pub(crate) const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:the node has no podCIDR yet";

/// Creates the node in the API, or brings the one that is there in line; returns it.
///
/// # Errors
/// When the API refuses it for good.
pub(crate) async fn register(
    client: &kube::Client,
    config: &Config,
    machine: &Machine,
    runtime: &str,
    clock: &SharedClock,
    random: &Random,
) -> anyhow::Result<Node> {
    let api = Api::<Node>::all(client.clone());
    let health = Health { not_ready: Some(NO_NETWORK.into()), ..Health::default() };
    let registered = retry::until(
        "the API to take this node",
        REGISTRATION,
        REGISTER,
        clock.as_ref(),
        random,
        async || {
            let status = object::status(config, machine, runtime, &health, Vec::new(), None, clock.now());
            match api.create(&PostParams::default(), &object::node(config, status)).await {
                Ok(node) => Attempt::Done(node),
                Err(kube::Error::Api(status)) if status.code == 409 => match reconcile(&api, config).await {
                    Ok(node) => Attempt::Done(node),
                    Err(error) => Attempt::Again(error.to_string()),
                },
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                    Attempt::<_, String>::Fatal(status.message.clone())
                }
                Err(kube::Error::Api(status)) => {
                    tracing::warn!(reason = status.message, "registering the node; trying again");
                    Attempt::Again(status.message.clone())
                }
                Err(error) => {
                    tracing::debug!(%error, "registering the node; trying again");
                    Attempt::Again(error.to_string())
                }
            }
        },
    )
    .await?;
    Ok(registered)
}

/// Sets the labels of a node that is there. Whether it takes pods is left to whoever cordoned it.
async fn reconcile(api: &Api<Node>, config: &Config) -> kube::Result<Node> {
    let patch = serde_json::json!({ "metadata": { "labels": object::labels(config) } });
    api.patch(&config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// Returns the runtime's name and version as the node's status shows it.
pub(crate) async fn runtime_version(runtime: &dyn runtime::Runtime) -> anyhow::Result<String> {
    let (name, version) = runtime.version().await?;
    Ok(format!("{name}://{version}"))
}

/// Keeps the node's status current until the agent ends. `health` is sent as soon as it changes, and what the API
/// says otherwise in `nodes` is corrected: a node whose lease was late is marked as unknown there.
pub(crate) async fn keep_status(
    agent: Arc<Agent>,
    registered: Node,
    runtime: String,
    nodes: Informer<Node>,
    mut health: watch::Receiver<Health>,
) {
    let api = Api::<Node>::all(agent.client.clone());
    let doubt = Arc::new(Notify::new());
    let (bell, own) = (doubt.clone(), agent.config.node_name.clone());
    nodes.observe(move |delta| {
        if delta.object().metadata.name.as_ref() == Some(&own) {
            bell.notify_one();
        }
    });
    let mut known = registered.status.unwrap_or_default();
    let mut sent_at = None;
    let mut failures = 0;
    tokio::select! {
        () = agent.clock.after(FIRST_STATUS) => {}
        changed = health.changed() => if changed.is_err() { return },
    }
    loop {
        let now = agent.clock.now();
        let images = match agent.runtime.list_images().await {
            Ok(images) => listed(images),
            Err(error) => {
                tracing::warn!(%error, "listing images for the node's status");
                known.images.clone().unwrap_or_default()
            }
        };
        let current = health.borrow_and_update().clone();
        let node = nodes.find("", &agent.config.node_name);
        if let Some(told) = node.and_then(|node| node.status.clone())
            && object::readiness(&told) != object::readiness(&known)
        {
            known = told;
        }
        let wanted =
            object::status(&agent.config, &agent.machine, &runtime, &current, images, Some(&known), now);
        let stale =
            sent_at.is_none_or(|at: jiff::Timestamp| now.duration_since(at).unsigned_abs() >= HEARTBEAT);
        let mut wait = TICK;
        if stale || !object::same(&known, &wanted) {
            match send(&api, &agent.config.node_name, &wanted).await {
                Ok(_) => {
                    failures = 0;
                    sent_at = Some(now);
                    known = wanted;
                }
                Err(error) => {
                    tracing::warn!(%error, "sending the node's status");
                    wait = Backoff::PATIENT.delay(failures, &agent.random).min(TICK);
                    failures += 1;
                }
            }
        }
        tokio::select! {
            () = agent.clock.after(wait) => {}
            () = doubt.notified() => {}
            changed = health.changed() => if changed.is_err() { return },
        }
    }
}

async fn send(api: &Api<Node>, name: &str, status: &NodeStatus) -> kube::Result<Node> {
    let patch = serde_json::json!({ "status": status });
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

fn listed(mut images: Vec<runtime::Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images
        .into_iter()
        .take(MOST_IMAGES)
        .map(|image| ContainerImage {
            names: Some(image.digests.into_iter().chain(image.tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// Renews the node's lease until the agent ends.
pub(crate) async fn keep_lease(agent: Arc<Agent>, node: Node) {
    let api = Api::<Lease>::namespaced(agent.client.clone(), "kube-node-lease");
    let name = agent.config.node_name.clone();
    let mut known: Option<Lease> = None;
    let mut failures = 0;
    loop {
        let renewed = MicroTime(agent.clock.now());
        let outcome = match &known {
            Some(lease) => {
                let mut lease = lease.clone();
                if let Some(spec) = &mut lease.spec {
                    spec.renew_time = Some(renewed);
                }
                api.replace(&name, &PostParams::default(), &lease).await
            }
            None => take_lease(&api, &name, &node, renewed).await,
        };
        let wait = match outcome {
            Ok(lease) => {
                known = Some(lease);
                failures = 0;
                TICK
            }
            Err(error) => {
                tracing::debug!(%error, "renewing the node's lease");
                known = None;
                failures += 1;
                Backoff::PATIENT.delay(failures - 1, &agent.random).min(TICK)
            }
        };
        agent.clock.after(wait).await;
    }
}

async fn take_lease(api: &Api<Lease>, name: &str, node: &Node, renewed: MicroTime) -> kube::Result<Lease> {
    if let Some(mut lease) = api.get_opt(name).await? {
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(renewed),
            ..lease.spec.unwrap_or_default()
        });
        return api.replace(name, &PostParams::default(), &lease).await;
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(renewed),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await
}
