//! The life of a pod, played against a runtime and an API that live in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use client::{Informers, Recorder};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use machinery::clock::{Clock, ManualClock};
use machinery::names::Random;
use machinery::tasks::Tasks;
use parking_lot::Mutex;
use runtime::{
    ContainerConfig, ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, Duplex, Error,
    ExecConfig, ExecOutput, Image, RegistryAuth, Resources, Result, Runtime, SandboxConfig, SandboxState,
    SandboxStatus, Session, Stats,
};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::manager::Shared;
use super::model::View;
use super::testing::at;
use super::worker::{Message, Worker};
use super::{Images, Pods};
use crate::agent::Agent;
use crate::config::Config;
use crate::node::Machine;
use crate::objects::Objects;

/// A runtime that does nothing and remembers everything.
struct Played {
    clock: ManualClock,
    sandboxes: Mutex<BTreeMap<String, SandboxStatus>>,
    containers: Mutex<BTreeMap<String, ContainerStatus>>,
    images: Mutex<Vec<String>>,
    events: broadcast::Sender<ContainerEvent>,
    to_pod: Mutex<Option<mpsc::UnboundedSender<Message>>>,
}

impl Played {
    fn tell(&self, id: &str, kind: ContainerEventKind) {
        let sandbox_id = self.containers.lock().get(id).map(|one| one.sandbox_id.clone()).unwrap_or_default();
        let event = ContainerEvent { id: id.to_owned(), sandbox_id, kind };
        if let Some(pod) = self.to_pod.lock().as_ref() {
            pod.send(Message::Runtime(event)).ok();
        }
    }

    /// Ends a container's process.
    fn exit(&self, name: &str, code: i32) {
        let id = {
            let mut containers = self.containers.lock();
            let one = containers
                .values_mut()
                .find(|one| one.name == name && one.state == ContainerState::Running)
                .expect("a running container");
            one.state = ContainerState::Exited;
            one.exit_code = code;
            one.finished_at = Some(self.clock.now());
            one.id.clone()
        };
        self.tell(&id, ContainerEventKind::Stopped);
    }

    fn unsupported<T>(&self) -> Result<T> {
        Err(Error::Invalid("not played".into()))
    }
}

