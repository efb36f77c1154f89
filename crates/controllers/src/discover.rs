//! Which resources the API server has, one version of each.

use kube::Api;
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};

/// Any object, by its metadata alone.
pub(crate) type Meta = PartialObjectMeta<DynamicObject>;

/// A resource that objects are stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) api: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) can_watch: bool,
    pub(crate) can_delete: bool,
    pub(crate) can_delete_collection: bool,
}

impl Resource {
    /// Returns the API of the resource's metadata in `namespace` (passed over where there is none).
    pub(crate) fn metadata(&self, client: &kube::Client, namespace: &str) -> Api<Meta> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.api)
        } else {
            Api::all_with(client.clone(), &self.api)
        }
    }

    /// Returns the API of the resource's objects in `namespace` (passed over where there is none).
    pub(crate) fn objects(&self, client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.api)
        } else {
            Api::all_with(client.clone(), &self.api)
        }
    }
}

/// Asks the API server for every resource whose objects can be listed.
pub(crate) async fn resources(client: &kube::Client) -> kube::Result<Vec<Resource>> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // Older servers know only the form with one document for each group.
        Err(error) => {
            tracing::debug!(%error, "no aggregated discovery");
            Discovery::new(client.clone()).run().await?
        }
    };
    let mut resources: Vec<Resource> = discovery
        .groups_alphabetical()
        .into_iter()
        .flat_map(|group| group.recommended_resources())
        .filter(|(_, can)| can.supports_operation(verbs::LIST))
        .map(|(api, can)| Resource {
            namespaced: can.scope == Scope::Namespaced,
            can_watch: can.supports_operation(verbs::WATCH),
            can_delete: can.supports_operation(verbs::DELETE),
            can_delete_collection: can.supports_operation(verbs::DELETE_COLLECTION),
            api,
        })
        .collect();
    // The same objects under two names are one resource: events are in the core group, too.
    resources.retain(|resource| resource.api.group != "events.k8s.io");
    resources.dedup();
    Ok(resources)
}
