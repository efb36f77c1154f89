//! A shared, indexed cache of one kind, kept current by one watch.
//!
//! Written by the one reflecting task; read by anyone. Observers are called by that task, one change after
//! the other, after the cache shows the change. They must be quick (put a key into a queue) and must not
//! start observing the same informer from inside.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kube::Resource;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::DropGuard;

use crate::key::Key;
use crate::reflect::Sink;

/// One change of the cache.
#[derive(Debug)]
pub enum Delta<K> {
    /// The object is new to the cache.
    Added(Arc<K>),
    /// The object has another resource version than before.
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Clone for Delta<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Updated { old, new } => Self::Updated { old: old.clone(), new: new.clone() },
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

impl<K> Delta<K> {
    /// Returns the object as it is now, or as it last was.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) => object,
            Self::Updated { new, .. } => new,
        }
    }

    /// Returns the object as it was before an update.
    #[must_use]
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Updated { old, .. } => Some(old),
            _ => None,
        }
    }
}

/// Computes the index values that an object is found under.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

type Observer<K> = Box<dyn Fn(&Delta<K>) -> bool + Send + Sync>;

/// A shared cache of one kind. Cloning shares it; the watch ends with the last clone.
pub struct Informer<K> {
    inner: Arc<Inner<K>>,
    _stop: Arc<DropGuard>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), _stop: self._stop.clone() }
    }
}

pub(crate) struct Inner<K> {
    cache: RwLock<Cache<K>>,
    /// Held while a change is applied and told, so that a new observer sees every object exactly once.
    observers: Mutex<Vec<Observer<K>>>,
    synced: watch::Sender<bool>,
    /// The newest version of the server's that the cache shows; raised before observers are told.
    version: AtomicU64,
}

struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indices: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    values_of: IndexFn<K>,
    /// Each bucket is sorted by key.
    buckets: HashMap<String, Vec<(Key, Arc<K>)>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Key, object: &Arc<K>) {
        for value in (self.values_of)(object) {
            let bucket = self.buckets.entry(value).or_default();
            match bucket.binary_search_by(|(other, _)| other.cmp(key)) {
                Ok(at) => bucket[at].1 = object.clone(),
                Err(at) => bucket.insert(at, (key.clone(), object.clone())),
            }
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.values_of)(object) {
            let Some(bucket) = self.buckets.get_mut(&value) else { continue };
            if let Ok(at) = bucket.binary_search_by(|(other, _)| other.cmp(key)) {
                bucket.remove(at);
            }
            if bucket.is_empty() {
                self.buckets.remove(&value);
            }
        }
    }
}

impl<K> Informer<K> {
    pub(crate) fn new(stop: DropGuard) -> Self {
        let cache = Cache { objects: BTreeMap::new(), indices: HashMap::new() };
        let inner = Inner {
            cache: RwLock::new(cache),
            observers: Mutex::new(Vec::new()),
            synced: watch::Sender::new(false),
            version: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner), _stop: Arc::new(stop) }
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner<K>> {
        Arc::downgrade(&self.inner)
    }

    /// Waits until the cache holds what the first list returned.
    pub async fn wait_synced(&self) {
        let mut synced = self.inner.synced.subscribe();
        // The sender lives in `self`, so this ends only with true.
        if synced.wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells whether the cache holds what the first list returned.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Returns the resource version up to which the cache shows every change of its kind: whoever wrote an
    /// object and got version V back sees that write here once this is at least V.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// Returns the object at `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.cache.read().objects.get(key).cloned()
    }

