//! The task of one pod. It alone writes what is known of the pod; everything that takes long runs beside it
//! and reports back, so that a pod is never deaf.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use runtime::{
    ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, SandboxState, SandboxStatus,
};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod outcomes;
mod probing;
mod report;

use super::manager::Shared;
use super::model::{Memory, Verdict, View, Waiting, find_container};
use super::plan::{Kill, Plan, Start, plan};
use super::probes::Report;
use super::start::{self, Place, grace_period};
use super::status::{self, Inputs, SCHEME};
use crate::agent::Agent;
use crate::objects::{Lease, Reference, references};
use crate::volumes;

/// How long a failed pull shows as such before it shows as backing off.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// When a container that could not be configured or made is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The first and the longest wait after a volume or a sandbox could not be made.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MOST_RETRY: Duration = Duration::from_secs(122);

/// What a pod's task is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API has it no more.
    Gone,
    /// Something happened to a container or to the sandbox.
    Runtime(ContainerEvent),
    /// Events were lost: look at everything.
    Look,
    /// A probe has a new verdict.
    Probe(Report),
}

/// What a job beside the task came to.
enum Outcome {
    Prepared(Result<Box<(SandboxStatus, volumes::SetUp)>, String>),
    Refreshed(Result<volumes::SetUp, String>),
    Started(Start, Result<String, Waiting>),
    Stopped(String, Result<(), String>),
    Hurried,
    TakenDown(u8, Result<(), String>),
    Patched(Box<Result<Pod, kube::Error>>),
    Deleted(Result<(), String>),
}

/// How much of a pod was taken away.
const NOTHING: u8 = 0;
const STOPPED: u8 = 1;
const REMOVED: u8 = 2;

pub(super) struct Worker {
    agent: Arc<Agent>,
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    gone: bool,
    view: View,
    memory: Memory,
    inbox: mpsc::UnboundedReceiver<Message>,
    own: mpsc::UnboundedSender<Message>,
    jobs: JoinSet<Outcome>,
    changes: broadcast::Receiver<Reference>,
    leases: Vec<Lease>,
    volumes: Option<Arc<volumes::SetUp>>,
    preparing: bool,
    refreshing: bool,
    prepare_failures: u32,
    refresh_at: Option<Timestamp>,
    probes: BTreeMap<String, CancellationToken>,
    /// The crash of each container whose back-off was announced.
    announced: BTreeMap<String, u32>,
    starting: CancellationToken,
    taken_down: u8,
    taking_down: bool,
    take_down_retry: Option<Timestamp>,
    patching: bool,
    /// The status that the API took last. What it changes about it is no reason to send it again.
    sent: Option<PodStatus>,
    /// Until when a change that nobody waits for is held back, so that it travels with the next one.
    held_until: Option<Timestamp>,
    patch_retry: Option<Timestamp>,
    patch_failures: u32,
    deleting: bool,
    done: bool,
}

impl Worker {
    pub(super) fn new(
        agent: Arc<Agent>,
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        view: View,
        inbox: mpsc::UnboundedReceiver<Message>,
        own: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let mut memory = Memory { start_time: Some(agent.clock.now()), ..Memory::default() };
        let status = pod.status.as_ref();
        memory.ips = status
            .iter()
            .flat_map(|status| status.pod_ips.iter().flatten())
            .map(|ip| ip.ip.clone())
            .collect();
        let changes = agent.objects.changes();
        Self {
            shared,
            pod,
            gone: false,
            view,
            memory,
            inbox,
            own,
            jobs: JoinSet::new(),
            changes,
            leases: Vec::new(),
            volumes: None,
            preparing: false,
            refreshing: false,
            prepare_failures: 0,
            refresh_at: None,
            probes: BTreeMap::new(),
            announced: BTreeMap::new(),
            starting: agent.tasks.token().child_token(),
            taken_down: NOTHING,
            taking_down: false,
            take_down_retry: None,
            patching: false,
            sent: None,
            held_until: None,
            patch_retry: None,
            patch_failures: 0,
            deleting: false,
            done: false,
            agent,
        }
    }

