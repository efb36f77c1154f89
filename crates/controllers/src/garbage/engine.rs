//! Decides about one object at a time, from what the API server says now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::Selection;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio_util::sync::DropGuard;

use super::graph::{FOREGROUND, Feed, Graph, Identity, Item, ORPHAN, Uid};
use crate::discover::{self, Meta, Resource};
use crate::frame::{Context, Error, Next, Result, absent_is_fine, code, is_deleting};

const WORKERS: usize = 8;
/// How long the start waits for watches of resources that do not answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A group and a kind.
type GroupKind = (String, String);

struct Collector {
    context: Context,
    graph: Arc<Graph>,
    resources: RwLock<HashMap<GroupKind, Arc<Resource>>>,
    feeds: Mutex<HashMap<GroupKind, (Arc<Feed>, DropGuard)>>,
}

pub(crate) fn start(context: &Context) {
    let queue = context.queue();
    let graph = Arc::new(Graph::new(queue.clone()));
    let collector = Arc::new(Collector {
        context: context.clone(),
        graph,
        resources: RwLock::default(),
        feeds: Mutex::default(),
    });
    let discovery = context.queue();
    discovery.add(());
    let discoverer = collector.clone();
    let ready_again = discovery.clone();
    context.work("garbage collector discovery", 1, &discovery, std::future::ready(()), move |()| {
        let (collector, again) = (discoverer.clone(), ready_again.clone());
        async move {
            if collector.follow_everything().await? {
                collector.watch_definitions(again);
            }
            Ok(Next::Done)
        }
    });
    let ready = {
        let collector = collector.clone();
        async move { collector.wait_synced().await }
    };
    context.work("garbage collector", WORKERS, &queue, ready, move |item| {
        let collector = collector.clone();
        async move { collector.look_at(&item).await }
    });
}

impl Collector {
    /// Follows every resource that there is now; returns true the first time.
    async fn follow_everything(&self) -> Result<bool> {
        let found = discover::resources(&self.context.client).await?;
        let found: HashMap<_, _> = found
            .into_iter()
            .filter(|resource| resource.can_watch && resource.can_delete)
            // Events own nothing and belong to nothing; there are many of them.
            .filter(|resource| resource.api.kind != "Event")
            .map(|resource| ((resource.api.group.clone(), resource.api.kind.clone()), Arc::new(resource)))
            .collect();
        let mut feeds = self.feeds.lock();
        let first = feeds.is_empty();
        feeds.retain(|kind, (feed, _)| {
            let stays = found.contains_key(kind);
            if !stays {
                client::Sink::<Meta>::replace(&**feed, Vec::new(), "");
            }
            stays
        });
        for (kind, resource) in &found {
            if !feeds.contains_key(kind) {
                let feed = Arc::new(Feed::new(self.graph.clone(), resource.clone()));
                let api = resource.metadata(&self.context.client, "");
                let guard = self.context.informers.follow(api, Selection::default(), &feed);
                feeds.insert(kind.clone(), (feed, guard));
            }
        }
        *self.resources.write() = found;
        Ok(first)
    }

    /// Looks for resources again whenever a definition of one changes.
    fn watch_definitions(&self, again: client::WorkQueue<()>) {
        let kind = ("apiextensions.k8s.io".to_owned(), "CustomResourceDefinition".to_owned());
        if !self.resources.read().contains_key(&kind) {
            return;
        }
        let definitions = self.context.informers.of::<CustomResourceDefinition>();
        definitions.observe(move |delta| {
            let view = |definition: &CustomResourceDefinition| {
                let served: Vec<_> = definition
                    .spec
                    .versions
                    .iter()
                    .map(|version| (version.name.clone(), version.served))
                    .collect();
                (served, definition.status.as_ref().map(|status| status.conditions.clone()))
            };
            if delta.old().is_none_or(|old| view(old) != view(delta.object())) {
                again.add_after((), Duration::from_millis(100));
            }
        });
    }

    async fn wait_synced(&self) {
        let wait = async {
            // The first discovery may have to wait for the API server.
            while self.feeds.lock().is_empty() {
                self.context.clock.after(Duration::from_millis(50)).await;
            }
            let feeds: Vec<_> = self.feeds.lock().values().map(|(feed, _)| feed.clone()).collect();
            for feed in feeds {
                let mut synced = feed.synced.subscribe();
                if synced.wait_for(|synced| *synced).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = wait => {}
            () = self.context.clock.after(PATIENCE) => {
                tracing::warn!("some resources cannot be watched; collecting garbage among the others");
            }
        }
    }

    async fn look_at(&self, item: &Item) -> Result<Next> {
        match item {
            Item::Owner(uid) => self.look_for_owner(uid).await?,
            Item::Dependent(uid) => self.look_at_dependent(uid).await?,
            Item::Waiting(uid) => self.look_at_waiting(uid).await?,
        }
        Ok(Next::Done)
    }

    fn resource_of(&self, owner: &OwnerReference) -> Option<Arc<Resource>> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.resources.read().get(&(group.to_owned(), owner.kind.clone())).cloned()
    }

