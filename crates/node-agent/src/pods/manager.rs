//! Which pods this node has: one task for each, fed by the API's watch and the runtime's events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Delta, Informer, Informers, Selection};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use parking_lot::{Mutex, RwLock};
use runtime::{ContainerStatus, SandboxStatus};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::labels;
use super::model::View;
use super::worker::{Message, Worker};
use crate::agent::Agent;
use crate::volumes;

/// The pods of this node. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Pods(Arc<Mutex<Table>>);

/// Written by the manager and by the pods' tasks, never held across an await.
#[derive(Default)]
struct Table {
    by_uid: HashMap<String, Entry>,
    /// Which pod a sandbox belongs to.
    sandboxes: HashMap<String, String>,
    /// Service account tokens by pod, volume and path.
    tokens: HashMap<TokenKey, (String, Timestamp)>,
}

/// Pod UID, volume and path of a service account token.
pub(crate) type TokenKey = (String, String, String);

#[derive(Clone)]
struct Entry {
    sender: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
}

/// What a pod's task shows to others.
#[derive(Default)]
pub(crate) struct Shared(RwLock<Option<Snapshot>>);

/// A pod as its task last saw it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The pod with the newest status.
    pub(crate) pod: Arc<Pod>,
    /// What the runtime has.
    pub(crate) view: Arc<View>,
}

impl Shared {
    /// Shows the pod with `status`.
    pub(super) fn publish(&self, pod: Arc<Pod>, status: PodStatus, view: &View) {
        let mut pod = Arc::unwrap_or_clone(pod);
        pod.status = Some(status);
        *self.0.write() = Some(Snapshot { pod: Arc::new(pod), view: Arc::new(view.clone()) });
    }
}

impl Pods {
    /// Returns every pod of this node.
    pub(crate) fn all(&self) -> Vec<Snapshot> {
        let entries: Vec<Entry> = self.0.lock().by_uid.values().cloned().collect();
        entries.iter().filter_map(|entry| entry.shared.0.read().clone()).collect()
    }

    /// Returns the pod of this name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Snapshot> {
        self.all().into_iter().find(|one| {
            one.pod.metadata.namespace.as_deref() == Some(namespace)
                && one.pod.metadata.name.as_deref() == Some(name)
        })
    }

    /// Notes which pod a sandbox belongs to.
    pub(super) fn claim_sandbox(&self, sandbox: &str, uid: &str) {
        self.0.lock().sandboxes.insert(sandbox.to_owned(), uid.to_owned());
    }

    /// Returns a token that is still good, and when it must be fetched anew.
    pub(crate) fn known_token(&self, key: &TokenKey, now: Timestamp) -> Option<(String, Timestamp)> {
        self.0.lock().tokens.get(key).filter(|(_, until)| now < *until).cloned()
    }

    /// Keeps a token until `until`.
    pub(crate) fn remember_token(&self, key: TokenKey, token: String, until: Timestamp) {
        self.0.lock().tokens.insert(key, (token, until));
    }

    /// Forgets the tokens of a pod.
    pub(super) fn forget_tokens(&self, uid: &str) {
        self.0.lock().tokens.retain(|(of, _, _), _| of != uid);
    }

    fn tell(&self, uid: &str, message: Message) {
        let sender = self.0.lock().by_uid.get(uid).map(|entry| entry.sender.clone());
        if let Some(sender) = sender
            && sender.send(message).is_err()
        {
            tracing::debug!(uid, "the pod's task has ended");
        }
    }

    fn remove(&self, uid: &str) {
        let mut table = self.0.lock();
        table.by_uid.remove(uid);
        table.sandboxes.retain(|_, of| of != uid);
        table.tokens.retain(|(of, _, _), _| of != uid);
    }
}

/// Starts the informer of this node's pods. What it sees is acted on once [`run`] listens.
pub(crate) fn informer(informers: &Informers, node: &str) -> Informer<Pod> {
    let api = Api::<Pod>::all(informers.client());
    informers.start(api, Selection { labels: None, fields: Some(format!("spec.nodeName={node}")) })
}

