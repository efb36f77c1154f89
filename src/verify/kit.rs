//! What the checks are made with: a namespace of their own, pods of the workload, waiting by watches.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{GetParams, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use machinery::clock::SystemClock;
use machinery::names::Random;
use machinery::retry::{self, Attempt, Backoff};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// The port that the workload serves.
pub(super) const PORT: u16 = 8080;
/// How many lines of each kind of evidence are kept.
const EVIDENCE: usize = 12;

/// What every check is given.
pub(super) struct Kit {
    pub(super) client: Client,
    /// The namespace that is made for the checks, and removed at the end.
    pub(super) namespace: String,
    /// The workload's image.
    pub(super) image: String,
    /// The cluster's DNS domain.
    pub(super) domain: String,
    /// This process stands on the host of the nodes, and can reach them itself.
    pub(super) on_host: bool,
    /// How long one check may take.
    pub(super) patience: Duration,
    pub(super) random: Random,
}

impl Kit {
    /// Returns the API of a kind in the namespace of the checks.
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an object in the namespace of the checks from its JSON, without its kind and version.
    pub(super) async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object: K = serde_json::from_value(object).map_err(|error| Error::internal(error.to_string()))?;
        let doing = format!(
            "creating {} {}",
            K::kind(&()).to_lowercase(),
            object.meta().name.as_deref().unwrap_or_default()
        );
        self.api::<K>().create(&PostParams::default(), &object).await.context(doing)
    }

    /// Returns a pod's specification that runs the workload.
    pub(super) fn pod_spec(&self) -> Value {
        json!({
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "web",
                "image": self.image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["workload", "serve", PORT.to_string()],
                "ports": [{ "containerPort": PORT }],
            }],
        })
    }

    /// Watches objects until `look` returns a value; its error is the last state seen.
    pub(super) async fn wait<K, T>(
        &self,
        api: Api<K>,
        labels: &str,
        what: &str,
        mut look: impl FnMut(&BTreeMap<String, K>) -> Result<T, String>,
    ) -> Result<T>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let config = watcher::Config::default().labels(labels);
        let mut seen = BTreeMap::new();
        let mut last = String::from("nothing was seen");
        let watching = async {
            let stream = watcher(api, config);
            futures::pin_mut!(stream);
            let mut listed = false;
            while let Some(event) = stream.next().await {
                match event {
                    Ok(watcher::Event::Init) => seen.clear(),
                    Ok(watcher::Event::InitDone) => listed = true,
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        seen.insert(object.name_any(), object);
                    }
                    Ok(watcher::Event::Delete(object)) => {
                        seen.remove(&object.name_any());
                    }
                    Err(error) => last = error.to_string(),
                }
                if listed {
                    match look(&seen) {
                        Ok(value) => return Some(value),
                        Err(state) => last = state,
                    }
                }
            }
            None
        };
        match tokio::time::timeout(self.patience, watching).await {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Error::user(format!("waiting for {what}")).because("the watch ended")),
            Err(_) => Err(Error::user(format!("waiting for {what}"))
                .because(format!("it did not come within {:?}; last seen: {last}", self.patience))),
        }
    }

    /// Waits until the pods of a selector run, have addresses and are `count`; returns them.
    pub(super) async fn running(&self, labels: &str, count: usize) -> Result<BTreeMap<String, Pod>> {
        let what = format!("{count} running pods with {labels}");
        self.wait(self.api::<Pod>(), labels, &what, |pods| {
            let alive: BTreeMap<String, Pod> = pods
                .iter()
                .filter(|(_, pod)| {
                    pod.metadata.deletion_timestamp.is_none() && address(pod).is_some() && ready(pod)
                })
                .map(|(name, pod)| (name.clone(), pod.clone()))
                .collect();
            if alive.len() == count && pods.len() == count { Ok(alive) } else { Err(describe(pods.values())) }
        })
        .await
    }

    /// Asks the workload in a pod, through the API server's proxy.
    pub(super) async fn ask(&self, pod: &str, what: &str, target: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{PORT}/proxy/{what}", self.namespace);
        let request = kube::core::Request::new(path.trim_end_matches('/'))
            .get(target, &GetParams::default())
            .context("building a request")?;
        let answer = self
            .client
            .request_text(request)
            .await
            .context(format!("asking pod {pod} for {what}/{target}"))?;
        Ok(answer.trim().to_owned())
    }

    /// Tries until `attempt` succeeds: for what no watch can tell, such as packets arriving.
    pub(super) async fn eventually<T>(
        &self,
        what: &str,
        mut attempt: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let backoff =
            Backoff { first: Duration::from_millis(5), most: Duration::from_millis(250), ..Backoff::QUICK };
        retry::until::<T, String, _>(what, self.patience, backoff, &SystemClock, &self.random, async || {
            match attempt().await {
                Ok(value) => Attempt::Done(value),
                Err(error) => Attempt::Again(error.line()),
            }
        })
        .await
        .map_err(Error::from)
    }

    /// Returns what pods and events of the namespace say, for the report of a failure.
    pub(super) async fn evidence(&self) -> String {
        let mut lines = Vec::new();
        match self.api::<Pod>().list(&ListParams::default()).await {
            Ok(pods) => {
                lines.extend(pods.items.iter().take(EVIDENCE).map(|pod| format!("pod {}", state(pod))));
            }
            Err(error) => lines.push(format!("pods cannot be listed: {error}")),
        }
        match self.api::<Event>().list(&ListParams::default()).await {
            Ok(events) => {
                let skipped = events.items.len().saturating_sub(EVIDENCE);
                lines.extend(events.items.iter().skip(skipped).map(|event| {
                    format!(
                        "event {} {}: {}",
                        event.involved_object.name.as_deref().unwrap_or_default(),
                        event.reason.as_deref().unwrap_or_default(),
                        event.message.as_deref().unwrap_or_default()
                    )
                }));
            }
            Err(error) => lines.push(format!("events cannot be listed: {error}")),
        }
        lines.join("\n")
    }
}

/// Returns a pod's address, once it has one.
pub(super) fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|address| !address.is_empty())
}

/// Returns whether a pod is Ready.
pub(super) fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Returns pods and their states in one line.
pub(super) fn describe<'a>(pods: impl Iterator<Item = &'a Pod>) -> String {
    let all: Vec<String> = pods.map(state).collect();
    if all.is_empty() { "no pods".into() } else { all.join("; ") }
}

fn state(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("no phase");
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("no node");
    let mut text = format!("{} {phase} on {node}", pod.name_any());
    if pod.metadata.deletion_timestamp.is_some() {
        text.push_str(", being deleted");
    }
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    for container in containers.into_iter().flatten() {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(waiting) = waiting {
            let reason = waiting.reason.as_deref().unwrap_or("waiting");
            text.push_str(&format!(
                ", {}: {reason} {}",
                container.name,
                waiting.message.as_deref().unwrap_or_default()
            ));
        }
        if let Some(ended) = ended {
            text.push_str(&format!(", {} ended with {}", container.name, ended.exit_code));
        }
    }
    let conditions = status.and_then(|status| status.conditions.as_ref());
    for condition in conditions.into_iter().flatten() {
        if condition.status == "False"
            && let Some(message) = condition.message.as_deref().filter(|message| !message.is_empty())
        {
            text.push_str(&format!(", {message}"));
        }
    }
    text
}
