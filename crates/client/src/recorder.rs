//! Events about objects, as `kubectl describe` shows them; a repeated one counts up instead of piling up.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use machinery::clock::SharedClock;
use machinery::tasks::Tasks;
use tokio::sync::mpsc;

/// How many events may wait to be written; more are dropped with a warning.
const WAITING: usize = 1024;
/// How many events are remembered for counting.
const REMEMBERED: usize = 1024;
/// How many events about one object are written at once …
const BURST: f64 = 25.0;
/// … and how long it takes until one more may be: a controller of hundreds of pods must not flood the store.
const REFILL: Duration = Duration::from_secs(300);
/// How many objects are remembered for that.
const OBJECTS: usize = 1024;

/// Whether an event is news or trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something went as it should.
    Normal,
    /// Something may need attention.
    Warning,
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        })
    }
}

/// Records events of one component. Never waits for the API: a task writes them. Cloning shares it.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Occurrence>,
    clock: SharedClock,
}

/// Kind, namespace, name, uid and field: identifies an object, also after another one took its name.
type ObjectId = (String, String, String, String, String);

/// What happened; equal ones are counted in one event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct What {
    object: ObjectId,
    kind_of_event: EventType,
    reason: String,
    message: String,
}

struct Occurrence {
    what: What,
    about: ObjectReference,
    at: jiff::Timestamp,
}

impl Recorder {
    /// Starts a recorder for `component` (such as `default-scheduler`), on `host` if it is bound to one.
    #[must_use]
    pub fn start(
        client: kube::Client,
        component: &str,
        host: Option<&str>,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let source = EventSource { component: Some(component.into()), host: host.map(Into::into) };
        tasks.spawn("event recorder", write_all(client, source, receiver));
        Self { sender, clock }
    }

    /// Records that `reason` happened to `object`; `message` says it to a person.
    pub fn event<K>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let mut about = object.object_ref(&());
        about.resource_version = object.meta().resource_version.clone();
        self.event_about(about, kind, reason, message);
    }

    /// Records that `reason` happened to what `about` refers to, such as a container of a pod.
    pub fn event_about(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let object = (
            part(&about.kind),
            part(&about.namespace),
            part(&about.name),
            part(&about.uid),
            part(&about.field_path),
        );
        let what = What { object, kind_of_event: kind, reason: reason.into(), message: message.into() };
        let occurrence = Occurrence { what, about, at: self.clock.now() };
        if let Err(error) = self.sender.try_send(occurrence) {
            tracing::warn!(reason, %error, "event dropped");
        }
    }
}

/// An event that was written and may be counted up.
struct Written {
    name: String,
    namespace: String,
    count: i32,
}

/// The newest events, so that repetitions are found. The oldest is forgotten first.
#[derive(Default)]
struct Memory {
    events: HashMap<What, Written>,
    order: VecDeque<What>,
}

impl Memory {
    fn remember(&mut self, what: What, written: Written) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
        self.order.push_back(what.clone());
        self.events.insert(what, written);
    }
}

/// Lets through a burst of events about each object, then one in a while.
#[derive(Default)]
struct Limiter {
    /// What each object has left, and when that was true.
    left: HashMap<ObjectId, (f64, jiff::Timestamp)>,
    order: VecDeque<ObjectId>,
}

impl Limiter {
    fn admits(&mut self, object: &ObjectId, now: jiff::Timestamp) -> bool {
        if let Some((left, since)) = self.left.get_mut(object) {
            let passed = now.duration_since(*since).as_secs_f64().max(0.0);
            *left = (*left + passed / REFILL.as_secs_f64()).min(BURST);
            *since = now;
            if *left < 1.0 {
                return false;
            }
            *left -= 1.0;
            return true;
        }
        if self.order.len() >= OBJECTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.left.remove(&oldest);
        }
        self.order.push_back(object.clone());
        self.left.insert(object.clone(), (BURST - 1.0, now));
        true
    }
}