#[async_trait]
impl Runtime for Played {
    async fn version(&self) -> Result<(String, String)> {
        Ok(("played".into(), "1".into()))
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        let status = SandboxStatus {
            id: format!("sandbox-{}", config.attempt),
            config,
            state: SandboxState::Ready,
            created_at: self.clock.now(),
            ips: vec!["10.2.0.5".parse().unwrap()],
        };
        self.sandboxes.lock().insert(status.id.clone(), status.clone());
        Ok(status)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        if let Some(sandbox) = self.sandboxes.lock().get_mut(id) {
            sandbox.state = SandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.sandboxes.lock().remove(id);
        self.containers.lock().retain(|_, one| one.sandbox_id != id);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.sandboxes.lock().values().cloned().collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let id = format!("{}-{}", config.name, config.attempt);
        let status = ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox_id.into(),
            name: config.name,
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at: self.clock.now(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            pid: None,
            reason: String::new(),
            message: String::new(),
            image_id: config.image,
            image: config.user_image,
            labels: config.labels,
            annotations: config.annotations,
            log_path: "/does/not/exist".into(),
        };
        self.containers.lock().insert(id.clone(), status);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        if let Some(one) = self.containers.lock().get_mut(id) {
            one.state = ContainerState::Running;
            one.started_at = Some(self.clock.now());
        }
        self.tell(id, ContainerEventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _grace: Duration) -> Result<()> {
        let name = self
            .containers
            .lock()
            .get(id)
            .filter(|one| one.state == ContainerState::Running)
            .map(|one| one.name.clone());
        if let Some(name) = name {
            self.exit(&name, 143);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.containers.lock().remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.containers.lock().values().cloned().collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.containers.lock().get(id).cloned().ok_or(Error::NotFound { what: "container", id: id.into() })
    }

    async fn update_resources(&self, _id: &str, _resources: Resources) -> Result<()> {
        self.unsupported()
    }

    async fn reopen_log(&self, _id: &str) -> Result<()> {
        self.unsupported()
    }

    async fn exec_sync(
        &self,
        _id: &str,
        command: &[String],
        _timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let good = command.first().is_some_and(|word| word == "true");
        Ok(ExecOutput { exit_code: i32::from(!good), stdout: b"no".to_vec(), stderr: Vec::new() })
    }

    async fn exec(&self, _id: &str, _config: ExecConfig) -> Result<Session> {
        self.unsupported()
    }

    async fn attach(&self, _id: &str) -> Result<Session> {
        self.unsupported()
    }

    async fn port_forward(&self, _sandbox_id: &str, _port: u16) -> Result<Box<dyn Duplex>> {
        self.unsupported()
    }

    async fn container_stats(&self, _id: &str) -> Result<Stats> {
        Ok(Stats::default())
    }

    async fn sandbox_stats(&self, _id: &str) -> Result<Stats> {
        Ok(Stats::default())
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let there = self.images.lock().iter().any(|known| known == image);
        Ok(there.then(|| Image {
            id: image.into(),
            tags: vec![],
            digests: vec![],
            size: 1,
            user: String::new(),
            pinned: false,
        }))
    }

    async fn pull_image(&self, image: &str, _auth: Option<RegistryAuth>) -> Result<String> {
        Err(Error::Pull { image: image.into(), reason: "no such image".into() })
    }

    async fn remove_image(&self, _image: &str) -> Result<()> {
        self.unsupported()
    }

    async fn image_bytes(&self) -> Result<u64> {
        Ok(0)
    }
}

/// One pod in an API; every change rings.
struct Api {
    pod: Mutex<Value>,
    deleted: Mutex<bool>,
    reasons: Mutex<Vec<String>>,
    patches: Mutex<usize>,
    changed: watch::Sender<()>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Api {
    fn pod(&self) -> Pod {
        serde_json::from_value(self.pod.lock().clone()).unwrap()
    }

    async fn answer(self: Arc<Self>, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if parts.method == Method::GET && parts.uri.query().unwrap_or_default().contains("watch=") {
            let silence =
                futures::stream::pending::<std::result::Result<http_body::Frame<Bytes>, Infallible>>();
            return Response::new(StreamBody::new(silence).boxed_unsync());
        }
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let sent: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let said = match parts.method {
            Method::GET => {
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
            }
            Method::PATCH if path.ends_with("/pods/p/status") => {
                *self.patches.lock() += 1;
                self.merge(&sent["status"])
            }
            Method::DELETE => {
                assert_eq!(sent["gracePeriodSeconds"], 0);
                assert_eq!(sent["preconditions"]["uid"], "uid");
                *self.deleted.lock() = true;
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
            }
            _ => {
                self.reasons.lock().push(sent["reason"].as_str().unwrap_or_default().to_owned());
                sent
            }
        };
        tracing::debug!(path, "answered");
        self.changed.send_replace(());
        let full = Full::new(Bytes::from(said.to_string())).map_err(|never| match never {});
        Response::new(full.boxed_unsync())
    }

    /// A strategic merge, as far as statuses need one.
    fn merge(&self, status: &Value) -> Value {
        let mut pod = self.pod.lock();
        let version: u64 = pod["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        pod["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        for (key, value) in status.as_object().unwrap() {
            if key == "conditions" {
                let mut list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                for one in value.as_array().unwrap() {
                    list.retain(|known| known["type"] != one["type"]);
                    list.push(one.clone());
                }
                pod["status"]["conditions"] = Value::Array(list);
            } else {
                pod["status"][key] = value.clone();
            }
        }
        pod.clone()
    }
}

/// A pod's task with what it needs.
struct Stage {
    api: Arc<Api>,
    runtime: Arc<Played>,
    clock: ManualClock,
    pod: mpsc::UnboundedSender<Message>,
    tasks: Tasks,
    _data: tempfile::TempDir,
}

impl Stage {
    fn set(spec: Value) -> Self {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(at(1_000_000));
        let tasks = Tasks::new(CancellationToken::new());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec, "status": {"phase": "Pending"},
            "metadata": {"name": "p", "namespace": "ns", "uid": "uid", "resourceVersion": "1"}
        });
        let api = Arc::new(Api {
            pod: Mutex::new(pod),
            deleted: Mutex::new(false),
            reasons: Mutex::default(),
            patches: Mutex::new(0),
            changed: watch::Sender::new(()),
        });
        let runtime = Arc::new(Played {
            clock: clock.clone(),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            images: Mutex::new(vec!["here:1".into()]),
            events: broadcast::channel(16).0,
            to_pod: Mutex::default(),
        });
        let answering = api.clone();
        let service = tower::service_fn(move |request| {
            let api = answering.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        let client = kube::Client::new(service, "default");
        let shared_clock = Arc::new(clock.clone());
        let random = Random::seeded(1);
        let informers = Informers::new(client.clone(), shared_clock.clone(), random.clone(), tasks.clone());
        let mut config: Config = serde_json::from_value(json!({
            "nodeName": "n", "nodeIp": "172.17.4.201", "nodeNetwork": "172.17.4.0/24", "kubeconfig": "/k",
            "dnsAddress": "10.3.0.10", "clusterDomain": "cluster.local", "podNetwork": "10.2.0.0/16",
            "serviceNetwork": "10.3.0.0/24", "nodePortRange": [30000, 32767], "port": 10250,
            "pki": {"caCertificate": "/a", "servingCertificate": "/b", "servingKey": "/c"},
            "dataDirectory": "/d", "imageDirectory": "/i", "runDirectory": "/r", "cgroupRoot": ""
        }))
        .unwrap();
        config.data_directory = data.path().into();
        let agent = Arc::new(Agent {
            services: informers.of(),
            objects: Objects::new(informers),
            images: Images::default(),
            pods: Pods::default(),
            recorder: Recorder::start(client.clone(), "kubelet", Some("n"), shared_clock.clone(), &tasks),
            client,
            runtime: runtime.clone(),
            clock: shared_clock,
            random,
            machine: Machine::read(data.path()),
            config,
            tasks: tasks.clone(),
        });
        let (sender, inbox) = mpsc::unbounded_channel();
        *runtime.to_pod.lock() = Some(sender.clone());
        let pod = Arc::new(api.pod());
        let worker =
            Worker::new(agent, Arc::new(Shared::default()), pod, View::default(), inbox, sender.clone());
        tasks.spawn("pod", worker.run());
        Self { api, runtime, clock, pod: sender, tasks, _data: data }
    }

    /// Waits until the pod's status in the API is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&PodStatus) -> bool) {
        let mut changed = self.api.changed.subscribe();
        let reached = async {
            while !wanted(&self.api.pod().status.unwrap_or_default()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), reached).await.is_err() {
            panic!("waiting for {what}; the pod is {:#}", self.api.pod.lock()["status"]);
        }
    }

    async fn until_phase(&self, phase: &str) {
        self.until(phase, |status| status.phase.as_deref() == Some(phase)).await;
    }

    async fn until_waiting(&self, reason: &str) {
        self.until(reason, |status| {
            let waiting = |one: &k8s_openapi::api::core::v1::ContainerStatus| {
                one.state.as_ref()?.waiting.as_ref()?.reason.clone()
            };
            status.container_statuses.iter().flatten().any(|one| waiting(one).as_deref() == Some(reason))
        })
        .await;
    }

    async fn end(self) {
        self.tasks.stop().await;
    }
}

fn ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

#[tokio::test]
async fn a_pod_comes_up_and_goes_when_it_is_deleted() {
    let stage = Stage::set(json!({"containers": [{"name": "a", "image": "here:1"}]}));
    stage.until_phase("Running").await;
    stage.until("ready", ready).await;
    assert_eq!(stage.api.pod().status.unwrap().pod_ip.as_deref(), Some("10.2.0.5"));
    assert!(*stage.api.patches.lock() <= 3, "a start must not flood the API");
    {
        let mut pod = stage.api.pod.lock();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        pod["metadata"]["resourceVersion"] = json!("1000");
    }
    stage.pod.send(Message::Pod(Arc::new(stage.api.pod()))).unwrap();
    let mut changed = stage.api.changed.subscribe();
    while !*stage.api.deleted.lock() {
        tokio::time::timeout(Duration::from_secs(60), changed.changed()).await.unwrap().unwrap();
    }
    assert!(stage.runtime.sandboxes.lock().is_empty());
    assert_eq!(stage.api.pod().status.unwrap().phase.as_deref(), Some("Failed"));
    stage.end().await;
}

#[tokio::test]
async fn a_container_that_crashes_is_started_at_once_and_then_waits() {
    let stage = Stage::set(json!({"containers": [{"name": "a", "image": "here:1"}]}));
    stage.until("ready", ready).await;
    stage.runtime.exit("a", 1);
    let restarts = |count: i32| {
        move |status: &PodStatus| {
            status.container_statuses.iter().flatten().any(|one| one.restart_count == count && one.ready)
        }
    };
    stage.until("the first restart", restarts(1)).await;
    stage.runtime.exit("a", 1);
    stage.until_waiting("CrashLoopBackOff").await;
    stage.clock.advance(Duration::from_secs(10));
    stage.until("the second restart", restarts(2)).await;
    stage.end().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_had_backs_off_and_is_tried_again() {
    let stage = Stage::set(json!({"containers": [{"name": "a", "image": "gone:1"}]}));
    stage.until_waiting("ErrImagePull").await;
    stage.clock.advance(Duration::from_secs(2));
    stage.until_waiting("ImagePullBackOff").await;
    stage.runtime.images.lock().push("gone:1".into());
    stage.clock.advance(Duration::from_secs(10));
    stage.until_phase("Running").await;
    stage.end().await;
}

#[tokio::test]
async fn a_pod_that_ran_to_its_end_succeeds_and_its_sandbox_is_stopped() {
    let stage =
        Stage::set(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "here:1"}]}));
    stage.until_phase("Running").await;
    stage.runtime.exit("a", 0);
    stage.until_phase("Succeeded").await;
    stage.end().await;
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_its_container() {
    let stage = Stage::set(json!({"containers": [{"name": "a", "image": "here:1",
        "livenessProbe": {"exec": {"command": ["false"]}, "failureThreshold": 1}}]}));
    stage
        .until("a restart", |status| {
            status.container_statuses.iter().flatten().any(|one| one.restart_count > 0)
        })
        .await;
    stage.end().await;
}

#[tokio::test]
async fn a_pod_ends_at_its_deadline() {
    let stage =
        Stage::set(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "here:1"}]}));
    stage.until("ready", ready).await;
    stage.clock.advance(Duration::from_secs(5));
    stage.until_phase("Failed").await;
    assert_eq!(stage.api.pod().status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    stage.end().await;
}
