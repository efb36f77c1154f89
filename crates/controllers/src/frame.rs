//! What every controller stands on: the shared context, its workers, and writing back only what differs.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, Informers, Key, Recorder, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Config;

/// What the controllers of a process share. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) informers: Informers,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: SharedClock,
    pub(crate) random: Random,
    pub(crate) tasks: Tasks,
}

/// Why a key could not be reconciled. It is tried again after a back-off, whatever the reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Tells whether this only says that the cache was behind: the news is on its way.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// What a reconciliation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until something changes.
    Done,
    /// To look again after this time, if nothing changes before.
    After(Duration),
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Context {
    pub(crate) fn queue<T: Clone + Eq + Hash>(&self) -> WorkQueue<T> {
        WorkQueue::new(self.clock.clone(), self.random.clone())
    }

    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::start(self.client.clone(), component, None, self.clock.clone(), &self.tasks)
    }

    /// Returns the time as the API writes it: in whole seconds.
    pub(crate) fn now(&self) -> Time {
        whole_seconds(self.clock.now())
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn cluster_api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Starts `count` workers that reconcile what comes out of `queue`, once `ready` is complete.
    pub(crate) fn work<T, R, F>(
        &self,
        name: &'static str,
        count: usize,
        queue: &WorkQueue<T>,
        ready: impl Future<Output = ()> + Send + 'static,
        reconcile: R,
    ) where
        T: Clone + Eq + Hash + Debug + Send + Sync + 'static,
        R: Fn(T) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Next>> + Send + 'static,
    {
        let tasks = self.tasks.clone();
        let queue = queue.clone();
        self.tasks.spawn(name, async move {
            ready.await;
            for _ in 0..count {
                let (queue, reconcile) = (queue.clone(), reconcile.clone());
                tasks.spawn(name, async move {
                    while let Some(item) = queue.get().await {
                        work_on(name, &queue, item, &reconcile).await;
                    }
                });
            }
        });
    }
}

async fn work_on<T, R, F>(name: &'static str, queue: &WorkQueue<T>, item: T, reconcile: &R)
where
    T: Clone + Eq + Hash + Debug,
    R: Fn(T) -> F,
    F: Future<Output = Result<Next>>,
{
    match reconcile(item.clone()).await {
        Ok(next) => {
            queue.forget(&item);
            if let Next::After(delay) = next {
                queue.add_after(item.clone(), delay);
            }
        }
        Err(error) => {
            if error.is_stale() && queue.failures(&item) < 5 {
                tracing::debug!(controller = name, ?item, %error, "trying again");
            } else {
                tracing::warn!(controller = name, ?item, %error, "trying again");
            }
            queue.add_rate_limited(item.clone());
        }
    }
    queue.done(&item);
}

/// The versions of what was last written for each key, until a cache shows it. Whoever decides from a cache that
/// lags behind its own writes would do them twice.
#[derive(Debug)]
pub(crate) struct Written<T>(parking_lot::Mutex<std::collections::HashMap<T, u64>>);

impl<T> Default for Written<T> {
    fn default() -> Self {
        Self(parking_lot::Mutex::default())
    }
}

impl<T: Clone + Eq + Hash> Written<T> {
    /// When to look again although the cache has not caught up: a lost connection may have hidden the change.
    pub(crate) const CATCH_UP: Duration = Duration::from_secs(5);

    /// Remembers that `object` was written for `key`.
    pub(crate) fn note<K: Resource>(&self, key: &T, object: &K) {
        let mut written = self.0.lock();
        let last = written.entry(key.clone()).or_insert(0);
        *last = (*last).max(version(object));
    }

    /// Tells whether a cache at `version` shows everything that was written for `key`.
    pub(crate) fn is_shown(&self, key: &T, version: u64) -> bool {
        let mut written = self.0.lock();
        match written.get(key) {
            Some(last) if version < *last => false,
            Some(_) => {
                written.remove(key);
                true
            }
            None => true,
        }
    }

    pub(crate) fn forget(&self, key: &T) {
        self.0.lock().remove(key);
    }
}

/// Puts the key of every changed object into `queue`.
pub(crate) fn enqueue<K>(informer: &Informer<K>, queue: &WorkQueue<Key>)
where
    K: Resource + Send + Sync + 'static,
{
    let queue = queue.clone();
    informer.observe(move |delta: &Delta<K>| queue.add(Key::of(&**delta.object())));
}

pub(crate) fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// Returns how long it is from `now` until `span` after `from`; zero when that has passed.
pub(crate) fn until(from: Timestamp, span: Duration, now: Timestamp) -> Duration {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    let due = from.saturating_add(span).unwrap_or(Timestamp::MAX);
    Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Returns a non-negative number of seconds as a duration.
pub(crate) fn seconds(count: impl Into<i64>) -> Duration {
    Duration::from_secs(u64::try_from(count.into()).unwrap_or(0))
}

/// Returns the owner that controls an object.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Returns a reference that makes `owner` the controller of what carries it.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub(crate) fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace<K: Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

pub(crate) fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

pub(crate) fn is_deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

pub(crate) fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Returns the merge patch that makes `new` of `old`, if they differ.
pub(crate) fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = serde_json::Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(known) => {
                if let Some(part) = difference(known, value) {
                    patch.insert(key.clone(), part);
                }
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in before.keys() {
        if !after.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Writes what differs between the statuses; returns whether anything did. The patch applies only to the
/// object that was looked at, not to a later one of the same name.
pub(crate) async fn write_status<K, S>(api: &Api<K>, object: &K, old: &S, new: &S) -> Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    S: Serialize + ?Sized,
{
    let value = |status: &S| {
        serde_json::to_value(status).map_err(|error| Error::Other(format!("encoding a status: {error}")))
    };
    let Some(status) = difference(&value(old)?, &value(new)?) else { return Ok(false) };
    let patch = serde_json::json!({ "metadata": { "uid": object.meta().uid }, "status": status });
    api.patch_status(name(object), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(true)
}

/// Returns the status code of an API error.
pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Returns the server's words without the client's decoration.
pub(crate) fn error_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Takes "it is not there" as an answer.
pub(crate) fn absent_is_fine<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_difference_is_a_merge_patch() {
        for (old, new, patch) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 3}), Some(json!({"a": 3, "b": null}))),
            (json!({"a": {"b": 1, "c": 1}}), json!({"a": {"b": 2, "c": 1}}), Some(json!({"a": {"b": 2}}))),
            (json!({"l": [1]}), json!({"l": [1, 2]}), Some(json!({"l": [1, 2]}))),
            (Value::Null, json!({"a": 1}), Some(json!({"a": 1}))),
        ] {
            assert_eq!(difference(&old, &new), patch, "{old} to {new}");
        }
    }
}
