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
pub(crate) mod expression;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod owner_references;
mod pod_security;
pub(crate) mod policy;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
pub(crate) mod webhook;

use std::sync::Arc;
use std::time::Duration;

use api::registry::Kind;
use api::status::{Resource, Status};
use machinery::clock::SharedClock;
use machinery::names::Random;
use serde_json::Value;

use self::policy::Evaluator;
use self::webhook::rules::Named;
use self::webhook::{Reinvocation, Webhooks};
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

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupVersionKind<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The kind.
    pub kind: &'a str,
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
    /// The version of the resource.
    pub version: &'a str,
    /// The kind of `object`; of a subresource such as `scale` the kind that it speaks.
    pub kind: GroupVersionKind<'a>,
    /// The descriptor of `object`, where it is a whole object of the resource.
    pub descriptor: Option<&'a Arc<Kind>>,
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
    /// The options of the request, such as `CreateOptions`; `Null` when no webhook or policy could ask.
    pub options: Value,
    /// The name was made here, of `generateName`: webhooks are not told before the object is checked.
    pub generated: bool,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// What the client shall be warned of. Plugins add to it.
    pub warnings: Vec<String>,
    /// What the audit log shall say. Plugins add to it.
    pub annotations: Vec<(String, String)>,
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

/// What is configured by objects of the API.
pub(crate) struct Extensions {
    pub(crate) policies: Evaluator,
    pub(crate) webhooks: Webhooks,
}

impl Extensions {
    fn any(&self) -> bool {
        self.policies.policies.any() || self.webhooks.configurations.any()
    }
}

/// The plugins in their order.
pub struct Admission {
    plugins: Vec<Box<dyn Plugin>>,
    /// Comes after webhooks: what any other refuses must not be counted.
    quota: quota::ResourceQuota,
    extensions: Option<Extensions>,
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
            Box::new(runtime_class::RuntimeClass),
            Box::new(priority::Priority),
            Box::new(defaults::DefaultTolerationSeconds),
            Box::new(defaults::DefaultStorageClass),
            Box::new(defaults::DefaultIngressClass),
            Box::new(certificates::Certificates),
            Box::new(owner_references::OwnerReferences),
        ];
        let quota = quota::ResourceQuota::default();
        Self { plugins, quota, extensions: None, access, random, clock }
    }

    /// Adds what is configured by objects of the API.
    pub(crate) fn with(mut self, extensions: Extensions) -> Self {
        self.extensions = Some(extensions);
        self
    }

    /// Says whether anybody wants to know the options of requests.
    pub(crate) fn is_extended(&self) -> bool {
        self.extensions.as_ref().is_some_and(Extensions::any)
    }

    /// Lets every plugin change the object.
    ///
    /// # Errors
    /// What the first plugin that refuses the request says.
    pub async fn mutate(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        namespace::await_namespace(request, world).await;
        service_account::await_account(request, world).await;
        self.complete(request, world)?;
        let Some(extensions) = self.extensions.as_ref().filter(|extensions| extensions.any()) else {
            return Ok(());
        };
        let hidden = Hidden::take(request);
        let result = self.extend(request, world, extensions).await;
        hidden.put_back(request);
        result
    }

    /// Lets policies and webhooks change the object, and everybody again who has not seen what they made of it.
    async fn extend(
        &self,
        request: &mut Request<'_>,
        world: &dyn World,
        Extensions { policies, webhooks }: &Extensions,
    ) -> Result<(), Status> {
        let mut state = Reinvocation::default();
        let before = request.object.clone();
        policies.mutate(request, world, false).await?;
        webhooks.mutate(request, world, &mut state).await?;
        if *request.object == before {
            return Ok(());
        }
        self.complete(request, world)?;
        policies.mutate(request, world, true).await?;
        if state.begin_again() {
            webhooks.mutate(request, world, &mut state).await?;
        }
        Ok(())
    }

    fn complete(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        let context = self.context(world);
        self.plugins.iter().try_for_each(|plugin| plugin.mutate(request, &context))
    }

    /// Lets every plugin check the object as it will be stored. The object is not changed.
    ///
    /// # Errors
    /// What the first plugin that refuses the request says.
    pub async fn validate(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        {
            let context = self.context(world);
            self.plugins.iter().try_for_each(|plugin| plugin.validate(request, &context))?;
        }
        if let Some(Extensions { policies, webhooks }) = &self.extensions {
            policies.validate(request, world).await?;
            webhooks.validate(request, world).await?;
        }
        self.quota.validate(request, &self.context(world))
    }

    fn context<'a>(&'a self, world: &'a dyn World) -> Context<'a> {
        Context { world, access: &self.access, random: &self.random, clock: &self.clock }
    }
}

/// What upstream gives an object only after mutating admission, so that webhooks do not see it there.
struct Hidden(Vec<(&'static str, Value)>);

impl Hidden {
    fn take(request: &mut Request<'_>) -> Self {
        let mut taken = Vec::new();
        if request.operation == Operation::Create
            && request.subresource.is_empty()
            && let Some(meta) = request.object["metadata"].as_object_mut()
        {
            let name = request.generated.then_some("name");
            for key in ["uid", "creationTimestamp"].into_iter().chain(name) {
                taken.extend(meta.remove(key).map(|value| (key, value)));
            }
        }
        Self(taken)
    }

    fn put_back(self, request: &mut Request<'_>) {
        let Some(meta) = request.object["metadata"].as_object_mut() else { return };
        for (key, value) in self.0 {
            // A webhook may have given the object a name of its own.
            if key != "name" || meta.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
                meta.insert(key.to_owned(), value);
            }
        }
    }
}

impl Request<'_> {
    /// The resource as rules name it.
    pub(crate) fn named(&self) -> Named<'_> {
        Named { group: self.group, version: self.version, resource: self.resource }
    }

    /// The name as webhooks see it: none before one is generated.
    pub(crate) fn shown_name(&self) -> &str {
        if self.generated { text(self.object, "/metadata/name") } else { self.name }
    }

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
