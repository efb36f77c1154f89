//! Deleting objects: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use api::registry::Kind;
use api::status::{self, Status};
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::options::Propagation;
use super::{DeleteOptions, ListOptions, Resource, Write, now};
use crate::admission::Operation;
use crate::body::Body;
use crate::cache::Object;
use crate::decode;

/// The finalizer that makes the garbage collector let go of what the object owns.
const ORPHAN: &str = "orphan";
/// The finalizer that keeps an object until what it owns is gone.
const FOREGROUND: &str = "foregroundDeletion";
/// How often a deletion is tried again when other writes come in between.
const ATTEMPTS: usize = 32;

/// How a deletion went.
pub(crate) enum Deleted {
    /// The object is gone; this is its last state.
    Gone(Arc<Object>),
    /// The object is marked and goes later.
    Later(Arc<Object>),
}

/// What deleting means for an object as it is.
enum Plan {
    /// Remove it.
    Remove,
    /// Store this instead: it is marked as deleted.
    Mark(Value),
    /// It is marked already.
    Pending,
}

impl Resource {
    pub(super) async fn delete(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = self.delete_options(body)?;
        let view = self.view()?;
        match self.delete_object(&self.key(), &options).await? {
            Deleted::Later(object) => Ok(view.object(StatusCode::OK, &*self.present_one(object).await?)),
            Deleted::Gone(object) if self.kind.strategy.returns_deleted => {
                Ok(view.object(StatusCode::OK, &*self.present_one(object).await?))
            }
            Deleted::Gone(object) => {
                let uid = &object.facts.uid;
                let answer = status::success(self.kind.resource(), object.name(), uid);
                Ok(view.encode(StatusCode::OK, &answer))
            }
        }
    }

    pub(super) async fn delete_collection(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = self.delete_options(body)?;
        let list = ListOptions::parse(&self.call.query, false)?;
        let view = self.view()?;
        let selection = self.selection(&list)?;
        let slice = self.find(&list, &selection).await?;
        let mut deleted = Vec::with_capacity(slice.objects.len());
        for object in slice.objects {
            match self.delete_object(&object.key, &options).await {
                Ok(Deleted::Gone(object) | Deleted::Later(object)) => deleted.push(object),
                // Somebody else was faster, which is what was wanted.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let mut meta = serde_json::Map::new();
        meta.insert("resourceVersion".into(), slice.revision.to_string().into());
        Ok(view.list(self.present(deleted).await?, &meta))
    }

    fn delete_options(&self, body: &Bytes) -> Result<DeleteOptions, Status> {
        if body.is_empty() {
            return DeleteOptions::parse(None, &self.call.query);
        }
        let mut decoded = decode::object(&self.call.parts.headers, body)?;
        let kind = decoded.value["kind"].as_str().unwrap_or_default();
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(Status::bad_request(format!(
                "decoded object cannot be converted to DeleteOptions: it is a {kind}"
            )));
        }
        api::decode::options("DeleteOptions", &mut decoded.value)?;
        DeleteOptions::parse(Some(&decoded.value), &self.call.query)
    }

    /// Deletes one object of this call's kind.
    pub(crate) async fn delete_object(&self, key: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
        let server = &self.call.server;
        let cached = self.objects()?;
        let resource = self.kind.resource();
        let name = key.rsplit('/').next().unwrap_or(key);
        for _ in 0..ATTEMPTS {
            let Some(current) = server.current(cached, key).await? else {
                return Err(Status::not_found(resource, name));
            };
            if let Some(uid) = &options.uid
                && **uid != *current.facts.uid
            {
                return Err(Status::uid_mismatch(resource, name, uid, &current.facts.uid));
            }
            if let Some(version) = &options.resource_version
                && *version != current.revision.to_string()
            {
                return Err(Status::version_mismatch(resource, name, version, &current.revision.to_string()));
            }
            let stored = current.value();
            let old = self.as_asked(stored.clone()).await?;
            let write = Write {
                operation: Operation::Delete,
                subresource: "",
                name,
                old: Some(&old),
                dry_run: options.dry_run,
                generated: false,
                deletion: Some(options),
            };
            self.mutate(write, &mut Value::Null).await?;
            self.admit(write, &mut Value::Null).await?;
            match plan(&self.kind, stored, options, server.clock.now())? {
                Plan::Pending => return Ok(Deleted::Later(current)),
                Plan::Remove => {
                    if server.remove(cached, &current, options.dry_run).await? {
                        return Ok(Deleted::Gone(current));
                    }
                }
                Plan::Mark(marked) => {
                    if let Some(object) = server.replace(cached, &current, &marked, options.dry_run).await? {
                        return Ok(Deleted::Later(object));
                    }
                }
            }
        }
        Err(Status::conflict(resource, name))
    }
}

/// Decides what a deletion does to `object`, which is in its stored version.
fn plan(kind: &Kind, mut object: Value, options: &DeleteOptions, time: Timestamp) -> Result<Plan, Status> {
    let before = object["metadata"]["finalizers"].clone();
    let finalizers = finalizers(kind, &object, options);
    let changed = before.as_array().cloned().unwrap_or_default() != finalizers;
    if let Some(meta) = object["metadata"].as_object_mut() {
        if finalizers.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), finalizers.clone().into());
        }
    }
    let is_namespace = kind.group.is_empty() && kind.plural == "namespaces";
    let held = !finalizers.is_empty()
        || (is_namespace && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()));
    let marked = api::meta::is_deleting(&object);
    let wanted = grace(kind, &object, options.grace_seconds);

    if marked {
        let period = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // A later deletion may shorten the grace period, never prolong it.
        let shorter = match (options.grace_seconds, wanted) {
            (Some(_), Some(wanted)) if wanted < period => Some(wanted),
            _ => None,
        };
        return Ok(match shorter {
            None if period == 0 && !held => Plan::Remove,
            None if changed => Plan::Mark(object),
            None => Plan::Pending,
            Some(0) if !held => Plan::Remove,
            Some(shorter) => {
                let deadline = object["metadata"]["deletionTimestamp"]
                    .as_str()
                    .and_then(|text| text.parse::<Timestamp>().ok())
                    .unwrap_or(time);
                mark(&mut object, deadline, shorter - period, shorter);
                Plan::Mark(object)
            }
        });
    }
    let wanted = wanted.unwrap_or(0);
    if wanted == 0 && !held {
        return Ok(Plan::Remove);
    }
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    mark(&mut object, time, wanted, wanted);
    if is_namespace {
        object["status"]["phase"] = json!("Terminating");
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("deletionGracePeriodSeconds");
        }
    }
    Ok(Plan::Mark(object))
}

