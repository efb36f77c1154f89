//! Events: containerd's own, of which each version from 1.6 on has a stream, turned into this crate's.
//!
//! containerd tells of a process's end before its CRI part knows of it; an event is passed on when whoever then
//! asks for the container sees it in its new state. When the stream breaks, everything that has ended is told anew.

use std::sync::Arc;
use std::time::Duration;

use machinery::retry::{Attempt, Backoff, until_sent};
use prost::Message;

use super::grpc::{Answers, Status};
use super::proto::containerd::{Envelope, SubscribeRequest, TaskEvent, TaskExit};
use super::{Inner, PATIENCE, failure};
use crate::{ContainerEvent, ContainerEventKind, ContainerState, Error, Result, SandboxState};

/// What is listened to.
const FILTERS: [&str; 2] =
    ["namespace==k8s.io,topic==\"/tasks/start\"", "namespace==k8s.io,topic==\"/tasks/exit\""];
/// How long the CRI may take to notice what containerd has told.
const NOTICE: Duration = Duration::from_secs(60);

/// Begins to listen. When this returns, nothing that happens is missed.
pub(super) async fn start(inner: &Arc<Inner>) -> Result<()> {
    let stream =
        subscribe(inner).await.map_err(failure::of("subscribing to the runtime's events", PATIENCE))?;
    let stop = inner.tasks.token();
    let this = Arc::clone(inner);
    inner.tasks.spawn("container events", async move {
        tokio::select! {
            () = listen(&this, stream) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}

async fn subscribe(inner: &Inner) -> std::result::Result<Answers<Envelope>, Status> {
    let request = SubscribeRequest { filters: FILTERS.map(str::to_owned).to_vec() };
    inner.channel.stream("/containerd.services.events.v1.Events/Subscribe", &request).await
}

async fn listen(inner: &Arc<Inner>, mut stream: Answers<Envelope>) {
    let mut failures = 0;
    loop {
        let error = match stream.next().await {
            Ok(Some(event)) => {
                failures = 0;
                take(inner, &event).await;
                continue;
            }
            Ok(None) => "it was ended".to_owned(),
            Err(status) => status.to_string(),
        };
        tracing::warn!(error, "the stream of the runtime's events broke; connecting again");
        stream = loop {
            inner.config.clock.after(Backoff::PATIENT.delay(failures, &inner.config.random)).await;
            failures += 1;
            match subscribe(inner).await {
                Ok(stream) => break stream,
                Err(error) => tracing::debug!(%error, "subscribing to the runtime's events"),
            }
        };
        if let Err(error) = tell_ends(inner).await {
            tracing::warn!(%error, "looking for what ended while the runtime was away");
        }
    }
}

/// Tells of everything that has ended: a reader that knows already finds nothing new.
async fn tell_ends(inner: &Inner) -> Result<()> {
    for container in inner.list_containers().await? {
        if container.state == ContainerState::Exited {
            inner.publish(&container.id, &container.sandbox_id, ContainerEventKind::Stopped);
        }
    }
    for sandbox in inner.list_sandboxes().await? {
        if sandbox.state == SandboxState::NotReady {
            inner.publish(&sandbox.id, &sandbox.id, ContainerEventKind::SandboxStopped);
        }
    }
    Ok(())
}

async fn take(inner: &Arc<Inner>, envelope: &Envelope) {
    let value = envelope.event.as_ref().map(|event| event.value.as_slice()).unwrap_or_default();
    match envelope.topic.as_str() {
        "/tasks/start" => {
            let Ok(event) = TaskEvent::decode(value) else { return };
            // In turn, so that a start is told before its end is.
            let id = &event.container_id;
            if let Some(sandbox) = inner.noticed(id, |state| state != ContainerState::Created).await {
                inner.publish(id, &sandbox, ContainerEventKind::Started);
            }
        }
        "/tasks/exit" => {
            let Ok(event) = TaskExit::decode(value) else { return };
            if event.id != event.container_id {
                // A command in the container.
                return;
            }
            let (this, stop) = (Arc::clone(inner), inner.tasks.token());
            inner.tasks.spawn("container's end", async move {
                let ended = async {
                    let id = &event.container_id;
                    if let Some(sandbox) = this.noticed(id, |state| state == ContainerState::Exited).await {
                        this.publish(id, &sandbox, ContainerEventKind::Stopped);
                    } else if this.sandbox(id).await.is_ok() {
                        this.publish(id, id, ContainerEventKind::SandboxStopped);
                    }
                };
                tokio::select! {
                    () = ended => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        _ => {}
    }
}

impl Inner {
    /// Waits until the CRI knows that a container is in a state, or it has been removed. Returns its sandbox, or
    /// `None` when it is none of this engine's containers.
    async fn noticed(&self, id: &str, there: fn(ContainerState) -> bool) -> Option<String> {
        let (clock, random) = (self.config.clock.as_ref(), &self.config.random);
        let outcome =
            until_sent("the runtime to notice", NOTICE, Backoff::QUICK, clock, random, || async move {
                match self.container_status(id).await {
                    Ok(status) if there(status.state) => Attempt::Done(Some(status.sandbox_id)),
                    Ok(status) => Attempt::Again(format!("{:?}", status.state)),
                    Err(Error::NotFound { .. }) => Attempt::Done(self.owners.lock().get(id).cloned()),
                    Err(error) => Attempt::<_, String>::Again(error.to_string()),
                }
            });
        match outcome.await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(container = id, %error, "an event is not passed on");
                None
            }
        }
    }

    fn publish(&self, id: &str, sandbox_id: &str, kind: ContainerEventKind) {
        let event = ContainerEvent { id: id.to_owned(), sandbox_id: sandbox_id.to_owned(), kind };
        // Without a reader there is nobody to miss it.
        drop(self.events.send(event));
    }
}