    /// Returns the object `name` in `namespace` (empty for kinds without one).
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&Key::new(namespace, name))
    }

    /// Returns every object, in the order of the keys.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.cache.read().objects.values().cloned().collect()
    }

    /// Returns the keys of every object.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.inner.cache.read().objects.keys().cloned().collect()
    }

    /// Returns how many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.cache.read().objects.len()
    }

    /// Tells whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the objects of `namespace`.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        let cache = self.inner.cache.read();
        cache
            .objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Makes objects findable by [`Informer::by_index`]. Adding a known name again changes nothing, so that
    /// every user of an index can ask for it.
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        let mut cache = self.inner.cache.write();
        let Cache { objects, indices } = &mut *cache;
        if indices.contains_key(name) {
            return;
        }
        let mut index = Index { values_of, buckets: HashMap::new() };
        for (key, object) in objects.iter() {
            index.insert(key, object);
        }
        indices.insert(name, index);
    }

    /// Returns the objects that the index `name` has under `value`, in the order of the keys.
    ///
    /// # Panics
    /// When the index was never added: a mistake of the program.
    #[must_use]
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let cache = self.inner.cache.read();
        let index = cache.indices.get(name).expect("an index is added before it is read");
        index.buckets.get(value).into_iter().flatten().map(|(_, object)| object.clone()).collect()
    }

    /// Calls `observer` for every object that is there as [`Delta::Added`], then for every change.
    pub fn observe(&self, observer: impl Fn(&Delta<K>) + Send + Sync + 'static) {
        self.inner.observe(Box::new(move |delta| {
            observer(delta);
            true
        }));
    }

    /// Returns a queue of every object that is there and every change after. A subscriber that has more than
    /// `limit` changes waiting loses them and gets [`Notice::Resync`] instead.
    #[must_use]
    pub fn subscribe(&self, limit: usize) -> Subscription<K>
    where
        K: Send + Sync + 'static,
    {
        let shared = Arc::new(Mailbox {
            state: Mutex::new(MailboxState { waiting: VecDeque::new(), lost: false }),
            filled: Notify::new(),
        });
        let weak = Arc::downgrade(&shared);
        self.inner.observe(Box::new(move |delta| {
            let Some(mailbox) = weak.upgrade() else { return false };
            mailbox.push(delta, limit);
            true
        }));
        Subscription(shared)
    }
}

impl<K> Inner<K> {
    fn observe(&self, observer: Observer<K>) {
        let mut observers = self.observers.lock();
        let present: Vec<_> = self.cache.read().objects.values().cloned().collect();
        for object in present {
            if !observer(&Delta::Added(object)) {
                return;
            }
        }
        observers.push(observer);
    }

    fn tell(observers: &mut Vec<Observer<K>>, delta: &Delta<K>) {
        observers.retain(|observer| observer(delta));
    }
}

impl<K: Resource + Send + Sync + 'static> Sink<K> for Inner<K> {
    fn replace(&self, objects: Vec<K>, version: &str) {
        let mut observers = self.observers.lock();
        let mut gone: BTreeSet<Key> = self.cache.read().objects.keys().cloned().collect();
        let mut deltas = Vec::new();
        for object in objects {
            gone.remove(&Key::of(&object));
            deltas.extend(self.put(object));
        }
        for key in gone {
            deltas.extend(self.take(&key));
        }
        self.raise_version(version);
        for delta in deltas {
            Self::tell(&mut observers, &delta);
        }
        drop(observers);
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    fn apply(&self, object: K) {
        let mut observers = self.observers.lock();
        let version = object.meta().resource_version.clone();
        let delta = self.put(object);
        self.raise_version(version.as_deref().unwrap_or_default());
        if let Some(delta) = delta {
            Self::tell(&mut observers, &delta);
        }
    }

    fn delete(&self, object: &K) {
        let mut observers = self.observers.lock();
        let delta = self.take(&Key::of(object));
        self.raise_version(object.meta().resource_version.as_deref().unwrap_or_default());
        if let Some(delta) = delta {
            Self::tell(&mut observers, &delta);
        }
    }

    fn bookmark(&self, version: &str) {
        self.raise_version(version);
    }
}

impl<K: Resource> Inner<K> {
    /// Versions are numbers that grow; what is not one (there is none yet) is passed over.
    fn raise_version(&self, version: &str) {
        if let Ok(version) = version.parse() {
            self.version.fetch_max(version, Ordering::AcqRel);
        }
    }

    fn put(&self, mut object: K) -> Option<Delta<K>> {
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        let new = Arc::new(object);
        let mut cache = self.cache.write();
        let old = cache.objects.get(&key).cloned();
        if let Some(old) = &old {
            if old.meta().resource_version == new.meta().resource_version && old.meta().uid == new.meta().uid
            {
                return None;
            }
            for index in cache.indices.values_mut() {
                index.remove(&key, old);
            }
        }
        for index in cache.indices.values_mut() {
            index.insert(&key, &new);
        }
        cache.objects.insert(key, new.clone());
        Some(match old {
            Some(old) => Delta::Updated { old, new },
            None => Delta::Added(new),
        })
    }

    fn take(&self, key: &Key) -> Option<Delta<K>> {
        let mut cache = self.cache.write();
        let old = cache.objects.remove(key)?;
        for index in cache.indices.values_mut() {
            index.remove(key, &old);
        }
        Some(Delta::Deleted(old))
    }
}

