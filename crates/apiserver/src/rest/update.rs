//! Updating and patching objects.

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

/// The media types of patches.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
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
            Ok(Written { object, .. }) => Ok(view.object(StatusCode::OK, &object)),
        }
    }

    pub(super) async fn patch(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        self.patch_part(body, Part::Main).await
    }

    /// Applies a patch to a part of the object.
    pub(super) async fn patch_part(&self, body: &Bytes, part: Part<'_>) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(&self.call.query, "PatchOptions")?;
        let view = self.view()?;
        let patch = self.read_patch(body)?;
        let name = self.target.name.clone();
        let change = |old: &Value| {
            let mut new = self.apply_patch(&patch, old)?;
            self.check_fields(&mut new, &self.kind, Vec::new(), &options)?;
            if api::meta::name(&new) != name {
                let mut errors = api::field::Errors::new();
                let path = api::field::Path::new("metadata").child("name");
                errors.invalid(&path, api::meta::name(&new), "field is immutable");
                return Err(Status::invalid(&self.kind.group, &self.kind.kind, &name, &errors));
            }
            Ok(new)
        };
        let Written { object, .. } = self.modify(part, &options, &change).await?;
        Ok(view.object(StatusCode::OK, &object))
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
            other => Status::new(422, Reason::Invalid, other.to_string()),
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
