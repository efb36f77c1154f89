//! The scheduling task: takes in what changes, decides pod by pod, and lets others write the bindings.

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Informers, Key, Recorder};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodCondition, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Status;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::cluster::Cluster;
use crate::decide::{Decision, decide};
use crate::pending::Pending;
use crate::pod::PodInfo;
use crate::preempt::Preemption;

/// The scheduler that pods name when they name none.
const NAME: &str = "default-scheduler";
/// How many bindings are written at a time.
const CONCURRENT_WRITES: usize = 128;

/// Starts the scheduler in `tasks`. `client` carries its identity; `informers` may be shared with others.
pub fn run(client: kube::Client, informers: &Informers, clock: SharedClock, random: Random, tasks: &Tasks) {
    let recorder = Recorder::start(client.clone(), NAME, None, clock.clone(), tasks);
    let (sender, inputs) = mpsc::unbounded_channel();
    let writer = Writer {
        client,
        recorder,
        clock: clock.clone(),
        slots: Arc::new(Semaphore::new(CONCURRENT_WRITES)),
        tasks: tasks.clone(),
        failed: sender.clone(),
    };
    let pods = informers.of::<Pod>();
    let nodes = informers.of::<Node>();
    forward(&nodes, &sender, Input::Node);
    forward(&informers.of::<Namespace>(), &sender, Input::Namespace);
    forward(&informers.of::<Service>(), &sender, Input::Service);
    forward(&pods, &sender, Input::Pod);
    let scheduler = Scheduler {
        cluster: Cluster::default(),
        pending: Pending::default(),
        pods: pods.clone(),
        writer,
        clock,
        random,
    };
    tasks.spawn("scheduler", async move {
        // Deciding before everything is known would overbook.
        nodes.wait_synced().await;
        pods.wait_synced().await;
        scheduler.work(inputs).await;
    });
}

enum Input {
    Pod(Delta<Pod>),
    Node(Delta<Node>),
    Namespace(Delta<Namespace>),
    Service(Delta<Service>),
    /// A binding was not written.
    Failed(Arc<PodInfo>),
}

fn forward<K: Send + Sync + 'static>(
    informer: &Informer<K>,
    sender: &mpsc::UnboundedSender<Input>,
    wrap: fn(Delta<K>) -> Input,
) {
    let sender = sender.clone();
    informer.observe(move |delta| {
        // A closed channel means that the scheduler is shutting down.
        if sender.send(wrap(delta.clone())).is_err() {
            tracing::trace!("the scheduler has ended");
        }
    });
}

struct Scheduler {
    cluster: Cluster,
    pending: Pending,
    pods: Informer<Pod>,
    writer: Writer,
    clock: SharedClock,
    random: Random,
}

impl Scheduler {
    async fn work(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        loop {
            while let Ok(input) = inputs.try_recv() {
                self.take_in(input);
            }
            let next_due = self.pending.ripen(self.clock.now());
            if let Some(key) = self.pending.pop() {
                self.schedule(&key);
                // Lets the bindings begin while the next pod is decided.
                tokio::task::yield_now().await;
                continue;
            }
            let wait = next_due.map(|due| {
                Duration::try_from(due.duration_since(self.clock.now())).unwrap_or(Duration::ZERO)
            });
            let alarm = async {
                match wait {
                    Some(wait) => self.clock.after(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take_in(input),
                    None => return,
                },
                () = alarm => {}
            }
        }
    }

    fn schedule(&mut self, key: &Key) {
        let Some(pod) = self.pods.get(key).filter(|pod| is_ours(pod)) else {
            self.pending.forget(key);
            return;
        };
        let pod = Arc::new(PodInfo::new(pod));
        if self.cluster.is_placed(&pod.uid) {
            self.pending.forget(key);
            return;
        }
        match decide(&pod, &mut self.cluster, &self.random) {
            Decision::Place(node) => {
                self.cluster.assume(pod.clone(), &node);
                self.pending.forget(key);
                self.writer.bind(pod, node);
            }
            Decision::Wait { message, preemption } => {
                let minds_pods = !pod.required_affinity.is_empty() || !pod.spread.is_empty();
                self.pending.wait(key, minds_pods, self.clock.now());
                self.writer.explain(pod, message, preemption);
            }
        }
    }

    fn take_in(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Pod(delta) => self.take_in_pod(&delta),
            Input::Node(Delta::Deleted(node)) => {
                self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                self.pending.wake(false, now);
            }
            Input::Node(delta) => {
                let matters = delta.old().is_none_or(|old| node_changed(old, delta.object()));
                self.cluster.set_node(delta.object().clone());
                if matters {
                    self.pending.wake(false, now);
                }
            }
            Input::Namespace(Delta::Deleted(namespace)) => {
                self.cluster.remove_namespace(namespace.metadata.name.as_deref().unwrap_or_default());
            }
            Input::Namespace(delta) => self.cluster.set_namespace(delta.object()),
            Input::Service(Delta::Deleted(service)) => self.cluster.remove_service(&service),
            Input::Service(delta) => self.cluster.set_service(delta.object()),
            Input::Failed(pod) => {
                self.cluster.unassume(&pod.uid);
                if !self.cluster.is_placed(&pod.uid)
                    && self.pods.get(&pod.key).is_some_and(|current| is_ours(&current))
                {
                    self.pending.back_off(pod.key.clone(), pod.priority, now);
                }
            }
        }
    }

