//! Updating and patching objects.

use api::apply::{self, Manager};
use api::field::{Errors, Path};
use api::patch;
use api::registry::Part;
use api::schema::Type;
use api::status::{Reason, Status};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use super::{Resource, WriteOptions, Written};
use crate::body::Body;
use crate::decode;

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";
/// The media types of patches.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

impl Resource {
    pub(super) async fn update(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        self.update_part(body, Part::Main).await
    }

    /// Replaces a part of the object by what the client sent.
    pub(super) async fn update_part(&self, body: &Bytes, part: Part<'_>) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(&self.call.query, "UpdateOptions")?;
        let view = self.view()?;
        let mut object = self.decode(body, &self.kind, &options)?;
        self.check_place(&mut object)?;
        let name = api::meta::name(&object);
        if name.is_empty() {
            object["metadata"]["name"] = self.target.name.as_str().into();
        } else if name != self.target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.target.name
            )));
        }
        let result = self.modify(part, &options, &|_| Ok(object.clone())).await;
        match result {
            Err(status)
                if status.reason == Reason::NotFound
                    && part == Part::Main
                    && self.kind.strategy.create_on_update =>
            {
                let created = self.create_object(object, &options).await?;
                Ok(view.object(StatusCode::CREATED, &created))
            }
            Err(status) => Err(status),
            Ok(Written { object }) => Ok(view.object(StatusCode::OK, &object)),
        }
    }

    pub(super) async fn patch(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        self.patch_part(body, Part::Main).await
    }

    /// Applies a patch to a part of the object.
    pub(super) async fn patch_part(&self, body: &Bytes, part: Part<'_>) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(&self.call.query, "PatchOptions")?;
        let view = self.view()?;
        if decode::media_type(&self.call.parts.headers) == APPLY {
            return self.apply(body, part, options).await;
        }
        if options.force.is_some() {
            let mut errors = Errors::new();
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &errors));
        }
        let patch = self.read_patch(body)?;
        let name = self.target.name.clone();
        let change = |old: &Value| {
            let mut new = self.apply_patch(&patch, old)?;
            self.check_patched(&mut new, old, &patch, &options)?;
            if api::meta::name(&new) != name {
                let mut errors = Errors::new();
                let path = Path::new("metadata").child("name");
                errors.invalid(&path, api::meta::name(&new), "field is immutable");
                return Err(Status::invalid(&self.kind.group, &self.kind.kind, &name, &errors));
            }
            Ok(new)
        };
        let Written { object } = self.modify(part, &options, &change).await?;
        Ok(view.object(StatusCode::OK, &object))
    }

    /// Checks that a patched object is still one of this kind. It is the patch that is at fault if it is not.
    fn check_patched(
        &self,
        new: &mut Value,
        old: &Value,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let kept = ["apiVersion", "kind"].iter().all(|key| new[key] == old[key]);
        let checked = if kept && new["metadata"].is_object() {
            self.check_fields(new, &self.kind, Vec::new(), options)
        } else {
            let text = |key: &str| new[key].as_str().unwrap_or_default();
            let (version, kind) = (text("apiVersion"), text("kind"));
            Err(Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {}",
                self.kind.kind
            )))
        };
        checked.map_err(|status| {
            let mut errors = Errors::new();
            let message = status.message.trim_start_matches(&format!(
                "{0} in version {1:?} cannot be handled as a {0}: ",
                self.kind.kind, self.kind.version
            ));
            let path = Path::new("patch");
            match patch {
                Patch::Strategic(sent, _) => {
                    errors.invalid(&path, patch::go_text(sent), patch::converter_text(message));
                }
                _ => errors.invalid(&path, new.to_string(), message.to_owned()),
            }
            Status::invalid("", "", "", &errors)
        })
    }

    /// Applies a configuration: what its manager wants of the object, which is created when it is missing.
    async fn apply(
        &self,
        body: &Bytes,
        part: Part<'_>,
        mut options: WriteOptions,
    ) -> Result<Response<Body>, Status> {
        if options.field_manager.is_none() {
            let mut errors = Errors::new();
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &errors));
        }
        options.applied = true;
        let view = self.view()?;
        let decoded = decode::yaml(body)?;
        for key in ["apiVersion", "kind"] {
            if decoded.value[key].as_str().unwrap_or_default().is_empty() {
                return Err(Status::bad_request(format!("invalid object type: {key} must be set")));
            }
        }
        let mut config = self.accept(decoded, &self.kind, &options)?;
        self.check_place(&mut config)?;
        let name = api::meta::name(&config);
        if name.is_empty() {
            config["metadata"]["name"] = self.target.name.as_str().into();
        } else if name != self.target.name {
            return Err(Status::bad_request(format!(
                "metadata.name: Invalid value: {name:?}: must be {:?} to match the URL",
                self.target.name
            )));
        }
        let force = options.force.unwrap_or(false);
        let name = self.manager(&options);
        let (api_version, time) = (self.kind.api_version(), self.time());
        let subresource = match part {
            Part::Main => "",
            Part::Status => "status",
            Part::Other(name) => name,
        };
        let manager = Manager { name: &name, api_version: &api_version, subresource, now: &time };
        let merge = |live: Option<&Value>| {
            apply::apply(live, &config, &manager, force, &self.node()).map_err(Status::from)
        };
        // Another client may create or delete the object in between, so that the other way is the right one.
        for _ in 0..5 {
            match self.modify(part, &options, &|live| merge(Some(live))).await {
                Err(status) if status.reason == Reason::NotFound && part == Part::Main => {}
                other => return other.map(|written| view.object(StatusCode::OK, &written.object)),
            }
            match self.create_object(merge(None)?, &options).await {
                Err(status) if status.reason == Reason::AlreadyExists => {}
                other => return other.map(|object| view.object(StatusCode::CREATED, &object)),
            }
        }
        Err(Status::conflict(self.kind.resource(), &self.target.name))
    }

    /// Reads a patch of this kind and its language.
    pub(super) fn read_patch(&self, body: &Bytes) -> Result<Patch, Status> {
        self.read_patch_of(body, (&self.kind.group, &self.kind.version, &self.kind.kind))
    }

    /// Reads a patch of a kind, such as `Scale`, and its language.
    pub(super) fn read_patch_of(
        &self,
        body: &Bytes,
        (group, version, kind): (&str, &str, &str),
    ) -> Result<Patch, Status> {
        let decoded = |body: &Bytes| decode::json(body).map(|decoded| decoded.value);
        match decode::media_type(&self.call.parts.headers) {
            "application/json-patch+json" => Ok(Patch::Json(decoded(body)?)),
            "application/merge-patch+json" => Ok(Patch::Merge(decoded(body)?)),
            "application/strategic-merge-patch+json" => match patch::schema_of(group, version, kind) {
                Some(schema) => Ok(Patch::Strategic(decoded(body)?, schema)),
                None => Err(Status::unsupported_media_type(&PATCHES)),
            },
            _ => Err(Status::unsupported_media_type(&PATCHES)),
        }
    }

    /// Returns the patched object.
    pub(super) fn apply_patch(&self, patch: &Patch, old: &Value) -> Result<Value, Status> {
        let mut new = old.clone();
        let patched = match patch {
            Patch::Json(patch) => patch::json_patch(&mut new, patch),
            Patch::Merge(patch) => patch::merge_patch(&mut new, patch),
            Patch::Strategic(patch, schema) => patch::strategic_merge(&mut new, patch, schema),
        };
        patched.map(|()| new).map_err(|error| match error {
            patch::Error::Malformed(why) => Status::bad_request(why),
            patch::Error::TooLarge(why) => Status::new(413, Reason::RequestEntityTooLarge, why),
            other => {
                tracing::debug!(error = %other, "a patch does not fit its object");
                Status::unprocessable()
            }
        })
    }
}

/// A patch in its language.
#[derive(Debug)]
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    /// With what it must know of the kind.
    Strategic(Value, Type),
}