/// Runs the pods of this node until the agent ends.
///
/// # Errors
/// When the runtime cannot say what it has.
pub(crate) async fn run(agent: Arc<Agent>, informer: Informer<Pod>) -> anyhow::Result<()> {
    let mut events = agent.runtime.events();
    let mut found =
        inventory(&agent.runtime.list_sandboxes().await?, &agent.runtime.list_containers().await?);
    informer.wait_synced().await;
    for orphan in
        found.keys().filter(|uid| !informer.all().iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)))
    {
        let (agent, view) = (agent.clone(), found[orphan].clone());
        let uid = orphan.clone();
        agent.tasks.clone().spawn("orphan", async move { remove_orphan(&agent, &uid, view).await });
    }
    sweep_directories(&agent, &informer, &found);
    let (sender, mut changes) = mpsc::unbounded_channel();
    informer.observe(move |delta| {
        if sender.send(delta.clone()).is_err() {
            tracing::debug!("a change of a pod came after the end");
        }
    });
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => {
                    let uid = agent.pods.0.lock().sandboxes.get(&event.sandbox_id).cloned();
                    if let Some(uid) = uid {
                        agent.pods.tell(&uid, Message::Runtime(event));
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "runtime events were lost; reading all pods anew");
                    let uids: Vec<String> = agent.pods.0.lock().by_uid.keys().cloned().collect();
                    uids.iter().for_each(|uid| agent.pods.tell(uid, Message::Look));
                }
                Err(RecvError::Closed) => anyhow::bail!("the runtime's events have ended"),
            },
            change = changes.recv() => match change {
                Some(delta) => changed(&agent, &delta, &mut found),
                None => anyhow::bail!("the watch of pods has ended"),
            },
        }
    }
}

fn changed(agent: &Arc<Agent>, delta: &Delta<Pod>, found: &mut BTreeMap<String, View>) {
    let uid_of = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    match delta {
        Delta::Deleted(pod) => agent.pods.tell(&uid_of(pod), Message::Gone),
        Delta::Added(pod) => ensure(agent, pod, found),
        Delta::Updated { old, new } => {
            // The same name, another pod: the old one went between two lists.
            if old.metadata.uid != new.metadata.uid {
                agent.pods.tell(&uid_of(old), Message::Gone);
            }
            ensure(agent, new, found);
        }
    }
}

/// Tells the pod's task, or begins it.
fn ensure(agent: &Arc<Agent>, pod: &Arc<Pod>, found: &mut BTreeMap<String, View>) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    if agent.pods.0.lock().by_uid.contains_key(&uid) {
        agent.pods.tell(&uid, Message::Pod(pod.clone()));
        return;
    }
    let (sender, inbox) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let view = found.remove(&uid).unwrap_or_default();
    let worker = Worker::new(agent.clone(), shared.clone(), pod.clone(), view, inbox, sender.clone());
    agent.pods.0.lock().by_uid.insert(uid.clone(), Entry { sender, shared });
    let pods = agent.pods.clone();
    agent.tasks.spawn("pod", async move {
        worker.run().await;
        pods.remove(&uid);
    });
}

/// Sorts what the runtime has by pod.
fn inventory(sandboxes: &[SandboxStatus], containers: &[ContainerStatus]) -> BTreeMap<String, View> {
    let mut found: BTreeMap<String, View> = BTreeMap::new();
    for sandbox in sandboxes {
        let view = found.entry(sandbox.config.uid.clone()).or_default();
        if view.sandbox.as_ref().is_none_or(|known| known.created_at < sandbox.created_at) {
            view.sandbox = Some(sandbox.clone());
        }
    }
    for container in containers {
        if let Some(uid) = container.labels.get(labels::POD_UID) {
            found.entry(uid.clone()).or_default().containers.push(container.clone());
        }
    }
    found
}

/// Removes what is left of a pod that the API does not know.
async fn remove_orphan(agent: &Agent, uid: &str, view: View) {
    tracing::info!(uid, "removing a pod that the API does not know");
    for container in &view.containers {
        if let Err(error) = agent.runtime.remove_container(&container.id).await {
            tracing::warn!(uid, id = container.id, %error, "removing an orphaned container");
        }
    }
    if let Some(sandbox) = &view.sandbox
        && let Err(error) = agent.runtime.remove_sandbox(&sandbox.id).await
    {
        tracing::warn!(uid, id = sandbox.id, %error, "removing an orphaned sandbox");
    }
    if let Err(error) = volumes::teardown(agent.pod_directory(uid)).await {
        tracing::warn!(uid, %error, "removing the volumes of an orphaned pod");
    }
}

/// Removes the directories of pods that neither the API nor the runtime knows.
fn sweep_directories(agent: &Arc<Agent>, informer: &Informer<Pod>, found: &BTreeMap<String, View>) {
    let directory = agent.config.data_directory.join("pods");
    let Ok(entries) = std::fs::read_dir(&directory) else { return };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        let known = found.contains_key(&uid)
            || informer.all().iter().any(|pod| pod.metadata.uid.as_deref() == Some(&uid));
        if !known {
            agent.tasks.spawn("orphan", async move {
                if let Err(error) = volumes::teardown(entry.path()).await {
                    tracing::warn!(uid, %error, "removing the directory of an orphaned pod");
                }
            });
        }
    }
}