    /// Lives the pod's life.
    pub(super) async fn run(mut self) {
        if !self.terminal() {
            self.leases = references(&self.pod).iter().map(|one| self.agent.objects.lease(one)).collect();
        }
        self.adopt();
        while !self.done {
            let wake_at = self.step();
            if self.done {
                break;
            }
            let now = self.agent.clock.now();
            let clock = self.agent.clock.clone();
            let sleep = async {
                match wake_at {
                    Some(at) => {
                        clock.after(at.duration_since(now).unsigned_abs() * u32::from(at > now)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => {
                        self.take(message).await;
                        while let Ok(message) = self.inbox.try_recv() {
                            self.take(message).await;
                        }
                    }
                    None => break,
                },
                Some(outcome) = self.jobs.join_next(), if !self.jobs.is_empty() => match outcome {
                    Ok(outcome) => self.finish(outcome).await,
                    Err(error) => tracing::error!(pod = self.name(), %error, "a job of the pod ended badly"),
                },
                change = self.changes.recv() => self.object_changed(change.ok()),
                () = sleep => {}
            }
        }
        for stop in self.probes.values() {
            stop.cancel();
        }
    }

    fn name(&self) -> String {
        super::security::full_name(&self.pod)
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    /// The API says that the pod is over.
    fn terminal(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    fn deleted(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn ending(&self) -> bool {
        self.deleted() || self.memory.verdict.is_some() || self.terminal()
    }

    fn api(&self) -> Api<Pod> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.agent.client.clone(), namespace)
    }

    /// Takes up what an earlier agent left running.
    fn adopt(&mut self) {
        if let Some(sandbox) = &self.view.sandbox {
            // Something may have happened between the list and now.
            self.own.send(Message::Look).ok();
            self.memory.sandbox_attempts = sandbox.config.attempt + 1;
            self.agent.pods.claim_sandbox(&sandbox.id, &self.uid());
            if sandbox.state == SandboxState::Ready {
                self.take_addresses(&sandbox.clone());
            }
        }
        for one in self.view.containers.clone() {
            if one.state == ContainerState::Exited {
                self.read_last_words(&one);
            }
            if one.state == ContainerState::Running {
                let known = self.pod.status.as_ref().and_then(|status| {
                    status
                        .container_statuses
                        .iter()
                        .flatten()
                        .chain(status.init_container_statuses.iter().flatten())
                        .find(|known| known.container_id.as_deref() == Some(&format!("{SCHEME}{}", one.id)))
                });
                let (started, ready) =
                    known.map_or((false, false), |known| (known.started == Some(true), known.ready));
                self.begin_probes(&one, started, ready);
            }
        }
    }

    fn take_addresses(&mut self, sandbox: &SandboxStatus) {
        let host_network = self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        self.memory.ips = if host_network {
            vec![self.agent.config.node_ip.to_string()]
        } else {
            sandbox.ips.iter().map(ToString::to_string).collect()
        };
    }

    /// Does what the plan says; returns when to look again.
    fn step(&mut self) -> Option<Timestamp> {
        let now = self.agent.clock.now();
        let mut wake: Vec<Timestamp> = Vec::new();
        self.check_deadline(now, &mut wake);
        self.age_pull_errors(now, &mut wake);
        let ending = self.ending();
        if ending {
            self.starting.cancel();
        }
        let plan = plan(&self.pod, &self.view, &self.memory, ending, now);
        wake.extend(plan.wake_at);
        self.announce_back_off(&plan);
        self.prepare(&plan, ending, now, &mut wake);
        for kill in &plan.kill {
            self.kill(kill);
        }
        if let Some(what) = &plan.start {
            self.start(what.clone(), now);
        }
        let over = plan.stop_sandbox && !self.preparing && !self.refreshing;
        if over {
            self.take_down(now, &mut wake);
        }
        let status = status::generate(&Inputs {
            pod: &self.pod,
            view: &self.view,
            memory: &self.memory,
            waiting: &plan.waiting,
            host_ip: &self.agent.config.node_ip.to_string(),
            ended: over && ending,
            now,
        });
        let clean = self.report(&status, now, &mut wake);
        self.shared.publish(self.pod.clone(), status, &self.view);
        self.finish_deletion(clean);
        wake.into_iter().min()
    }

    fn check_deadline(&mut self, now: Timestamp, wake: &mut Vec<Timestamp>) {
        let Some(seconds) = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) else {
            return;
        };
        if self.ending() {
            return;
        }
        let started =
            self.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let Some(started) = started.or(self.memory.start_time) else { return };
        let due = started + Duration::from_secs(seconds.unsigned_abs());
        if now < due {
            wake.push(due);
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.agent.pod_event(&self.pod, EventType::Normal, "DeadlineExceeded", message);
        self.memory.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message: message.into() });
    }

    /// Says once for each crash that the container waits.
    fn announce_back_off(&mut self, plan: &Plan) {
        for name in plan.waiting.keys() {
            let Some(attempt) = self.view.latest(name).map(|one| one.attempt) else { continue };
            if self.announced.insert(name.clone(), attempt) != Some(attempt) {
                let message = format!("Back-off restarting failed container {name} in pod {}", self.name());
                self.agent.container_event(&self.pod, name, EventType::Warning, "BackOff", message);
            }
        }
    }

    /// A failed pull first shows as an error, then as backing off.
    fn age_pull_errors(&mut self, now: Timestamp, wake: &mut Vec<Timestamp>) {
        for (name, known) in &mut self.memory.containers {
            let Some(failure) = &mut known.failure else { continue };
            let Some(since) = known.pull_failed_at.filter(|_| failure.reason == "ErrImagePull") else {
                continue;
            };
            let due = since + PULL_ERROR_SHOWN;
            if now < due {
                wake.push(due);
                continue;
            }
            let image = find_container(&self.pod, name).and_then(|one| one.image).unwrap_or_default();
            let message = format!("Back-off pulling image {image:?}");
            self.agent.container_event(&self.pod, name, EventType::Normal, "BackOff", message.clone());
            self.agent.container_event(
                &self.pod,
                name,
                EventType::Warning,
                "Failed",
                "Error: ImagePullBackOff",
            );
            *failure = Waiting {
                message: format!("{message}: {}: {}", failure.reason, failure.message),
                reason: "ImagePullBackOff".into(),
            };
        }
    }

    fn prepare(&mut self, plan: &Plan, ending: bool, now: Timestamp, wake: &mut Vec<Timestamp>) {
        if ending || plan.finished || self.preparing || self.refreshing {
            return;
        }
        let (agent, pod) = (self.agent.clone(), self.pod.clone());
        if plan.create_sandbox {
            let attempt = self.memory.sandbox_attempts;
            self.preparing = true;
            // The volumes do not need the sandbox, nor it them: both at once.
            self.jobs.spawn(async move {
                let (sandbox, volumes) = tokio::join!(
                    start::make_sandbox(&agent, &pod, attempt),
                    set_up_volumes(&agent, &pod, &[])
                );
                Outcome::Prepared(match (sandbox, volumes) {
                    (Ok(sandbox), Ok(volumes)) => Ok(Box::new((sandbox, volumes))),
                    (Err(error), _) => Err(error),
                    (Ok(sandbox), Err(error)) => {
                        if let Err(error) = agent.runtime.remove_sandbox(&sandbox.id).await {
                            tracing::warn!(%error, "removing a sandbox without volumes");
                        }
                        Err(error)
                    }
                })
            });
            return;
        }
        if !self.view.sandbox_ready() {
            return;
        }
        let due = match self.refresh_at {
            Some(at) if now < at => {
                wake.push(at);
                false
            }
            Some(_) => true,
            None => self.volumes.is_none(),
        };
        if due {
            self.refreshing = true;
            let ips = self.memory.ips.clone();
            self.jobs.spawn(async move { Outcome::Refreshed(set_up_volumes(&agent, &pod, &ips).await) });
        }
    }

    fn start(&mut self, what: Start, now: Timestamp) {
        let (Some(volumes), Some(sandbox)) = (&self.volumes, &self.view.sandbox) else { return };
        if let Some(failed_at) = what.failed_at {
            self.memory.container(&what.name).restarts.next(failed_at, now);
        }
        self.memory.starting = Some(what.name.clone());
        let place =
            Place { sandbox: sandbox.clone(), ips: self.memory.ips.clone(), volumes: volumes.clone() };
        let (agent, pod, cancel) = (self.agent.clone(), self.pod.clone(), self.starting.clone());
        self.jobs.spawn(async move {
            let outcome = start::start(&agent, &pod, &what, &place, &cancel).await;
            Outcome::Started(what, outcome)
        });
    }

    fn kill(&mut self, kill: &Kill) {
        // Nobody waits for a pod that the API has forgotten.
        let grace = if self.gone { Duration::from_secs(1) } else { grace_period(&self.pod) };
        self.kill_with(kill, grace);
    }

    fn kill_with(&mut self, kill: &Kill, grace: Duration) {
        let Some(status) = self.view.containers.iter().find(|one| one.id == kill.id).cloned() else { return };
        if !self.memory.stopping.insert(kill.id.clone()) {
            return;
        }
        if let Some(stop) = self.probes.remove(&kill.id) {
            stop.cancel();
        }
        let (agent, pod, message) = (self.agent.clone(), self.pod.clone(), kill.message.clone());
        let ip = self.memory.ips.first().cloned().unwrap_or_default();
        self.jobs.spawn(async move {
            let outcome = start::stop(&agent, &pod, &status, message, grace, &ip).await;
            if outcome.is_err() {
                // The next try must not come at once.
                agent.clock.after(Duration::from_secs(1)).await;
            }
            Outcome::Stopped(status.id, outcome)
        });
    }

    fn take_down(&mut self, now: Timestamp, wake: &mut Vec<Timestamp>) {
        let wanted = if self.deleted() { REMOVED } else { STOPPED };
        if self.taken_down >= wanted || self.taking_down {
            return;
        }
        if let Some(at) = self.take_down_retry
            && now < at
        {
            wake.push(at);
            return;
        }
        self.taking_down = true;
        self.leases.clear();
        let (agent, pod) = (self.agent.clone(), self.pod.clone());
        let containers = self.view.containers.clone();
        let mut sandboxes: BTreeSet<String> = containers.iter().map(|one| one.sandbox_id.clone()).collect();
        sandboxes.extend(self.view.sandbox.as_ref().map(|sandbox| sandbox.id.clone()));
        self.jobs.spawn(async move {
            let remove = wanted == REMOVED;
            let outcome = start::take_down(&agent, &pod, &sandboxes, &containers, remove).await;
            Outcome::TakenDown(wanted, outcome)
        });
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.take_pod(pod),
            Message::Gone => {
                self.gone = true;
                self.hurry(Duration::from_secs(1));
            }
            Message::Runtime(event) => self.runtime_event(event).await,
            Message::Look => self.look().await,
            Message::Probe(report) => self.probed(&report),
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        let version =
            |pod: &Pod| pod.metadata.resource_version.as_ref().and_then(|text| text.parse::<u64>().ok());
        if version(&pod) < version(&self.pod) {
            return;
        }
        let before = grace_period(&self.pod);
        let changed = pod.metadata.labels != self.pod.metadata.labels
            || pod.metadata.annotations != self.pod.metadata.annotations;
        self.pod = pod;
        if changed {
            self.refresh_soon();
        }
        let after = grace_period(&self.pod);
        if after < before {
            self.hurry(after);
        }
    }

    /// Gives containers that are being stopped less time.
    fn hurry(&mut self, grace: Duration) {
        for id in self.memory.stopping.clone() {
            let agent = self.agent.clone();
            self.jobs.spawn(async move {
                if let Err(error) = agent.runtime.stop_container(&id, grace).await {
                    tracing::warn!(id, %error, "stopping a container sooner");
                }
                Outcome::Hurried
            });
        }
    }

    fn refresh_soon(&mut self) {
        if self.volumes.is_some() {
            self.refresh_at = Some(self.agent.clock.now());
        }
    }

    fn object_changed(&mut self, change: Option<Reference>) {
        let mine: BTreeSet<Reference> = references(&self.pod).into_iter().collect();
        if mine.is_empty() || change.is_some_and(|one| !mine.contains(&one)) {
            return;
        }
        self.refresh_soon();
        // What failed for want of this object may go now.
        self.memory.sandbox_retry_at = None;
        for known in self.memory.containers.values_mut() {
            if known.failure.as_ref().is_some_and(|failure| failure.reason == "CreateContainerConfigError") {
                known.retry_at = None;
            }
        }
    }

    async fn runtime_event(&mut self, event: ContainerEvent) {
        if event.kind == ContainerEventKind::SandboxStopped {
            if let Some(sandbox) = self.view.sandbox.as_mut().filter(|one| one.id == event.sandbox_id) {
                if sandbox.state == SandboxState::Ready && !self.taking_down {
                    self.agent.pod_event(
                        &self.pod,
                        EventType::Normal,
                        "SandboxChanged",
                        "Pod sandbox changed, it will be killed and re-created.",
                    );
                }
                sandbox.state = SandboxState::NotReady;
            }
            return;
        }
        self.inspect(&event.id).await;
    }

    /// Reads the state of one container anew.
    async fn inspect(&mut self, id: &str) {
        match self.agent.runtime.container_status(id).await {
            Ok(status) => self.put(status),
            Err(runtime::Error::NotFound { .. }) => self.view.containers.retain(|one| one.id != id),
            Err(error) => tracing::warn!(pod = self.name(), id, %error, "reading a container's state"),
        }
    }

    fn put(&mut self, status: ContainerStatus) {
        if status.state == ContainerState::Exited {
            if let Some(stop) = self.probes.remove(&status.id) {
                stop.cancel();
            }
            if !self.memory.messages.contains_key(&status.id) {
                self.read_last_words(&status);
            }
        }
        self.view.put(status);
    }

    /// Reads everything anew, after events were lost.
    async fn look(&mut self) {
        let (uid, sandboxes, containers) = (
            self.uid(),
            self.agent.runtime.list_sandboxes().await,
            self.agent.runtime.list_containers().await,
        );
        let (Ok(sandboxes), Ok(containers)) = (sandboxes, containers) else {
            tracing::warn!(pod = self.name(), "reading the pod's containers failed");
            return;
        };
        let newest =
            sandboxes.into_iter().filter(|one| one.config.uid == uid).max_by_key(|one| one.created_at);
        self.view.sandbox = newest.or_else(|| self.view.sandbox.take());
        for one in containers {
            if one.labels.get(super::labels::POD_UID) == Some(&uid) {
                self.put(one);
            }
        }
    }

    fn read_last_words(&mut self, status: &ContainerStatus) {
        if let Some(text) = super::last_words::read(status) {
            self.memory.messages.insert(status.id.clone(), text);
        }
    }
}

async fn set_up_volumes(agent: &Agent, pod: &Pod, ips: &[String]) -> Result<volumes::SetUp, String> {
    volumes::set_up(agent, pod, ips).await.inspect_err(|error| {
        agent.pod_event(pod, EventType::Warning, "FailedMount", error.clone());
    })
}
