//! Admission of the writes of a call.

use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use serde_json::{Value, json};

use super::{DeleteOptions, Resource};
use crate::access::Lookup;
use crate::admission::{GroupVersionKind, Operation, Request, World};
use crate::cache::Cache;

/// What a write is to admission.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) operation: Operation,
    pub(crate) subresource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
    /// The name was generated here.
    pub(crate) generated: bool,
    /// The options of a deletion.
    pub(crate) deletion: Option<&'a DeleteOptions>,
}

impl Resource {
    fn request<'a>(&'a self, write: Write<'a>, object: &'a mut Value) -> Request<'a> {
        let own =
            GroupVersionKind { group: &self.kind.group, version: &self.kind.version, kind: &self.kind.kind };
        let kind = self.kind.subresource(write.subresource).map_or(own, |subresource| GroupVersionKind {
            group: &subresource.group,
            version: &subresource.version,
            kind: &subresource.kind,
        });
        let extended = self.call.server.admission.is_extended();
        Request {
            user: &self.call.user,
            operation: write.operation,
            version: &self.kind.version,
            kind,
            descriptor: (kind == own).then_some(&self.kind),
            options: if extended { self.options_of(write) } else { Value::Null },
            generated: write.generated,
            annotations: Vec::new(),
            group: &self.kind.group,
            resource: &self.kind.plural,
            subresource: write.subresource,
            namespace: self.namespace(),
            name: write.name,
            object,
            old: write.old,
            dry_run: write.dry_run,
            warnings: Vec::new(),
        }
    }

    /// Returns the options of a write as webhooks see them.
    fn options_of(&self, write: Write<'_>) -> Value {
        let kind = match write.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if write.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if let Some(deletion) = write.deletion {
            if let Some(seconds) = deletion.grace_seconds {
                options["gracePeriodSeconds"] = seconds.into();
            }
            if let Some(propagation) = deletion.propagation {
                options["propagationPolicy"] = format!("{propagation:?}").into();
            }
            for (key, value) in [("uid", &deletion.uid), ("resourceVersion", &deletion.resource_version)] {
                if let Some(value) = value {
                    options["preconditions"][key] = value.as_str().into();
                }
            }
            return options;
        }
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.call.query.get(key).filter(|value| !value.is_empty()) {
                options[key] = value.into();
            }
        }
        options
    }

    /// Lets admission complete the object, or refuse it.
    pub(crate) async fn mutate(&self, write: Write<'_>, object: &mut Value) -> Result<(), Status> {
        let server = &self.call.server;
        let mut request = self.request(write, object);
        let result = server.admission.mutate(&mut request, &*server.cache).await;
        self.take_notes(request);
        result
    }

    /// Lets admission refuse the object as it will be stored.
    pub(crate) async fn admit(&self, write: Write<'_>, object: &mut Value) -> Result<(), Status> {
        let server = &self.call.server;
        let mut request = self.request(write, object);
        let result = server.admission.validate(&mut request, &*server.cache).await;
        self.take_notes(request);
        result
    }

    /// Keeps what admission wants the client and the audit log to be told.
    fn take_notes(&self, request: Request<'_>) {
        request.warnings.into_iter().for_each(|warning| self.call.warn(warning));
        if !request.annotations.is_empty() {
            self.call.annotations.lock().extend(request.annotations);
        }
    }

    /// Admission of what is sent to a subresource that stores no object of its own, or of a connection.
    pub(crate) async fn admit_subresource(
        &self,
        operation: Operation,
        object: &mut Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        let write = Write {
            operation,
            subresource: &self.target.subresource,
            name: &self.target.name,
            old: None,
            dry_run,
            generated: false,
            deletion: None,
        };
        self.mutate(write, object).await?;
        self.admit(write, object).await
    }
}

#[async_trait::async_trait]
impl World for Cache {
    async fn appears(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> Option<Arc<Value>> {
        if let Some(found) = self.lookup(resource, namespace, name) {
            return Some(found);
        }
        self.wait_for(within, || self.lookup(resource, namespace, name)).await
    }
}
