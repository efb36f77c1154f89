//! `NamespaceLifecycle`: nothing comes into a namespace that is not there or is on its way out, and the
//! namespaces that the cluster lives in stay.

use api::status::{Resource, Status};

use super::{Context, Operation, Plugin, Request, World};
use crate::access::text;

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

/// Gives a namespace that was just made the time to be seen here.
pub(super) async fn await_namespace(request: &Request<'_>, world: &dyn World) {
    if request.operation == Operation::Create
        && !request.namespace.is_empty()
        && world.lookup("namespaces", "", request.namespace).is_none()
    {
        // Found or not, the plugin looks again.
        drop(world.appears("namespaces", "", request.namespace, std::time::Duration::ZERO).await);
    }
}

impl Plugin for NamespaceLifecycle {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if request.is(Operation::Delete, "namespaces") && IMMORTAL.contains(&request.name) {
            return Err(request.forbidden("this namespace may not be deleted"));
        }
        let reviews = request.group == "authorization.k8s.io";
        if request.operation != Operation::Create
            || request.namespace.is_empty()
            || request.resource == "namespaces"
            || reviews
        {
            return Ok(());
        }
        let name = request.namespace;
        let Some(namespace) = context.world.lookup("namespaces", "", name) else {
            return Err(Status::not_found(Resource { group: "", name: "namespaces" }, name));
        };
        // What exists already may still be finished in it; only new content is refused.
        if request.subresource.is_empty() && text(&namespace, "/status/phase") == "Terminating" {
            let why =
                format!("unable to create new content in namespace {name} because it is being terminated");
            return Err(request.forbidden(why).cause(
                "NamespaceTerminating",
                format!("namespace {name} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}
