//! Writing objects: from a checked value to the store and back to what the client sees.

use std::sync::Arc;

use api::apply::{self, Manager, Node};
use api::registry::{Kind, Part};
use api::status::Status;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use store::Expect;

use super::{Resource, Write, WriteOptions};
use crate::admission::Operation;
use crate::cache::{self, Facts, Object, ROOT, encode, without_version};
use crate::masters;
use crate::server::ApiServer;

/// How often a change is tried again when another write came in between.
const ATTEMPTS: usize = 64;

/// The right to write services: among the requests of this server, and among all servers.
pub(crate) struct ServiceWrite<'a> {
    _turn: Option<masters::Turn>,
    _own: tokio::sync::MutexGuard<'a, ()>,
}

/// What a write left behind.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object as stored.
    pub(crate) object: Arc<Object>,
}

/// Returns a time as objects carry it.
pub(crate) fn now(time: Timestamp) -> Value {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

impl ApiServer {
    /// Stores a new object (in the storage version). `None` when the key is taken.
    pub(crate) async fn insert(
        &self,
        cached: &cache::Kind,
        key: &str,
        object: &Value,
        dry_run: bool,
    ) -> Result<Option<Arc<Object>>, Status> {
        let (bytes, facts) = encoded(cached, object)?;
        if dry_run {
            let free = cached.get(key).is_none();
            return Ok(free.then(|| Arc::new(Object::unstored(key.into(), &bytes, facts))));
        }
        self.put(cached, key, bytes, facts, Expect::Absent).await.or_else(|error| match error {
            store::Error::Conflict { .. } => Ok(None),
            other => Err(unavailable(&other)),
        })
    }

    /// Writes a value. The cache sees it before this returns, so that whoever wrote can read.
    async fn put(
        &self,
        cached: &cache::Kind,
        key: &str,
        bytes: Bytes,
        facts: Arc<Facts>,
        expect: Expect,
    ) -> store::Result<Option<Arc<Object>>> {
        self.cache.prepare(&bytes, facts.clone());
        let path = format!("{ROOT}{}/{key}", cached.id);
        match self.cache.store().put(&path, bytes.clone(), expect).await {
            Ok(entry) => Ok(Some(Arc::new(Object::stored(key.into(), entry.mod_revision, &bytes, facts)))),
            Err(error) => {
                self.cache.forget(&bytes);
                Err(error)
            }
        }
    }

    /// Removes an object that is still at the revision of `object`. `false` when it has changed since.
    pub(crate) async fn remove(
        &self,
        cached: &cache::Kind,
        object: &Object,
        dry_run: bool,
    ) -> Result<bool, Status> {
        if dry_run {
            return Ok(true);
        }
        let path = format!("{ROOT}{}/{}", cached.id, object.key);
        match self.cache.store().delete(&path, object.revision).await {
            Ok(_) => Ok(true),
            Err(store::Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Returns the object at `key` as it is now.
    pub(crate) async fn current(
        &self,
        cached: &cache::Kind,
        key: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        self.cache.current().await?;
        Ok(cached.get(key))
    }

    /// Replaces `current` by `value` (in the storage version). Nothing is written when nothing changed.
    /// `None` when another write came in between.
    pub(crate) async fn replace(
        &self,
        cached: &cache::Kind,
        current: &Arc<Object>,
        value: &Value,
        dry_run: bool,
    ) -> Result<Option<Arc<Object>>, Status> {
        let (bytes, facts) = encoded(cached, value)?;
        if without_version(&current.bytes) == bytes {
            return Ok(Some(current.clone()));
        }
        if dry_run {
            return Ok(Some(Arc::new(Object::stored(current.key.clone(), current.revision, &bytes, facts))));
        }
        let expect = Expect::Revision(current.revision);
        self.put(cached, &current.key, bytes, facts, expect).await.or_else(|error| match error {
            store::Error::Conflict { .. } => Ok(None),
            other => Err(unavailable(&other)),
        })
    }
}

fn encoded(cached: &cache::Kind, object: &Value) -> Result<(Bytes, Arc<Facts>), Status> {
    let Value::Object(map) = object else { return Err(Status::internal("an object is no object")) };
    Ok((encode(map), Arc::new(Facts::of(object, cached.fields()))))
}

fn unavailable(error: &store::Error) -> Status {
    tracing::error!(%error, "the store failed");
    Status::internal(error)
}

/// What a change makes of the object as it is, in the version of the request.
pub(crate) type Change<'a> = dyn Fn(&Value) -> Result<Value, Status> + Send + Sync + 'a;

impl Resource {
    /// Changes one part of the object of this call: reads it, applies `change`, checks, writes, and begins
    /// anew when another write came in between and the client named no revision.
    pub(crate) async fn modify(
        &self,
        part: Part<'_>,
        options: &WriteOptions,
        change: &Change<'_>,
    ) -> Result<Written, Status> {
        let server = &self.call.server;
        let cached = self.objects()?;
        let key = self.key();
        for _ in 0..ATTEMPTS {
            let current = server.current(cached, &key).await?.ok_or_else(|| self.not_found())?;
            let old = self.as_asked(current.value()).await?;
            let mut new = change(&old)?;
            let named = self.check_preconditions(&mut new, &old)?;
            // A scale is a view of the object: admission sees the view, as it was sent.
            let scale = self.kind.scale.as_ref().filter(|_| self.target.subresource == "scale");
            let old_scale = scale.map(|paths| paths.of(&old));
            let write = Write {
                operation: Operation::Update,
                subresource: match part {
                    _ if scale.is_some() => "scale",
                    Part::Main => "",
                    Part::Status => "status",
                    Part::Other(name) => name,
                },
                name: &self.target.name,
                old: Some(old_scale.as_ref().unwrap_or(&old)),
                dry_run: options.dry_run,
                generated: false,
                deletion: None,
            };
            carry_over(&mut new, &old);
            self.kind.default(&mut new);
            // What admission changes is nobody's, but what a subresource does not take is not written.
            if part == Part::Main {
                self.track(&mut new, Some(&old), options);
            }
            match scale {
                None => self.mutate(write, &mut new).await?,
                Some(paths) => {
                    let mut view = paths.of(&new);
                    self.mutate(write, &mut view).await?;
                    paths.apply(&mut new, &view);
                }
            }
            self.kind.default(&mut new);
            let managers = new["metadata"].get("managedFields").filter(|_| options.applied).cloned();
            self.kind.prepare_update(&mut new, &old, part);
            if part != Part::Main {
                if let Some(managers) = managers {
                    new["metadata"]["managedFields"] = managers;
                }
                self.track(&mut new, Some(&old), options);
            }
            let guard = self.allocate(&mut new, Some(&old), part == Part::Main).await?;
            self.check_escalation(&new, Some(&old))?;
            let kind = &self.kind;
            kind.validate_update(&new, &old, part)?;
            match scale {
                None => self.admit(write, &mut new).await?,
                Some(paths) => self.admit(write, &mut paths.of(&new)).await?,
            }
            for warning in kind.warnings(&new) {
                self.call.warn(warning);
            }
            let finished = is_finished(&new, &old);
            let stored = self.to_storage(new).await?;
            let written = if finished {
                // The last finalizer is gone: the object goes with it.
                let bytes_changed = server.remove(cached, &current, options.dry_run).await?;
                bytes_changed.then(|| {
                    let facts = current.facts.clone();
                    let bytes = encode(stored.as_object().unwrap_or(&Map::new()));
                    Arc::new(Object::stored(current.key.clone(), current.revision, &bytes, facts))
                })
            } else {
                server.replace(cached, &current, &stored, options.dry_run).await?
            };
            match written {
                Some(object) => {
                    self.settle(guard, &object, options.dry_run).await?;
                    return Ok(Written { object: self.present_one(object).await? });
                }
                None if named => {
                    return Err(Status::conflict(self.kind.resource(), &self.target.name));
                }
                None => {}
            }
        }
        Err(Status::conflict(self.kind.resource(), &self.target.name))
    }

    /// Changes the object of this call as it is stored, for steps that the server takes by itself: no part
    /// is protected and nothing is validated.
    pub(crate) async fn rewrite(&self, options: &WriteOptions, change: &Change<'_>) -> Result<(), Status> {
        let server = &self.call.server;
        let cached = self.objects()?;
        for _ in 0..ATTEMPTS {
            let current = server.current(cached, &self.key()).await?.ok_or_else(|| self.not_found())?;
            let old = current.value();
            let mut new = change(&old)?;
            let named = self.check_preconditions(&mut new, &old)?;
            if server.replace(cached, &current, &new, options.dry_run).await?.is_some() {
                return Ok(());
            }
            if named {
                break;
            }
        }
        Err(Status::conflict(self.kind.resource(), &self.target.name))
    }

    /// Gives a service what it needs, for as long as the returned guard is held.
    pub(crate) async fn allocate(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        main: bool,
    ) -> Result<Option<ServiceWrite<'_>>, Status> {
        if !main || !self.kind.group.is_empty() || self.kind.plural != "services" {
            return Ok(None);
        }
        let server = &self.call.server;
        let guard =
            ServiceWrite { _turn: masters::turn(server).await?, _own: server.service_writes.lock().await };
        server.cache.current().await?;
        let own = super::key(api::meta::namespace(new), api::meta::name(new));
        let mut taken = crate::services::Taken::default();
        for object in self.objects()?.all("").0 {
            if *object.key != *own {
                taken.add(&object.value());
            }
        }
        let errors = crate::services::allocate(new, old, taken, &server.pools(), &server.random);
        if errors.is_empty() {
            Ok(Some(guard))
        } else {
            Err(Status::invalid(&self.kind.group, &self.kind.kind, api::meta::name(new), &errors))
        }
    }

    /// Keeps the allocation's guard until the cache has what was written.
    pub(crate) async fn settle(
        &self,
        guard: Option<ServiceWrite<'_>>,
        object: &Object,
        dry_run: bool,
    ) -> Result<(), Status> {
        if guard.is_some() && !dry_run {
            self.call.server.cache.reach(object.revision).await?;
        }
        drop(guard);
        Ok(())
    }

    /// Refuses to grant by RBAC what the user does not hold.
    pub(crate) fn check_escalation(&self, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        if self.kind.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        let call = &self.call;
        call.server.access.check_rbac_write(&call.user, &self.kind.plural, new, old)
    }

    /// Records who changed which fields; `old` is `None` when the object is created.
    pub(super) fn track(&self, new: &mut Value, old: Option<&Value>, options: &WriteOptions) {
        if options.applied {
            return;
        }
        let name = self.manager(options);
        let (api_version, time) = (self.kind.api_version(), self.time());
        let subresource = self.target.subresource.as_str();
        let manager = Manager { name: &name, api_version: &api_version, subresource, now: &time };
        // What belongs to the status is written by way of the status, and the other way round.
        let reset: &[&[&str]] = match subresource {
            "status" => &[&["spec"]],
            _ if self.kind.has_status() => &[&["status"]],
            _ => &[],
        };
        apply::track(new, old, &manager, &self.node(), reset);
    }

    /// The name under which this call's changes are recorded.
    pub(crate) fn manager(&self, options: &WriteOptions) -> String {
        if let Some(name) = &options.field_manager {
            return name.clone();
        }
        let agent =
            self.call.parts.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        if let Some(agent) = agent.filter(|agent| !agent.is_empty()) {
            return agent.split('/').next().unwrap_or_default().chars().take(128).collect();
        }
        // Parts of this program come without one. They are called as upstream's parts are.
        match self.call.user.name.strip_prefix("system:") {
            Some("apiserver") => "kube-apiserver".into(),
            Some(node) if node.starts_with("node:") => "kubelet".into(),
            Some(part) if !part.contains(':') => part.into(),
            _ => "unknown".into(),
        }
    }

    /// The present time as objects carry it.
    pub(crate) fn time(&self) -> String {
        now(self.call.server.clock.now()).as_str().unwrap_or_default().to_owned()
    }

    /// What server-side apply knows of this kind.
    pub(crate) fn node(&self) -> Node<'_> {
        match api::custom::schema_of(&self.kind) {
            Some(schema) => Node::Custom(schema),
            None => Node::of_kind(&self.kind.group, &self.kind.version, &self.kind.kind),
        }
    }

    /// Checks uid and resource version; returns whether the client named a revision.
    fn check_preconditions(&self, new: &mut Value, old: &Value) -> Result<bool, Status> {
        let (resource, name) = (self.kind.resource(), &self.target.name);
        let meta = &mut new["metadata"];
        let wanted = meta["uid"].as_str().unwrap_or_default();
        let found = api::meta::uid(old);
        if !wanted.is_empty() && wanted != found {
            return Err(Status::uid_mismatch(resource, name, wanted, found));
        }
        meta["uid"] = old["metadata"]["uid"].clone();
        let version = meta["resourceVersion"].as_str().unwrap_or_default();
        let stated = !version.is_empty() && version != "0";
        // What a patch makes of the object carries the object's own version, so it insists on nothing.
        let named = stated && self.call.info.verb == "update";
        if stated && version != api::meta::resource_version(old) {
            return Err(Status::conflict(resource, name));
        }
        if !stated && !self.kind.strategy.unconditional_update && self.call.info.verb == "update" {
            let mut errors = api::field::Errors::new();
            let path = api::field::Path::new("metadata").child("resourceVersion");
            errors.invalid(&path, 0, "must be specified for an update");
            return Err(Status::invalid(&self.kind.group, &self.kind.kind, name, &errors));
        }
        meta["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        Ok(named)
    }

    /// Returns a stored object in the version of this call, unless a webhook would have to be asked.
    pub(crate) fn shown(&self, object: Value) -> Value {
        from_storage(&self.kind, object)
    }

    /// Returns a stored object in the version of this call.
    pub(crate) async fn as_asked(&self, object: Value) -> Result<Value, Status> {
        let converter = &self.call.server.converter;
        let mut all = converter.convert(&self.kind, &self.kind.api_version(), vec![object]).await?;
        Ok(self.shown(all.pop().unwrap_or_default()))
    }

    /// Returns an object of this call's version as it is stored.
    pub(crate) async fn to_storage(&self, object: Value) -> Result<Value, Status> {
        let Some(storage) = self.kind.storage.as_ref().filter(|_| !self.kind.is_stored_form()) else {
            return Ok(object);
        };
        let wanted = format!("{}/{}", storage.group, storage.version);
        let mut all = self.call.server.converter.convert(&self.kind, &wanted, vec![object]).await?;
        let mut object = all.pop().unwrap_or_default();
        self.kind.to_storage(&mut object);
        Ok(object)
    }

    /// Returns objects from the cache in the version of this call, so that their bytes can be shown as they are.
    /// Only custom kinds with several versions need it: their objects may be stored in any of them.
    pub(crate) async fn present(&self, mut objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
        if api::custom::conversion_of(&self.kind).is_none() {
            return Ok(objects);
        }
        let wanted = self.kind.api_version();
        let values: Vec<Value> = objects.iter().map(|object| object.value()).collect();
        let other: Vec<usize> = (0..values.len()).filter(|&at| values[at]["apiVersion"] != *wanted).collect();
        let asked = other.iter().map(|&at| values[at].clone()).collect();
        let converted = self.call.server.converter.convert(&self.kind, &wanted, asked).await?;
        for (at, value) in other.into_iter().zip(converted) {
            let old = &objects[at];
            let bytes = encode(value.as_object().unwrap_or(&Map::new()));
            let new = if old.revision == 0 {
                Object::unstored(old.key.clone(), &bytes, old.facts.clone())
            } else {
                Object::stored(old.key.clone(), old.revision, &bytes, old.facts.clone())
            };
            objects[at] = Arc::new(new);
        }
        Ok(objects)
    }

    /// As [`Resource::present`], for one object.
    pub(crate) async fn present_one(&self, object: Arc<Object>) -> Result<Arc<Object>, Status> {
        let mut all = self.present(vec![object]).await?;
        all.pop().ok_or_else(|| Status::internal("an object is lost in its conversion"))
    }
}

/// Returns a stored object in the version of `kind`.
pub(crate) fn from_storage(kind: &Kind, mut object: Value) -> Value {
    if !kind.is_stored_form() {
        kind.from_storage(&mut object);
    }
    object
}

/// What only the server writes stays as it is when a client leaves it out.
fn carry_over(new: &mut Value, old: &Value) {
    let (Some(new), Some(old)) = (new["metadata"].as_object_mut(), old["metadata"].as_object()) else {
        return;
    };
    for key in [
        "name",
        "namespace",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ] {
        if new.get(key).is_none_or(Value::is_null) {
            match old.get(key) {
                Some(value) => new.insert(key.into(), value.clone()),
                None => new.remove(key),
            };
        }
    }
    // Upstream compares times by the second, and clients may send them back in another notation.
    if new.get("creationTimestamp").is_some()
        && let Some(created) = old.get("creationTimestamp")
    {
        new.insert("creationTimestamp".into(), created.clone());
    }
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match new.get(key) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            new.remove(key);
        }
    }
}

/// Whether a change takes the last thing that kept a deleted object.
fn is_finished(new: &Value, old: &Value) -> bool {
    let finalizers = |object: &Value| {
        object["metadata"]["finalizers"].as_array().map_or(0, Vec::len)
            + if object["kind"] == json!("Namespace") {
                object["spec"]["finalizers"].as_array().map_or(0, Vec::len)
            } else {
                0
            }
    };
    api::meta::is_deleting(new)
        && finalizers(new) == 0
        && finalizers(old) > 0
        && new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}
