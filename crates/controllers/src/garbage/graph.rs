//! Who owns whom. Holds only objects that have owners, and owners that wait for their dependents.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use client::{Sink, WorkQueue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::discover::{Meta, Resource};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";
/// How many uids of objects that are gone are remembered.
const REMEMBERED: usize = 2000;

pub(crate) type Uid = Arc<str>;

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    /// An owner that an object names: is it there at all?
    Owner(Uid),
    /// An object with owners: has it any left?
    Dependent(Uid),
    /// An owner that waits for its dependents to go, or to be set free.
    Waiting(Uid),
}

/// Where an object is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

#[derive(Debug)]
struct Dependent {
    identity: Identity,
    owners: Vec<OwnerReference>,
}

/// An owner as its dependents describe it.
#[derive(Debug)]
struct Owner {
    dependents: HashSet<Uid>,
    reference: OwnerReference,
    namespace: Arc<str>,
}

/// The graph. Written by the watches, read by the engine's workers.
#[derive(Debug, Default)]
struct State {
    dependents: HashMap<Uid, Dependent>,
    owners: HashMap<Uid, Owner>,
    /// Objects that are being deleted and wait for their dependents; true is to set them free.
    waiting: HashMap<Uid, (Identity, bool)>,
    gone: HashSet<Uid>,
    gone_in_order: VecDeque<Uid>,
}

pub(crate) struct Graph {
    state: Mutex<State>,
    pub(crate) queue: WorkQueue<Item>,
}

impl Graph {
    pub(crate) fn new(queue: WorkQueue<Item>) -> Self {
        Self { state: Mutex::default(), queue }
    }

    /// Returns where an object with owners is.
    pub(crate) fn identity(&self, uid: &Uid) -> Option<Identity> {
        self.state.lock().dependents.get(uid).map(|dependent| dependent.identity.clone())
    }

    /// Returns how the dependents of an owner name it, and the namespace that they are in.
    pub(crate) fn owner(&self, uid: &Uid) -> Option<(OwnerReference, Arc<str>)> {
        self.state.lock().owners.get(uid).map(|owner| (owner.reference.clone(), owner.namespace.clone()))
    }

    pub(crate) fn waiting(&self, uid: &Uid) -> Option<(Identity, bool)> {
        self.state.lock().waiting.get(uid).cloned()
    }

