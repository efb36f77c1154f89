//! Custom resource definitions at work: their kinds are in the registry as long as they are there, their
//! status says so, and their objects go when they go.

use std::sync::Arc;

use api::registry::{Kind, Part};
use api::status::Status;
use serde_json::{Value, json};

use crate::cache::Object;
use crate::path::Target;
use crate::rest::{DeleteOptions, Resource, WriteOptions, now};
use crate::server::ApiServer;

/// Where the definitions are.
const ID: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Keeps a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The kinds that were made of a definition.
pub(crate) struct Made {
    uid: String,
    spec: Value,
    kinds: Vec<Arc<Kind>>,
}

impl ApiServer {
    /// Makes the registry anew from upstream's kinds and the definitions in the cache.
    pub(crate) fn refresh_registry(&self) {
        let mut registry = self.base.clone();
        let mut made = self.custom.lock();
        let definitions = self.cache.kind(ID).all("").0;
        made.retain(|name, _| definitions.iter().any(|definition| definition.name() == name));
        for definition in definitions {
            let value = definition.value();
            // Schemas and rules are compiled once for each change of the definition's spec, not of its status.
            let same = |known: &&Made| known.uid == *definition.facts.uid && known.spec == value["spec"];
            let kinds = match made.get(definition.name()).filter(same) {
                Some(known) => known.kinds.clone(),
                None => {
                    let kinds: Vec<Arc<Kind>> =
                        api::custom::kinds(&value).into_iter().map(Arc::new).collect();
                    let (uid, spec) = (definition.facts.uid.to_string(), value["spec"].clone());
                    made.insert(definition.name().to_owned(), Made { uid, spec, kinds: kinds.clone() });
                    kinds
                }
            };
            for kind in kinds {
                let taken =
                    self.base.iter().any(|known| known.group == kind.group && known.plural == kind.plural);
                if !taken {
                    crate::rest::register(&self.cache, &kind);
                    registry.insert(kind);
                }
            }
        }
        self.registry.store(Arc::new(registry));
    }
}

/// Follows the definitions.
pub(crate) async fn run(server: &Arc<ApiServer>) {
    loop {
        let (definitions, mut watcher) = server.cache.kind(ID).list_and_watch("");
        server.refresh_registry();
        for definition in definitions {
            settle(server, &definition).await;
        }
        while let Ok(events) = watcher.next(64).await {
            server.refresh_registry();
            for event in events.iter().filter(|event| !event.deleted) {
                settle(server, &event.object).await;
            }
        }
    }
}

/// Gives a definition its status, or begins to clean up behind it.
async fn settle(server: &Arc<ApiServer>, definition: &Object) {
    let value = definition.value();
    if !api::meta::is_deleting(&value) {
        if let Err(error) = establish(server, &value).await {
            tracing::warn!(%error, name = definition.name(), "establishing a custom resource definition");
        }
        return;
    }
    let held = value["metadata"]["finalizers"].as_array().is_some_and(|list| list.contains(&json!(CLEANUP)));
    if held {
        let own = server.clone();
        server.tasks.spawn("custom clean-up", async move {
            if let Err(error) = clean_up(&own, &value).await {
                tracing::warn!(%error, name = api::meta::name(&value), "cleaning up behind a custom resource definition");
            }
        });
    }
}

fn resource(server: &Arc<ApiServer>, name: &str) -> Result<Resource, Status> {
    let target = Target {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        resource: "customresourcedefinitions".into(),
        name: name.into(),
        ..Target::default()
    };
    crate::bootstrap::internal(server, target)
}

async fn establish(server: &Arc<ApiServer>, definition: &Value) -> Result<(), Status> {
    let time = now(server.clock.now());
    let resource = resource(server, api::meta::name(definition))?;
    let options = WriteOptions::default();
    resource.rewrite(&options, &|old| Ok(established(old, &time))).await
}

/// Returns a definition with the status of one that is served.
fn established(old: &Value, time: &Value) -> Value {
    let mut new = old.clone();
    let spec = &old["spec"];
    new["status"]["acceptedNames"] = spec["names"].clone();
    let stored = spec["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
    let mut versions = old["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    versions.extend(stored.map(|version| version["name"].clone()).filter(|name| !versions.contains(name)));
    new["status"]["storedVersions"] = versions.into();
    let mut conditions = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for (kind, reason, message) in [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ] {
        let is_true = |condition: &Value| condition["type"] == kind && condition["status"] == "True";
        if !conditions.iter().any(is_true) {
            conditions.retain(|condition| condition["type"] != kind);
            conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": time}));
        }
    }
    new["status"]["conditions"] = conditions.into();
    let mut finalizers = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.contains(&json!(CLEANUP)) {
        finalizers.push(json!(CLEANUP));
        new["metadata"]["finalizers"] = finalizers.into();
    }
    new
}

/// Deletes the objects of a definition, waits until they are gone, and lets the definition go.
async fn clean_up(server: &Arc<ApiServer>, definition: &Value) -> Result<(), Status> {
    let name = api::meta::name(definition);
    if let Some(kind) = api::custom::kinds(definition).first()
        && let Some(storage) = &kind.storage
    {
        let target = Target {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
            ..Target::default()
        };
        let objects = crate::bootstrap::internal(server, target)?;
        let cached = server.cache.kind(&crate::rest::id(storage));
        loop {
            let (present, mut watcher) = cached.list_and_watch("");
            if present.is_empty() {
                break;
            }
            for object in present {
                match objects.delete_object(&object.key, &DeleteOptions::default()).await {
                    Ok(_) => {}
                    Err(error) if error.code == 404 => {}
                    Err(error) => return Err(error),
                }
            }
            // Those with finalizers of their own take their time; every change is a reason to look again.
            if watcher.next(64).await.is_err() {
                tracing::debug!(name, "looking at all objects again");
            }
        }
    }
    let options = WriteOptions::default();
    let own = resource(server, name)?;
    let let_go = |old: &Value| {
        let mut new = old.clone();
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != CLEANUP);
        }
        Ok(new)
    };
    match own.modify(Part::Main, &options, &let_go).await {
        Err(error) if error.code != 404 => Err(error),
        _ => Ok(()),
    }
}
