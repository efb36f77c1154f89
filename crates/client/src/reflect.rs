//! Keeps a sink (an informer, or a cache of its own kind) equal to the server: list, watch, resume, and list again only when history is gone.

use std::fmt::Debug;
use std::sync::Weak;
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::Backoff;
use serde::de::DeserializeOwned;

/// How many objects a list asks for at a time.
const PAGE: u32 = 500;
/// A watch that ends sooner than this counts as failed, so that a broken server is not hammered.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// Which objects of a kind an informer wants; everything by default.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

/// What a reflection keeps current. Called by one task, in the order of the changes; must not wait for anything.
pub trait Sink<K>: Send + Sync + 'static {
    /// Takes the result of a list that is true at `version`: what is not in it is gone.
    fn replace(&self, objects: Vec<K>, version: &str);
    /// Takes an object that was made or changed.
    fn apply(&self, object: K);
    /// Takes the last state of an object that is gone.
    fn delete(&self, object: &K);
    /// Hears that nothing else has changed up to `version`.
    fn bookmark(&self, version: &str);
}

/// How a watch came to its end.
enum End {
    /// Go on from the last version seen.
    Resume,
    /// The history is gone: list again.
    Expired,
}

/// Reflects until the sink is dropped; the caller cancels it then.
pub(crate) async fn run<K, S>(
    api: Api<K>,
    selection: Selection,
    into: Weak<S>,
    clock: SharedClock,
    random: Random,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    S: Sink<K>,
{
    let what = api.resource_url().to_owned();
    let mut failures = 0;
    'list: loop {
        let (objects, mut version) = match list(&api, &selection).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%what, %error, "listing failed; trying again");
                clock.after(Backoff::PATIENT.delay(failures, &random)).await;
                failures = failures.saturating_add(1);
                continue;
            }
        };
        let Some(sink) = into.upgrade() else { return };
        sink.replace(objects, &version);
        drop(sink);
        loop {
            let began = clock.now();
            match watch(&api, &selection, &mut version, &into).await {
                Ok(End::Resume) if clock.now().duration_since(began).unsigned_abs() >= SHORT_WATCH => {
                    failures = 0;
                    continue;
                }
                Ok(End::Resume) => {}
                Ok(End::Expired) => {
                    tracing::debug!(%what, version, "history is gone; listing again");
                    if failures > 0 {
                        clock.after(Backoff::QUICK.delay(failures, &random)).await;
                    }
                    failures = failures.saturating_add(1);
                    continue 'list;
                }
                Err(error) => tracing::warn!(%what, %error, "watch broke; resuming"),
            }
            clock.after(Backoff::QUICK.delay(failures, &random)).await;
            failures = failures.saturating_add(1);
        }
    }
}

async fn list<K>(api: &Api<K>, selection: &Selection) -> kube::Result<(Vec<K>, String)>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut params = ListParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        limit: Some(PAGE),
        ..ListParams::default()
    };
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        if objects.is_empty() {
            objects = page.items;
        } else {
            objects.extend(page.items);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok((objects, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

async fn watch<K, S>(
    api: &Api<K>,
    selection: &Selection,
    version: &mut String,
    into: &Weak<S>,
) -> kube::Result<End>
where
    K: Resource + Clone + Debug + DeserializeOwned,
    S: Sink<K>,
{
    let params = WatchParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        bookmarks: true,
        ..WatchParams::default()
    };
    let stream = match api.watch(&params, version).await {
        Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Expired),
        other => other?,
    };
    futures::pin_mut!(stream);
    while let Some(event) = stream.try_next().await? {
        let Some(sink) = into.upgrade() else { return Ok(End::Resume) };
        let seen = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let seen = object.meta().resource_version.clone();
                sink.apply(object);
                seen
            }
            WatchEvent::Deleted(object) => {
                sink.delete(&object);
                object.meta().resource_version.clone()
            }
            WatchEvent::Bookmark(bookmark) => {
                sink.bookmark(&bookmark.metadata.resource_version);
                Some(bookmark.metadata.resource_version)
            }
            WatchEvent::Error(status) if status.code == 410 => return Ok(End::Expired),
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        if let Some(seen) = seen {
            *version = seen;
        }
    }
    Ok(End::Resume)
}