    /// Returns the dependents of an owner; true marks those that its deletion waits for.
    pub(crate) fn dependents(&self, uid: &Uid) -> Vec<(Uid, Identity, bool)> {
        let state = self.state.lock();
        let Some(owner) = state.owners.get(uid) else { return Vec::new() };
        owner
            .dependents
            .iter()
            .filter_map(|dependent| {
                let found = state.dependents.get(dependent)?;
                let blocks = found
                    .owners
                    .iter()
                    .any(|owner| *owner.uid == **uid && owner.block_owner_deletion == Some(true));
                Some((dependent.clone(), found.identity.clone(), blocks))
            })
            .collect()
    }

    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.state.lock().gone.contains(uid)
    }

    /// Takes note that the object with this uid is gone, and has its dependents looked at.
    pub(crate) fn set_gone(&self, uid: &Uid) {
        let mut state = self.state.lock();
        state.set_gone(uid);
        self.look_at_dependents(&state, uid);
    }

    fn look_at_dependents(&self, state: &State, uid: &Uid) {
        for dependent in state.owners.get(uid).into_iter().flat_map(|owner| &owner.dependents) {
            self.queue.add(Item::Dependent(dependent.clone()));
        }
    }

    fn apply(&self, resource: &Arc<Resource>, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref() else { return };
        let uid: Uid = uid.into();
        let mut state = self.state.lock();
        let identity = || Identity {
            resource: resource.clone(),
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
        };
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let has = |finalizer: &str| finalizers.iter().any(|found| found == finalizer);
        if meta.deletion_timestamp.is_some() && (has(FOREGROUND) || has(ORPHAN)) {
            let new = state.waiting.insert(uid.clone(), (identity(), has(ORPHAN))).is_none();
            self.queue.add(Item::Waiting(uid.clone()));
            if new && !has(ORPHAN) {
                self.look_at_dependents(&state, &uid);
            }
        } else {
            state.waiting.remove(&uid);
        }
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let known = state.dependents.get(&uid);
        if known.map_or(&[][..], |known| &known.owners) == owners {
            return;
        }
        let changed = known.is_some();
        let former = state.unlink(&uid);
        for owner in owners {
            let owner_uid: Uid = owner.uid.as_str().into();
            let entry = state.owners.entry(owner_uid.clone()).or_insert_with(|| {
                // The first to name it: nobody has seen yet that it is there.
                self.queue.add(Item::Owner(owner_uid));
                Owner {
                    dependents: HashSet::new(),
                    reference: owner.clone(),
                    namespace: meta.namespace.as_deref().unwrap_or_default().into(),
                }
            });
            entry.dependents.insert(uid.clone());
        }
        if !owners.is_empty() {
            let any_gone = owners.iter().any(|owner| state.gone.contains(owner.uid.as_str()));
            let any_waiting = owners.iter().any(|owner| state.waiting.contains_key(owner.uid.as_str()));
            state.dependents.insert(uid.clone(), Dependent { identity: identity(), owners: owners.to_vec() });
            if changed || any_gone || any_waiting {
                self.queue.add(Item::Dependent(uid));
            }
        }
        self.tell_waiting(&state, &former);
    }

    fn remove(&self, uid: &Uid) {
        let mut state = self.state.lock();
        state.waiting.remove(uid);
        state.set_gone(uid);
        let former = state.unlink(uid);
        self.look_at_dependents(&state, uid);
        self.tell_waiting(&state, &former);
    }

    fn tell_waiting(&self, state: &State, owners: &[OwnerReference]) {
        for owner in owners {
            if state.waiting.contains_key(owner.uid.as_str()) {
                self.queue.add(Item::Waiting(owner.uid.as_str().into()));
            }
        }
    }
}

impl State {
    fn set_gone(&mut self, uid: &Uid) {
        if !self.owners.contains_key(uid) || !self.gone.insert(uid.clone()) {
            return;
        }
        self.gone_in_order.push_back(uid.clone());
        if self.gone_in_order.len() > REMEMBERED
            && let Some(oldest) = self.gone_in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// Takes an object out; returns the owners that it had.
    fn unlink(&mut self, uid: &Uid) -> Vec<OwnerReference> {
        let Some(known) = self.dependents.remove(uid) else { return Vec::new() };
        for owner in &known.owners {
            if let Some(entry) = self.owners.get_mut(owner.uid.as_str()) {
                entry.dependents.remove(uid);
                if entry.dependents.is_empty() {
                    self.owners.remove(owner.uid.as_str());
                }
            }
        }
        known.owners
    }
}

/// Feeds the objects of one resource into the graph.
pub(crate) struct Feed {
    graph: Arc<Graph>,
    resource: Arc<Resource>,
    /// What has been seen, so that a new list shows what is gone.
    seen: Mutex<HashSet<Uid>>,
    pub(crate) synced: watch::Sender<bool>,
}

impl Feed {
    pub(crate) fn new(graph: Arc<Graph>, resource: Arc<Resource>) -> Self {
        Self { graph, resource, seen: Mutex::default(), synced: watch::Sender::new(false) }
    }

    /// Remembers what a later list would have to show; returns whether the object has a uid.
    fn see(&self, object: &Meta) {
        if let Some(uid) = &object.metadata.uid {
            self.seen.lock().insert(uid.as_str().into());
        }
    }
}

impl Sink<Meta> for Feed {
    fn replace(&self, objects: Vec<Meta>, _version: &str) {
        let now: HashSet<Uid> =
            objects.iter().filter_map(|object| object.metadata.uid.as_deref()).map(Into::into).collect();
        let before = std::mem::replace(&mut *self.seen.lock(), now.clone());
        for object in &objects {
            self.graph.apply(&self.resource, &object.metadata);
        }
        for uid in before.difference(&now) {
            self.graph.remove(uid);
        }
        self.synced.send_replace(true);
    }

