//! Admission of the writes of a call.

use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use serde_json::Value;

use super::Resource;
use crate::access::Lookup;
use crate::admission::{Operation, Request, World};
use crate::cache::Cache;

/// What a write is to admission.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) operation: Operation,
    pub(crate) subresource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
}

impl Resource {
    fn request<'a>(&'a self, write: Write<'a>, object: &'a mut Value) -> Request<'a> {
        Request {
            user: &self.call.user,
            operation: write.operation,
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

    /// Lets admission complete the object, or refuse it.
    pub(crate) async fn mutate(&self, write: Write<'_>, object: &mut Value) -> Result<(), Status> {
        let server = &self.call.server;
        let mut request = self.request(write, object);
        let result = server.admission.mutate(&mut request, &*server.cache).await;
        request.warnings.into_iter().for_each(|warning| self.call.warn(warning));
        result
    }

    /// Lets admission refuse the object as it will be stored.
    pub(crate) fn admit(&self, write: Write<'_>, object: &mut Value) -> Result<(), Status> {
        let server = &self.call.server;
        let mut request = self.request(write, object);
        let result = server.admission.validate(&mut request, &*server.cache);
        request.warnings.into_iter().for_each(|warning| self.call.warn(warning));
        result
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
        };
        self.mutate(write, object).await?;
        self.admit(write, object)
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
