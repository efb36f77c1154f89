//! Admission: what is filled into objects and what is refused, between decoding and the store.
//!
//! An [`Admission`] is a list of [`Plugin`]s. The API server calls [`Admission::mutate`] after defaulting and
//! before validation of the object, and [`Admission::validate`] after it. Plugins read other objects through
//! [`World`] and write none.
//!
//! To add a plugin, write a module with a type that implements [`Plugin`] and put it into
//! [`Admission::standard`], at its place in the order.

mod certificates;
mod defaults;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod owner_references;
mod pod_security;
mod priority;
mod quota;
mod service_account;

use std::sync::Arc;
use std::time::Duration;

use api::status::{Resource, Status};
use machinery::clock::SharedClock;
use machinery::names::Random;
use serde_json::Value;

use crate::access::{Access, Lookup, UserInfo, text};

pub use priority::system_classes;

/// How long a create waits for the namespace or service account that it needs and that may be on its way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a request does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a `create` of a subresource such as `pods/binding`.
    Create,
    /// A change of an object.
    Update,
    /// A deletion.
    Delete,
    /// A connection, such as `pods/exec`.
    Connect,
}

/// A request as admission sees it.
#[derive(Debug)]
pub struct Request<'a> {
    /// Who is asking.
    pub user: &'a UserInfo,
    /// What is done.
    pub operation: Operation,
    /// The API group of the resource; empty for the core group.
    pub group: &'a str,
    /// The plural resource.
    pub resource: &'a str,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// The object's name; may be empty on create.
    pub name: &'a str,
    /// The object as it would be stored, or what was sent to a subresource; `Null` on delete.
    pub object: &'a mut Value,
    /// The object as it is, on update and delete.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// What the client shall be warned of. Plugins add to it.
    pub warnings: Vec<String>,
}

/// What plugins read, beside the request.
#[async_trait::async_trait]
pub trait World: Lookup {
    /// Returns an object, as [`Lookup::lookup`] does; when it is not there, waits for it up to `within`, and at
    /// least until everything that was acknowledged before this call can be seen.
    async fn appears(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> Option<Arc<Value>>;
}

/// What plugins are given.
pub(crate) struct Context<'a> {
    world: &'a dyn World,
    access: &'a Access,
    random: &'a Random,
    clock: &'a SharedClock,
}

/// One rule of admission. Both functions see every request and say which ones are their business.
pub(crate) trait Plugin: Send + Sync {
    /// Changes the object, or refuses it.
    fn mutate(&self, _request: &mut Request<'_>, _context: &Context<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses what may not be.
    fn validate(&self, _request: &mut Request<'_>, _context: &Context<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in their order.
pub struct Admission {
    plugins: Vec<Box<dyn Plugin>>,
    access: Arc<Access>,
    random: Random,
    clock: SharedClock,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("plugins", &self.plugins.len()).finish_non_exhaustive()
    }
}

impl Admission {
    /// Returns the plugins that upstream has on by default, as far as they are built, and `NodeRestriction`.
    #[must_use]
    pub fn standard(access: Arc<Access>, random: Random, clock: SharedClock) -> Self {
        let plugins: Vec<Box<dyn Plugin>> = vec![
            Box::new(namespace::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node_restriction::NodeRestriction),
            Box::new(defaults::TaintNodesByCondition),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(defaults::DefaultTolerationSeconds),
            Box::new(defaults::DefaultStorageClass),
            Box::new(defaults::DefaultIngressClass),
            Box::new(certificates::Certificates),
            Box::new(owner_references::OwnerReferences),
            // The last one: what any other refuses must not be counted.
            Box::new(quota::ResourceQuota::default()),
        ];
        Self { plugins, access, random, clock }
    }

    /// Lets every plugin change the object.
    ///
    /// # Errors
    /// What the first plugin that refuses the request says.
    pub async fn mutate(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        namespace::await_namespace(request, world).await;
        service_account::await_account(request, world).await;
        let context = self.context(world);
        self.plugins.iter().try_for_each(|plugin| plugin.mutate(request, &context))
    }

    /// Lets every plugin check the object as it will be stored. The object is not changed.
    ///
    /// # Errors
    /// What the first plugin that refuses the request says.
    pub fn validate(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        let context = self.context(world);
        self.plugins.iter().try_for_each(|plugin| plugin.validate(request, &context))
    }

    fn context<'a>(&'a self, world: &'a dyn World) -> Context<'a> {
        Context { world, access: &self.access, random: &self.random, clock: &self.clock }
    }
}

impl Request<'_> {
    /// Says whether this is a request of `operation` for a resource of the core group itself.
    pub(crate) fn is(&self, operation: Operation, resource: &str) -> bool {
        self.operation == operation && self.is_for(resource, "")
    }

    /// Says whether this is a request for a resource of the core group and one of its subresources.
    pub(crate) fn is_for(&self, resource: &str, subresource: &str) -> bool {
        self.group.is_empty() && self.resource == resource && self.subresource == subresource
    }

    /// Returns the resource as lookups name it: `pods`, `deployments.apps`.
    pub(crate) fn resource_id(&self) -> String {
        Resource { group: self.group, name: self.resource }.to_string()
    }

    /// Returns the error of a refusal.
    pub(crate) fn forbidden(&self, why: impl AsRef<str>) -> Status {
        let name =
            [self.name, text(self.object, "/metadata/name"), text(self.object, "/metadata/generateName")]
                .into_iter()
                .find(|name| !name.is_empty())
                .unwrap_or("Unknown");
        Status::forbidden(Resource { group: self.group, name: self.resource }, name, why.as_ref())
    }
}

#[cfg(test)]
mod tests;