    fn apply(&self, object: Meta) {
        self.see(&object);
        self.graph.apply(&self.resource, &object.metadata);
    }

    fn delete(&self, object: &Meta) {
        if let Some(uid) = &object.metadata.uid {
            let uid: Uid = uid.as_str().into();
            self.seen.lock().remove(&uid);
            self.graph.remove(&uid);
        }
    }

    fn bookmark(&self, _version: &str) {}
}

#[cfg(test)]
mod tests {
    use kube::discovery::ApiResource;
    use machinery::clock;
    use machinery::names::Random;
    use serde_json::{Value, json};

    use super::*;

    fn feed() -> Feed {
        let api = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let resource = Resource {
            api,
            namespaced: true,
            can_watch: true,
            can_delete: true,
            can_delete_collection: true,
        };
        let graph = Arc::new(Graph::new(WorkQueue::new(clock::system(), Random::seeded(1))));
        Feed::new(graph, Arc::new(resource))
    }

    fn object(uid: &str, owners: &[&str], more: Value) -> Meta {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "RC", "name": uid, "uid": uid, "blockOwnerDeletion": true}))
            .collect();
        let mut metadata =
            json!({"uid": uid, "name": uid, "namespace": "default", "ownerReferences": owners});
        for (key, value) in more.as_object().into_iter().flatten() {
            metadata[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    async fn items(graph: &Graph) -> Vec<Item> {
        let mut items = Vec::new();
        while !graph.queue.is_empty() {
            let item = graph.queue.get().await.unwrap();
            graph.queue.done(&item);
            items.push(item);
        }
        items
    }

    #[tokio::test]
    async fn an_owner_is_looked_for_once_and_its_end_brings_up_its_dependents() {
        let feed = feed();
        feed.apply(object("a", &["owner"], json!({})));
        feed.apply(object("b", &["owner"], json!({})));
        assert_eq!(items(&feed.graph).await, [Item::Owner("owner".into())]);
        feed.delete(&object("owner", &[], json!({})));
        let mut found = items(&feed.graph).await;
        found.sort_by_key(|item| format!("{item:?}"));
        assert_eq!(found, [Item::Dependent("a".into()), Item::Dependent("b".into())]);
        assert!(feed.graph.is_gone("owner"));
        feed.apply(object("late", &["owner"], json!({})));
        assert_eq!(items(&feed.graph).await, [Item::Dependent("late".into())]);
    }

    #[tokio::test]
    async fn an_owner_that_waits_hears_of_each_dependent_that_goes() {
        let feed = feed();
        feed.apply(object("a", &["owner"], json!({})));
        feed.apply(object(
            "owner",
            &[],
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]}),
        ));
        let found = items(&feed.graph).await;
        assert!(
            found.contains(&Item::Waiting("owner".into())) && found.contains(&Item::Dependent("a".into()))
        );
        assert!(feed.graph.dependents(&"owner".into())[0].2);
        feed.delete(&object("a", &[], json!({})));
        assert_eq!(items(&feed.graph).await, [Item::Waiting("owner".into())]);
        assert!(feed.graph.dependents(&"owner".into()).is_empty());
    }

    #[tokio::test]
    async fn a_new_list_shows_what_went_while_nobody_looked() {
        let feed = feed();
        feed.replace(vec![object("owner", &[], json!({})), object("a", &["owner"], json!({}))], "1");
        assert_eq!(items(&feed.graph).await, [Item::Owner("owner".into())]);
        feed.replace(vec![object("a", &["owner"], json!({}))], "9");
        assert_eq!(items(&feed.graph).await, [Item::Dependent("a".into())]);
        feed.replace(vec![], "10");
        assert!(feed.graph.identity(&"a".into()).is_none());
    }
}