/// What a [`Subscription`] yields.
#[derive(Debug)]
pub enum Notice<K> {
    /// A change, in order.
    Change(Delta<K>),
    /// Changes were lost; read the cache again.
    Resync,
}

/// The changes that wait for one subscriber.
pub struct Subscription<K>(Arc<Mailbox<K>>);

struct Mailbox<K> {
    state: Mutex<MailboxState<K>>,
    filled: Notify,
}

struct MailboxState<K> {
    waiting: VecDeque<Delta<K>>,
    lost: bool,
}

impl<K> Mailbox<K> {
    fn push(&self, delta: &Delta<K>, limit: usize) {
        let mut state = self.state.lock();
        if state.lost {
            return;
        }
        if state.waiting.len() >= limit {
            state.waiting = VecDeque::new();
            state.lost = true;
        } else {
            state.waiting.push_back(delta.clone());
        }
        drop(state);
        self.filled.notify_one();
    }
}

impl<K> Subscription<K> {
    /// Returns the next change; waits for it.
    pub async fn next(&mut self) -> Notice<K> {
        loop {
            let filled = self.0.filled.notified();
            {
                let mut state = self.0.state.lock();
                if std::mem::take(&mut state.lost) {
                    return Notice::Resync;
                }
                if let Some(delta) = state.waiting.pop_front() {
                    return Notice::Change(delta);
                }
            }
            filled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("default".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.into());
        object.data = Some([("v".to_string(), version.to_string())].into());
        object
    }

    fn informer() -> Informer<ConfigMap> {
        Informer::new(CancellationToken::new().drop_guard())
    }

    fn text(delta: &Delta<ConfigMap>) -> String {
        let name = |object: &ConfigMap| {
            format!(
                "{}@{}",
                object.metadata.name.as_deref().unwrap(),
                object.metadata.resource_version.as_deref().unwrap()
            )
        };
        match delta {
            Delta::Added(object) => format!("+{}", name(object)),
            Delta::Updated { old, new } => format!("{}>{}", name(old), name(new)),
            Delta::Deleted(object) => format!("-{}", name(object)),
        }
    }

    #[test]
    fn a_relist_tells_only_what_changed() {
        let informer = informer();
        informer.inner.replace(vec![object("a", "1"), object("b", "2")], "2");
        let seen = Arc::new(Mutex::new(Vec::new()));
        informer.observe({
            let seen = seen.clone();
            move |delta| seen.lock().push(text(delta))
        });
        informer.inner.replace(vec![object("b", "2"), object("c", "4")], "4");
        informer.inner.apply(object("c", "5"));
        informer.inner.apply(object("c", "5"));
        informer.inner.delete(&object("c", "6"));
        assert_eq!(*seen.lock(), ["+a@1", "+b@2", "+c@4", "-a@1", "c@4>c@5", "-c@5"]);
        assert!(informer.is_synced());
        assert_eq!(informer.version(), 6);
    }

    #[test]
    fn an_index_follows_every_change_and_sees_what_was_there_before_it() {
        let informer = informer();
        informer.inner.apply(object("a", "1"));
        let by_value: IndexFn<ConfigMap> =
            |object| object.data.iter().flat_map(|data| data.values().cloned()).collect();
        informer.add_index("value", by_value);
        informer.inner.apply(object("b", "1"));
        assert_eq!(informer.by_index("value", "1").len(), 2);
        informer.inner.apply(object("b", "2"));
        assert_eq!(informer.by_index("value", "1").len(), 1);
        assert_eq!(informer.by_index("value", "2").len(), 1);
        informer.inner.delete(&object("b", "3"));
        assert!(informer.by_index("value", "2").is_empty());
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_to_resync_and_a_quick_one_loses_nothing() {
        let informer = informer();
        let (mut slow, mut quick) = (informer.subscribe(2), informer.subscribe(100));
        for version in 1..=5 {
            informer.inner.apply(object("a", &version.to_string()));
        }
        assert!(matches!(slow.next().await, Notice::Resync));
        informer.inner.apply(object("a", "6"));
        assert!(matches!(slow.next().await, Notice::Change(Delta::Updated { .. })));
        for _ in 0..6 {
            assert!(matches!(quick.next().await, Notice::Change(_)));
        }
    }

    #[test]
    fn a_namespace_holds_only_its_own_objects() {
        let informer = informer();
        for namespace in ["a", "b", "bb"] {
            let mut one = object("x", "1");
            one.metadata.namespace = Some(namespace.into());
            informer.inner.apply(one);
        }
        assert_eq!(informer.in_namespace("b").len(), 1);
    }
}
