//! Blocking owner references: who lets an object hold up the deletion of its owner must be allowed to put a
//! finalizer on that owner. Owners whose kind is not known here are left alone.

use api::status::Status;
use serde_json::Value;

use super::{Context, Operation, Plugin, Request};
use crate::access::{Attributes, list, text};

pub(super) struct OwnerReferences;

impl Plugin for OwnerReferences {
    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        if !written || !request.subresource.is_empty() {
            return Ok(());
        }
        let before = request.old.map_or(&[][..], |old| list(old, "/metadata/ownerReferences"));
        for reference in list(request.object, "/metadata/ownerReferences") {
            let blocks = |reference: &Value| reference["blockOwnerDeletion"] == true;
            let known =
                before.iter().any(|old| old["uid"] == reference["uid"] && blocks(old) == blocks(reference));
            if !blocks(reference) || known {
                continue;
            }
            let api_version = text(reference, "/apiVersion");
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let Some(kind) = api::registry::builtin().kind(group, version, text(reference, "/kind")) else {
                continue;
            };
            let attributes = Attributes {
                verb: "update",
                group,
                version,
                resource: &kind.plural,
                subresource: "finalizers",
                namespace: if kind.is_namespaced() { request.namespace } else { "" },
                name: text(reference, "/name"),
                ..Attributes::default()
            };
            if !context.access.authorize(request.user, &attributes).allowed {
                return Err(request.forbidden(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on",
                ));
            }
        }
        Ok(())
    }
}
