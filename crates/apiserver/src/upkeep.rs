//! What the server does by itself while it runs: its own service is put back when somebody takes it away,
//! history is forgotten, old events are deleted.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cache::{Object, Watcher};
use crate::masters::Presence;
use crate::path::Target;
use crate::rest::DeleteOptions;
use crate::server::ApiServer;

/// How much history the store keeps, so that watches can be resumed and lists be continued.
const HISTORY: Duration = Duration::from_secs(300);
/// How long an event is kept after it was last seen.
const EVENT_LIFE: Duration = Duration::from_secs(3600);
/// The least pause between two looks for old events.
const EVENT_PAUSE: Duration = Duration::from_secs(60);

/// Starts the tasks.
pub(crate) fn start(server: &Arc<ApiServer>) {
    let tasks = server.tasks.clone();
    let own = server.clone();
    tasks.spawn("own service", async move { keep_service(&own).await });
    if server.config.several_masters {
        let own = server.clone();
        tasks.spawn("announcement", async move { crate::masters::announce(&own).await });
    }
    let own = server.clone();
    tasks.spawn("custom definitions", async move { crate::custom::run(&own).await });
    let own = server.clone();
    tasks.spawn("aggregated apis", async move { crate::aggregate::run(&own).await });
    let own = server.clone();
    tasks.spawn("compaction", async move { compact(&own).await });
    let own = server.clone();
    tasks.spawn("old events", async move { forget_events(&own).await });
}

/// Puts the API's own service and its endpoints back as soon as they change.
async fn keep_service(server: &Arc<ApiServer>) {
    let watch = |resource: &str| server.cache.kind(resource).list_and_watch("default").1;
    let (mut services, mut endpoints, mut slices) =
        (watch("services"), watch("endpoints"), watch("endpointslices.discovery.k8s.io"));
    let mut presence = Presence::new();
    loop {
        let touched = tokio::select! {
            () = presence.changed(server) => true,
            touched = touches(&mut services, "services", server) => touched,
            touched = touches(&mut endpoints, "endpoints", server) => touched,
            touched = touches(&mut slices, "endpointslices.discovery.k8s.io", server) => touched,
        };
        if touched && let Err(error) = crate::bootstrap::own_service(server).await {
            tracing::warn!(%error, "putting back the service of the API");
        }
    }
}

/// Waits for changes; says whether one was of the API's own object.
async fn touches(watcher: &mut Watcher, resource: &str, server: &ApiServer) -> bool {
    match watcher.next(256).await {
        Ok(events) => events.iter().any(|event| &*event.object.key == "default/kubernetes"),
        Err(_) => {
            *watcher = server.cache.kind(resource).list_and_watch("default").1;
            true
        }
    }
}

/// Lets the store forget what is older than [`HISTORY`].
async fn compact(server: &ApiServer) {
    let mut last = server.cache.revision();
    loop {
        server.clock.after(HISTORY).await;
        if let Err(error) = server.cache.store().compact(last).await {
            tracing::warn!(%error, revision = last, "compacting the store");
        }
        last = server.cache.revision();
    }
}

async fn forget_events(server: &Arc<ApiServer>) {
    let target = Target { version: "v1".into(), resource: "events".into(), ..Target::default() };
    let events = match crate::bootstrap::internal(server, target) {
        Ok(events) => events,
        Err(error) => return tracing::error!(%error, "there are no events"),
    };
    loop {
        let (objects, _) = server.cache.kind("events").all("");
        let (mut next, now) = (EVENT_LIFE, server.clock.now());
        for object in objects {
            let left = left(&object, now);
            if left.is_zero() {
                match events.delete_object(&object.key, &DeleteOptions::default()).await {
                    Ok(_) => {}
                    Err(error) if error.code == 404 => {}
                    Err(error) => tracing::debug!(%error, key = &*object.key, "deleting an old event"),
                }
            } else {
                next = next.min(left);
            }
        }
        server.clock.after(next.max(EVENT_PAUSE)).await;
    }
}

/// Returns how long an event is still to be kept.
fn left(event: &Object, now: Timestamp) -> Duration {
    let event = event.value();
    let seen = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ]
    .into_iter()
    .find_map(|time: &Value| time.as_str()?.parse::<Timestamp>().ok());
    let life = SignedDuration::try_from(EVENT_LIFE).unwrap_or(SignedDuration::MAX);
    let end = seen.unwrap_or(now).saturating_add(life).unwrap_or(Timestamp::MAX);
    Duration::try_from(end.duration_since(now)).unwrap_or_default()
}