    fn take_in_pod(&mut self, delta: &Delta<Pod>) {
        let now = self.clock.now();
        let key = Key::of(&**delta.object());
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        if let Some(old) = delta.old()
            && uid(old) != uid(delta.object())
        {
            // Deleted and made again while the watch was away.
            self.cluster.remove_pod(&uid(old));
            self.pending.forget(&key);
        }
        let pod = match delta {
            Delta::Deleted(pod) => {
                self.pending.forget(&key);
                if self.cluster.remove_pod(&uid(pod)) {
                    self.pending.wake(false, now);
                }
                return;
            }
            Delta::Added(pod) | Delta::Updated { new: pod, .. } => pod,
        };
        if is_finished(pod) {
            self.pending.forget(&key);
            if self.cluster.remove_pod(&uid(pod)) {
                self.pending.wake(false, now);
            }
        } else if let Some(node) = node_of(pod) {
            let known = self.cluster.is_placed(&uid(pod));
            self.cluster.place(Arc::new(PodInfo::new(pod.clone())), node);
            self.pending.forget(&key);
            if !known {
                self.pending.wake(true, now);
            }
        } else if !is_ours(pod) {
            self.pending.forget(&key);
        } else if !self.cluster.is_placed(&uid(pod)) {
            let same = delta
                .old()
                .is_some_and(|old| old.spec == pod.spec && old.metadata.labels == pod.metadata.labels);
            if !same {
                let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
                self.pending.add(key, priority);
            }
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Tells whether the pod waits for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_of(pod).is_none()
        && !is_finished(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && matches!(spec.scheduler_name.as_deref(), None | Some("" | NAME))
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

/// Tells whether a node changed in what decides about pods; heartbeats do not.
fn node_changed(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

/// Writes what was decided, beside the scheduling task.
#[derive(Clone)]
struct Writer {
    client: kube::Client,
    recorder: Recorder,
    clock: SharedClock,
    slots: Arc<Semaphore>,
    tasks: Tasks,
    failed: mpsc::UnboundedSender<Input>,
}

impl Writer {
    fn bind(&self, pod: Arc<PodInfo>, node: String) {
        let writer = self.clone();
        self.tasks.spawn("bind", async move {
            let Ok(_slot) = writer.slots.acquire().await else { return };
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": { "name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": pod.uid },
                "target": { "apiVersion": "v1", "kind": "Node", "name": node },
            });
            let api = Api::<Pod>::namespaced(writer.client.clone(), &pod.key.namespace);
            let params = PostParams::default();
            match api.create_subresource::<_, Status>("binding", &pod.key.name, &params, &binding).await {
                Ok(_) => writer.recorder.event(
                    &*pod.pod,
                    EventType::Normal,
                    "Scheduled",
                    format!("Successfully assigned {} to {node}", pod.key),
                ),
                Err(error) => {
                    if matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409)) {
                        tracing::debug!(pod = %pod.key, node, %error, "binding is out of date");
                    } else {
                        tracing::warn!(pod = %pod.key, node, %error, "binding failed; trying again");
                    }
                    writer.give_back(pod);
                }
            }
        });
    }

    fn give_back(&self, pod: Arc<PodInfo>) {
        if self.failed.send(Input::Failed(pod)).is_err() {
            tracing::trace!("the scheduler has ended");
        }
    }

    fn explain(&self, pod: Arc<PodInfo>, message: String, preemption: Option<Preemption>) {
        let writer = self.clone();
        self.tasks.spawn("explain", async move {
            let Ok(_slot) = writer.slots.acquire().await else { return };
            writer.recorder.event(&*pod.pod, EventType::Warning, "FailedScheduling", message.clone());
            if let Err(error) = writer.write_condition(&pod, message, preemption.as_ref()).await {
                let gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
                if !gone {
                    tracing::warn!(pod = %pod.key, %error, "the condition PodScheduled was not written");
                }
            }
            if let Some(preemption) = preemption {
                writer.remove_victims(&pod, &preemption).await;
            }
        });
    }

    async fn write_condition(
        &self,
        pod: &PodInfo,
        message: String,
        preemption: Option<&Preemption>,
    ) -> kube::Result<()> {
        let status = pod.pod.status.as_ref();
        let current = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled");
        let since = current
            .filter(|condition| condition.status == "False")
            .and_then(|condition| condition.last_transition_time.clone());
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or_else(|| Time(self.clock.now()))),
            ..PodCondition::default()
        };
        let nominated = preemption.map(|preemption| preemption.node.as_str());
        let same = current.is_some_and(|current| {
            (&current.status, &current.reason, &current.message)
                == (&condition.status, &condition.reason, &condition.message)
        });
        if same && nominated.is_none() {
            return Ok(());
        }
        let mut patch = json!({ "metadata": { "uid": pod.uid }, "status": { "conditions": [condition] } });
        if let Some(node) = nominated {
            patch["status"]["nominatedNodeName"] = json!(node);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.key.namespace);
        api.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }

    async fn remove_victims(&self, pod: &PodInfo, preemption: &Preemption) {
        for victim in &preemption.victims {
            let api = Api::<Pod>::namespaced(self.client.clone(), &victim.key.namespace);
            let condition = json!({ "status": { "conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
                "lastTransitionTime": Time(self.clock.now()),
            }] } });
            let params = PatchParams::default();
            let marked = api.patch_status(&victim.key.name, &params, &Patch::Strategic(condition)).await;
            let removed = api.delete(&victim.key.name, &DeleteParams::default()).await;
            if let Err(error) = marked.map(|_| ()).and(removed.map(|_| ())) {
                tracing::warn!(victim = %victim.key, %error, "preemption did not remove a pod");
                continue;
            }
            let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            self.recorder.event(&*victim.pod, EventType::Normal, "Preempted", message);
        }
    }
}
