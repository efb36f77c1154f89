//! Creating objects.

use api::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Resource, Write, WriteOptions, now};
use crate::admission::Operation;
use crate::body::Body;
use crate::cache::Object;

/// How often a generated name is drawn.
const NAMES: usize = 8;

impl Resource {
    pub(super) async fn create(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(&self.call.query, "CreateOptions")?;
        let view = self.view()?;
        let object = self.decode(body, &self.kind, &options)?;
        let object = self.create_object(object, &options).await?;
        Ok(view.object(StatusCode::CREATED, &object))
    }

    /// Creates an object that has been decoded.
    pub(crate) async fn create_object(
        &self,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<std::sync::Arc<Object>, Status> {
        self.check_place(&mut object)?;
        let server = &self.call.server;
        let cached = self.objects()?;
        let meta = &mut object["metadata"];
        if !meta["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let given = meta["name"].as_str().unwrap_or_default().to_owned();
        let base = meta["generateName"].as_str().unwrap_or_default().to_owned();
        if let Some(meta) = meta.as_object_mut() {
            for key in [
                "resourceVersion",
                "selfLink",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "generation",
            ] {
                meta.remove(key);
            }
            for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
                if meta.get(key).is_some_and(|value| {
                    value.is_null()
                        || value.as_object().is_some_and(serde_json::Map::is_empty)
                        || value.as_array().is_some_and(Vec::is_empty)
                }) {
                    meta.remove(key);
                }
            }
        }
        meta["uid"] = server.random.uid().into();
        meta["creationTimestamp"] = now(server.clock.now());
        let generated = given.is_empty() && !base.is_empty();
        for _ in 0..NAMES {
            let mut object = object.clone();
            if generated {
                object["metadata"]["name"] = json!(api::meta::generated_name(&base, &server.random));
            }
            self.kind.default(&mut object);
            self.track(&mut object, None, options);
            let name = api::meta::name(&object).to_owned();
            let write = Write {
                operation: Operation::Create,
                subresource: "",
                name: &name,
                old: None,
                dry_run: options.dry_run,
                generated,
                deletion: None,
            };
            self.mutate(write, &mut object).await?;
            // What admission put in has defaults, too.
            self.kind.default(&mut object);
            let name = api::meta::name(&object).to_owned();
            let write = Write { name: &name, generated: false, ..write };
            self.kind.prepare_create(&mut object);
            if let Some(created_by) = self.kind.strategy.created_by {
                created_by(&mut object, &self.call.user.to_value());
            }
            let guard = self.allocate(&mut object, None, true).await?;
            self.check_escalation(&object, None)?;
            self.kind.validate_create(&object)?;
            self.admit(write, &mut object).await?;
            for warning in self.kind.warnings(&object) {
                self.call.warn(warning);
            }
            let key = super::key(self.namespace(), &name);
            let stored = self.to_storage(object).await?;
            match server.insert(cached, &key, &stored, options.dry_run).await? {
                Some(object) => {
                    self.settle(guard, &object, options.dry_run).await?;
                    return self.present_one(object).await;
                }
                None if generated => {}
                None => return Err(Status::already_exists(self.kind.resource(), &name)),
            }
        }
        Err(Status::generate_name_conflict(self.kind.resource(), &base))
    }

    /// Makes the object's namespace that of the path, or says that they differ.
    pub(super) fn check_place(&self, object: &mut Value) -> Result<(), Status> {
        let namespace = self.namespace();
        let meta = &mut object["metadata"];
        let found = meta["namespace"].as_str().unwrap_or_default();
        if found == namespace {
            if namespace.is_empty()
                && let Some(meta) = meta.as_object_mut()
            {
                meta.remove("namespace");
            }
            return Ok(());
        }
        if !self.kind.is_namespaced() {
            return Ok(());
        }
        if !found.is_empty() {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta["namespace"] = namespace.into();
        Ok(())
    }
}
