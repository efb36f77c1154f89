//! Config maps and secrets that pods of this node refer to: got when first needed, then watched one by one,
//! since a node may see only the objects of its own pods.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use client::{Informer, Informers, Selection};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use crate::pods;

/// What kind of object is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A config map.
    ConfigMap,
    /// A secret.
    Secret,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reference {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// The objects in use on this node. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Objects {
    informers: Informers,
    inner: Arc<Inner>,
    changes: broadcast::Sender<Reference>,
}

#[derive(Default)]
struct Inner {
    config_maps: Mutex<HashMap<Reference, Watched<ConfigMap>>>,
    secrets: Mutex<HashMap<Reference, Watched<Secret>>>,
}

struct Watched<K> {
    users: usize,
    informer: Informer<K>,
}

/// Keeps an object watched; dropping the last one ends its watch.
#[derive(Debug)]
pub(crate) struct Lease {
    reference: Reference,
    inner: Weak<Inner>,
}

impl Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        match self.reference.kind {
            Kind::ConfigMap => release(&inner.config_maps, &self.reference),
            Kind::Secret => release(&inner.secrets, &self.reference),
        }
    }
}

fn release<K>(map: &Mutex<HashMap<Reference, Watched<K>>>, reference: &Reference) {
    let mut map = map.lock();
    let Some(watched) = map.get_mut(reference) else { return };
    watched.users -= 1;
    // Dropped after the lock: the end of a watch may take other locks.
    let last = if watched.users == 0 { map.remove(reference) } else { None };
    drop(map);
    drop(last);
}

impl Objects {
    /// Returns an empty set.
    pub(crate) fn new(informers: Informers) -> Self {
        Self { informers, inner: Arc::default(), changes: broadcast::Sender::new(256) }
    }

    /// Returns a channel that names each object that changed. Late readers must look at all of theirs.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Reference> {
        self.changes.subscribe()
    }

    /// Watches an object for as long as the lease lives.
    pub(crate) fn lease(&self, reference: &Reference) -> Lease {
        match reference.kind {
            Kind::ConfigMap => self.enter(&self.inner.config_maps, reference),
            Kind::Secret => self.enter(&self.inner.secrets, reference),
        }
        Lease { reference: reference.clone(), inner: Arc::downgrade(&self.inner) }
    }

    fn enter<K>(&self, map: &Mutex<HashMap<Reference, Watched<K>>>, reference: &Reference)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let mut map = map.lock();
        map.entry(reference.clone())
            .or_insert_with(|| {
                let api = Api::<K>::namespaced(self.informers.client(), &reference.namespace);
                let fields = Some(format!("metadata.name={}", reference.name));
                let informer = self.informers.start(api, Selection { labels: None, fields });
                let (changes, reference) = (self.changes.clone(), reference.clone());
                informer.observe(move |_| {
                    // Nobody listening is fine: the object is read when it is needed.
                    changes.send(reference.clone()).ok();
                });
                Watched { users: 0, informer }
            })
            .users += 1;
    }

    /// Returns a config map, or `None` when there is none of this name.
    ///
    /// # Errors
    /// What the API answered.
    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, String> {
        let reference = Reference { kind: Kind::ConfigMap, namespace: namespace.into(), name: name.into() };
        self.get(&self.inner.config_maps, reference).await
    }

    /// Returns a secret, or `None` when there is none of this name.
    ///
    /// # Errors
    /// What the API answered.
    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, String> {
        let reference = Reference { kind: Kind::Secret, namespace: namespace.into(), name: name.into() };
        self.get(&self.inner.secrets, reference).await
    }

    async fn get<K>(
        &self,
        map: &Mutex<HashMap<Reference, Watched<K>>>,
        reference: Reference,
    ) -> Result<Option<Arc<K>>, String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let watched = map.lock().get(&reference).map(|one| one.informer.clone());
        if let Some(found) = watched
            .filter(Informer::is_synced)
            .and_then(|known| known.find(&reference.namespace, &reference.name))
        {
            return Ok(Some(found));
        }
        // Not watched yet, or just made: ask.
        let api = Api::<K>::namespaced(self.informers.client(), &reference.namespace);
        match api.get_opt(&reference.name).await {
            Ok(found) => Ok(found.map(Arc::new)),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => Err(format!("failed to fetch {:?} {}: {error}", reference.kind, reference.name)),
        }
    }
}

/// Returns every object that a pod refers to in its volumes and environments.
pub(crate) fn references(pod: &Pod) -> Vec<Reference> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut found: BTreeMap<Reference, ()> = BTreeMap::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            found.insert(Reference { kind, namespace: namespace.clone(), name: name.to_owned() }, ());
        }
    };
    let Some(spec) = &pod.spec else { return Vec::new() };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let (config_maps, secrets) = pods::environment_references(container);
        config_maps.iter().for_each(|name| add(Kind::ConfigMap, name));
        secrets.iter().for_each(|name| add(Kind::Secret, name));
    }
    for volume in spec.volumes.iter().flatten() {
        let Volume { config_map, secret, projected, .. } = volume;
        if let Some(map) = config_map {
            add(Kind::ConfigMap, &map.name);
        }
        if let Some(name) = secret.as_ref().and_then(|secret| secret.secret_name.as_deref()) {
            add(Kind::Secret, name);
        }
        for source in projected.iter().flat_map(|one| one.sources.iter().flatten()) {
            if let Some(map) = &source.config_map {
                add(Kind::ConfigMap, &map.name);
            }
            if let Some(secret) = &source.secret {
                add(Kind::Secret, &secret.name);
            }
        }
    }
    found.into_keys().collect()
}