async fn write_all(client: kube::Client, source: EventSource, mut waiting: mpsc::Receiver<Occurrence>) {
    let mut memory = Memory::default();
    let mut limiter = Limiter::default();
    let mut last_stamp = 0;
    while let Some(occurrence) = waiting.recv().await {
        if !limiter.admits(&occurrence.what.object, occurrence.at) {
            tracing::debug!(reason = occurrence.what.reason, "too many events about one object");
            continue;
        }
        if let Some(known) = memory.events.get_mut(&occurrence.what) {
            match count_up(&client, known, occurrence.at).await {
                Ok(true) => continue,
                // It has expired: a new one is written below.
                Ok(false) => {
                    memory.events.remove(&occurrence.what);
                    memory.order.retain(|what| *what != occurrence.what);
                }
                Err(error) => {
                    tracing::warn!(reason = occurrence.what.reason, %error, "event not counted");
                    continue;
                }
            }
        }
        // Names end in the time, as upstream's do; two events of one moment still need two names.
        let stamp = occurrence.at.as_nanosecond().max(last_stamp + 1);
        last_stamp = stamp;
        let event = compose(&source, &occurrence, stamp);
        let (name, namespace) = (
            event.metadata.name.clone().unwrap_or_default(),
            event.metadata.namespace.clone().unwrap_or_default(),
        );
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => memory.remember(occurrence.what, Written { name, namespace, count: 1 }),
            // Normal at the end of a namespace: it takes no new objects.
            Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => {
                tracing::debug!(reason = occurrence.what.reason, %status, "event not written");
            }
            Err(error) => tracing::warn!(reason = occurrence.what.reason, %error, "event not written"),
        }
    }
}

/// Returns false when the event is no longer there.
async fn count_up(client: &kube::Client, known: &mut Written, at: jiff::Timestamp) -> kube::Result<bool> {
    let patch = serde_json::json!({ "count": known.count + 1, "lastTimestamp": Time(at) });
    let api = Api::<Event>::namespaced(client.clone(), &known.namespace);
    match api.patch(&known.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => {
            known.count += 1;
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

fn compose(source: &EventSource, occurrence: &Occurrence, stamp: i128) -> Event {
    let about = &occurrence.about;
    // Events about objects without a namespace live in `default`.
    let namespace = about.namespace.clone().filter(|text| !text.is_empty()).unwrap_or("default".into());
    let name = format!("{}.{stamp:x}", about.name.as_deref().unwrap_or_default());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: about.clone(),
        type_: Some(occurrence.what.kind_of_event.to_string()),
        reason: Some(occurrence.what.reason.clone()),
        message: Some(occurrence.what.message.clone()),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        first_timestamp: Some(Time(occurrence.at)),
        last_timestamp: Some(Time(occurrence.at)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_gets_a_burst_of_events_and_then_few() {
        let mut limiter = Limiter::default();
        let (a, b) = (
            ObjectId::default(),
            ("Pod".to_owned(), String::new(), String::new(), String::new(), String::new()),
        );
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let admitted = (0..100).filter(|_| limiter.admits(&a, at(0))).count();
        assert_eq!(admitted, 25);
        assert!(limiter.admits(&b, at(0)));
        assert!(!limiter.admits(&a, at(299)));
        assert!(limiter.admits(&a, at(301)));
    }

    #[test]
    fn an_event_about_a_node_lives_in_the_default_namespace() {
        let occurrence = Occurrence {
            what: What {
                object: Default::default(),
                kind_of_event: EventType::Normal,
                reason: "NodeReady".into(),
                message: "Node 172.17.4.201 status is now: NodeReady".into(),
            },
            about: ObjectReference {
                kind: Some("Node".into()),
                name: Some("172.17.4.201".into()),
                ..ObjectReference::default()
            },
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        let source = EventSource { component: Some("kubelet".into()), host: Some("172.17.4.201".into()) };
        let event = compose(&source, &occurrence, 0xabc);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.metadata.name.as_deref(), Some("172.17.4.201.abc"));
        assert_eq!(event.reporting_component.as_deref(), Some("kubelet"));
    }
}