    /// Asks for an owner; `None` when it is not there. Owners of unknown kinds are taken for there.
    async fn find_owner(&self, owner: &OwnerReference, namespace: &str) -> Result<Found> {
        if self.graph.is_gone(&owner.uid) {
            return Ok(Found::Gone);
        }
        let Some(resource) = self.resource_of(owner) else {
            let (version, kind) = (&owner.api_version, &owner.kind);
            tracing::debug!(version, kind, "an owner is of a kind that is not served");
            return Ok(Found::There { waits: false });
        };
        // An object without namespace cannot belong to one with: the reference is a mistake, and nothing goes.
        if resource.namespaced && namespace.is_empty() {
            return Ok(Found::There { waits: false });
        }
        let api = resource.metadata(&self.context.client, namespace);
        match absent_is_fine(api.get(&owner.name).await)? {
            Some(found) if found.metadata.uid.as_deref() == Some(&owner.uid) => {
                let finalizers = found.metadata.finalizers.as_deref().unwrap_or_default();
                let waits = is_deleting(&found) && finalizers.iter().any(|name| name == FOREGROUND);
                Ok(Found::There { waits })
            }
            _ => {
                let uid: Uid = owner.uid.as_str().into();
                self.graph.set_gone(&uid);
                Ok(Found::Gone)
            }
        }
    }

    async fn look_for_owner(&self, uid: &Uid) -> Result<()> {
        let Some((reference, namespace)) = self.graph.owner(uid) else { return Ok(()) };
        self.find_owner(&reference, &namespace).await?;
        Ok(())
    }

    async fn look_at_dependent(&self, uid: &Uid) -> Result<()> {
        let Some(identity) = self.graph.identity(uid) else { return Ok(()) };
        let api = identity.resource.metadata(&self.context.client, &identity.namespace);
        let Some(latest) = absent_is_fine(api.get(&identity.name).await)? else { return Ok(()) };
        if latest.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let finalizers = latest.metadata.finalizers.as_deref().unwrap_or_default();
        let has = |finalizer: &str| finalizers.iter().any(|name| name == finalizer);
        let owners = latest.metadata.owner_references.clone().unwrap_or_default();
        if owners.is_empty() || (is_deleting(&latest) && !has(FOREGROUND)) {
            return Ok(());
        }
        let (mut solid, mut waiting, mut useless) = (Vec::new(), 0, Vec::new());
        for owner in owners {
            match self.find_owner(&owner, &identity.namespace).await? {
                Found::There { waits: false } => solid.push(owner),
                Found::There { waits: true } => {
                    waiting += 1;
                    useless.push(owner.uid);
                }
                Found::Gone => useless.push(owner.uid),
            }
        }
        if !solid.is_empty() {
            if useless.is_empty() {
                return Ok(());
            }
            return self.set_owners(&identity, &latest, &solid).await;
        }
        if is_deleting(&latest) {
            return Ok(());
        }
        let policy = if has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if has(FOREGROUND) || (waiting > 0 && !self.graph.dependents(uid).is_empty()) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        tracing::debug!(kind = identity.resource.api.kind, name = %identity.name, "collecting");
        let objects = identity.resource.objects(&self.context.client, &identity.namespace);
        absent_is_fine(objects.delete(&identity.name, &params).await)?;
        Ok(())
    }

    async fn set_owners(&self, identity: &Identity, latest: &Meta, owners: &[OwnerReference]) -> Result<()> {
        let patch = json!({ "metadata": {
            "uid": latest.metadata.uid,
            "resourceVersion": latest.metadata.resource_version,
            "ownerReferences": owners,
        } });
        let api = identity.resource.metadata(&self.context.client, &identity.namespace);
        absent_is_fine(api.patch(&identity.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        Ok(())
    }

    async fn look_at_waiting(&self, uid: &Uid) -> Result<()> {
        let Some((identity, set_free)) = self.graph.waiting(uid) else { return Ok(()) };
        let dependents = self.graph.dependents(uid);
        if set_free {
            for (_, dependent, _) in dependents {
                self.set_free(&dependent, uid).await?;
            }
            return self.remove_finalizer(&identity, uid, ORPHAN).await;
        }
        if dependents.iter().any(|(_, _, blocks)| *blocks) {
            return Ok(());
        }
        self.remove_finalizer(&identity, uid, FOREGROUND).await
    }

    /// Takes `owner` out of the owners of a dependent.
    async fn set_free(&self, dependent: &Identity, owner: &Uid) -> Result<()> {
        let api = dependent.resource.metadata(&self.context.client, &dependent.namespace);
        let Some(latest) = absent_is_fine(api.get(&dependent.name).await)? else { return Ok(()) };
        let owners = latest.metadata.owner_references.clone().unwrap_or_default();
        let rest: Vec<_> = owners.iter().filter(|one| *one.uid != **owner).cloned().collect();
        if rest.len() == owners.len() {
            return Ok(());
        }
        self.set_owners(dependent, &latest, &rest).await
    }

    async fn remove_finalizer(&self, identity: &Identity, uid: &Uid, finalizer: &str) -> Result<()> {
        let api = identity.resource.metadata(&self.context.client, &identity.namespace);
        let Some(latest) = absent_is_fine(api.get(&identity.name).await)? else { return Ok(()) };
        if latest.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let finalizers = latest.metadata.finalizers.clone().unwrap_or_default();
        let rest: Vec<_> = finalizers.iter().filter(|name| *name != finalizer).collect();
        if rest.len() == finalizers.len() {
            return Ok(());
        }
        let patch = json!({ "metadata": {
            "uid": latest.metadata.uid,
            "resourceVersion": latest.metadata.resource_version,
            "finalizers": rest,
        } });
        match api.patch(&identity.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == 404 => Ok(()),
            Err(error) => Err(Error::Api(error)),
        }
    }
}

/// Whether an owner is there.
enum Found {
    There {
        /// It is being deleted and waits for its dependents.
        waits: bool,
    },
    Gone,
}