fn mark(object: &mut Value, from: Timestamp, seconds: i64, period: i64) {
    let deadline = from.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    object["metadata"]["deletionTimestamp"] = now(deadline);
    object["metadata"]["deletionGracePeriodSeconds"] = json!(period);
}

/// Returns how long an object may take to end; `None` for kinds that end at once.
fn grace(kind: &Kind, object: &Value, asked: Option<i64>) -> Option<i64> {
    if !kind.group.is_empty() || kind.plural != "pods" {
        return None;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let seconds = asked.unwrap_or(own);
    // Nobody runs a pod that was not placed, and a pod that has ended needs no time to end.
    let placed = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    Some(match seconds {
        _ if !placed || ended => 0,
        negative if negative < 0 => 1,
        seconds => seconds,
    })
}

/// Returns the finalizers of an object that is being deleted: those of the garbage collector follow the
/// client's wish, then the object's own, then the kind's habit.
fn finalizers(kind: &Kind, object: &Value, options: &DeleteOptions) -> Vec<Value> {
    let mut list = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has = |list: &[Value], name: &str| list.iter().any(|finalizer| finalizer == name);
    let habit = match (kind.group.as_ref(), kind.plural.as_ref()) {
        // So it was before there was a garbage collector, and so old clients expect it.
        ("", "replicationcontrollers") | ("batch", "jobs") => Propagation::Orphan,
        _ => Propagation::Background,
    };
    let wish = options.propagation.unwrap_or_else(|| {
        if has(&list, ORPHAN) {
            Propagation::Orphan
        } else if has(&list, FOREGROUND) {
            Propagation::Foreground
        } else {
            habit
        }
    });
    list.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match wish {
        Propagation::Orphan => list.push(json!(ORPHAN)),
        Propagation::Foreground => list.push(json!(FOREGROUND)),
        Propagation::Background => {}
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resource: (&str, &str), object: Value, options: &DeleteOptions) -> String {
        let registry = api::registry::builtin();
        let kind = registry.resource(resource.0, "v1", resource.1).unwrap();
        match plan(kind, object, options, Timestamp::UNIX_EPOCH).unwrap() {
            Plan::Remove => "remove".into(),
            Plan::Pending => "pending".into(),
            Plan::Mark(marked) => marked["metadata"].to_string(),
        }
    }

    #[test]
    fn a_deletion_does_what_the_object_and_the_options_say() {
        let pod = ("", "pods");
        let running = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}});
        let default = DeleteOptions::default();
        let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
        let wish = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let ending = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:05Z", "deletionGracePeriodSeconds": 5},
            "spec": {"nodeName": "n"}});
        for (resource, object, options, expect) in [
            (pod, json!({"metadata": {}, "spec": {}}), &default, "remove"),
            (
                pod,
                running.clone(),
                &default,
                r#"{"deletionGracePeriodSeconds":5,"deletionTimestamp":"1970-01-01T00:00:05Z"}"#,
            ),
            (pod, running, &now, "remove"),
            (pod, ending.clone(), &default, "pending"),
            (pod, ending, &now, "remove"),
            (("apps", "deployments"), json!({"metadata": {}}), &default, "remove"),
            (
                ("apps", "deployments"),
                json!({"metadata": {}}),
                &wish(Propagation::Foreground),
                r#"{"deletionGracePeriodSeconds":0,"deletionTimestamp":"1970-01-01T00:00:00Z","finalizers":["foregroundDeletion"]}"#,
            ),
            (
                ("", "replicationcontrollers"),
                json!({"metadata": {}}),
                &default,
                r#"{"deletionGracePeriodSeconds":0,"deletionTimestamp":"1970-01-01T00:00:00Z","finalizers":["orphan"]}"#,
            ),
            (
                ("", "replicationcontrollers"),
                json!({"metadata": {}}),
                &wish(Propagation::Background),
                "remove",
            ),
            (
                ("", "namespaces"),
                json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}}),
                &default,
                r#"{"deletionTimestamp":"1970-01-01T00:00:00Z"}"#,
            ),
            (
                ("", "configmaps"),
                json!({"metadata": {"finalizers": ["x/y"], "deletionTimestamp": "1970-01-01T00:00:00Z"}}),
                &default,
                "pending",
            ),
        ] {
            assert_eq!(check(resource, object.clone(), options), expect, "{resource:?} {object}");
        }
    }
}
