//! The audit log: who asked for what, what was sent and answered, as the policy wants it.
//!
//! The server asks for a [`Trail`] when it knows who asks; the trail writes an event at each stage that the
//! policy wants. A request that the policy does not want has no trail and costs one walk over the rules.

mod log;
mod policy;

use std::sync::Arc;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::request::Parts;
use machinery::clock::SharedClock;
use machinery::serve::Peer;
use machinery::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use log::LogFile;
pub use policy::{Level, Policy, Stage};

use crate::access::UserInfo;
use crate::path::RequestInfo;

/// How audit is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is written down.
    pub policy: Policy,
    /// Where.
    pub log: LogFile,
}

/// Decides and writes.
pub(crate) struct Audit {
    policy: Policy,
    lines: mpsc::Sender<String>,
    clock: SharedClock,
}

impl Audit {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(crate) fn open(settings: Settings, clock: SharedClock, tasks: &Tasks) -> Result<Self, String> {
        let path = settings.log.path.clone();
        let lines = log::start(settings.log, clock.clone(), tasks)
            .map_err(|error| format!("opening the audit log {}: {error}", path.display()))?;
        Ok(Self { policy: settings.policy, lines, clock })
    }

    /// Begins the trail of a request; `None` when the policy does not want it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: &str,
        parts: &Parts,
        info: &RequestInfo,
        (sender, user): (&UserInfo, &UserInfo),
    ) -> Option<Trail> {
        let decided = self.policy.decide(user, info);
        if decided.level == Level::None {
            return None;
        }
        let received = self.now();
        let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{:?}", decided.level),
            "auditID": id, "requestURI": parts.uri.path_and_query().map(ToString::to_string),
            "verb": info.verb, "user": sender.to_value(), "userAgent": agent,
            "sourceIPs": sources(parts), "requestReceivedTimestamp": received,
        });
        if sender != user {
            event["impersonatedUser"] = user.to_value();
        }
        if let Some(target) = &info.resource {
            for (key, text) in [
                ("resource", &target.resource),
                ("namespace", &target.namespace),
                ("name", &target.name),
                ("apiGroup", &target.group),
                ("apiVersion", &target.version),
                ("subresource", &target.subresource),
            ] {
                if !text.is_empty() {
                    event["objectRef"][key] = text.as_str().into();
                }
            }
        }
        Some(Trail { audit: self.clone(), decided, event })
    }

    fn now(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    }
}

/// The addresses that a request came by: what proxies say, then the connection's own.
fn sources(parts: &Parts) -> Vec<String> {
    let said =
        parts.headers.get("x-forwarded-for").and_then(|header| header.to_str().ok()).unwrap_or_default();
    let mut found: Vec<String> =
        said.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect();
    if let Some(peer) = parts.extensions.get::<Peer>() {
        let own = peer.address.ip().to_string();
        if !found.contains(&own) {
            found.push(own);
        }
    }
    found
}

/// What is written down of one request.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    decided: policy::Decided,
    event: Value,
}

impl Trail {
    /// Whether what was sent is wanted.
    pub(crate) fn wants_request(&self) -> bool {
        self.decided.level >= Level::Request
    }

    /// Whether what is answered is wanted.
    pub(crate) fn wants_response(&self) -> bool {
        self.decided.level >= Level::RequestResponse
    }

    /// Takes note of what was sent, in whatever form.
    pub(crate) fn request(&mut self, headers: &http::HeaderMap, body: &Bytes) {
        let decoded = match crate::decode::media_type(headers) {
            "application/apply-patch+yaml" => crate::decode::yaml(body),
            other if other.ends_with("+json") => crate::decode::json(body),
            _ => crate::decode::object(headers, body),
        };
        if let Ok(decoded) = decoded {
            self.event["requestObject"] = self.shown(decoded.value);
        }
    }

    /// Takes note of what was answered.
    pub(crate) fn response(&mut self, body: &[u8]) {
        if let Ok(value) = serde_json::from_slice(body) {
            self.event["responseObject"] = self.shown(value);
        }
    }

    fn shown(&self, mut value: Value) -> Value {
        if self.decided.omit_managed_fields {
            without_managed_fields(&mut value);
        }
        value
    }

    /// Adds notes.
    pub(crate) fn annotate(&mut self, annotations: impl IntoIterator<Item = (String, String)>) {
        for (key, value) in annotations {
            self.event["annotations"][key] = value.into();
        }
    }

    /// Writes that the request has come in.
    pub(crate) async fn received(&self) {
        if let Some(line) = self.line(Stage::RequestReceived, None) {
            self.send(line).await;
        }
    }

    /// Writes how a request was answered.
    pub(crate) async fn answered(&self, stage: Stage, code: u16, failure: Option<&Value>) {
        if let Some(line) = self.line(stage, Some((code, failure))) {
            self.send(line).await;
        }
    }

    /// Writes that an answer that went on for a while has ended. It may be lost when the disk does not follow:
    /// nobody is left to wait.
    pub(crate) fn ended(&self, code: u16) {
        if let Some(line) = self.line(Stage::ResponseComplete, Some((code, None)))
            && let Err(error) = self.audit.lines.try_send(line)
        {
            tracing::warn!(%error, "an audit event is lost");
        }
    }

    async fn send(&self, line: String) {
        if self.audit.lines.send(line).await.is_err() {
            tracing::debug!("the audit log has ended");
        }
    }

    fn line(&self, stage: Stage, answer: Option<(u16, Option<&Value>)>) -> Option<String> {
        if !self.decided.wants(stage) {
            return None;
        }
        let mut event = self.event.clone();
        event["stage"] = format!("{stage:?}").into();
        event["stageTimestamp"] = self.audit.now().into();
        if let Some((code, failure)) = answer {
            event["responseStatus"] = json!({"metadata": {}, "code": code});
            for key in ["status", "message", "reason", "details"] {
                if let Some(value) = failure.and_then(|failure| failure.get(key)) {
                    event["responseStatus"][key] = value.clone();
                }
            }
        }
        Some(event.to_string())
    }
}

fn without_managed_fields(value: &mut Value) {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(without_managed_fields);
    }
}

/// Writes the end of a long answer when its body goes.
pub(crate) struct AtEnd(pub(crate) Trail, pub(crate) u16);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.ended(self.1);
    }
}
