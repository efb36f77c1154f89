//! Ends namespaces: pods first, then everything else, and once nothing is left the namespace itself.

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::discover::{self, Resource};
use crate::frame::{
    self, Context, Error, Next, Result, absent_is_fine, code, error_text, is_deleting, namespace, uid,
};

/// When to look again for content whose end is not watched here.
const AGAIN: Duration = Duration::from_millis(500);
/// When to look again while pods end: their end is watched, this is for a lost connection.
const PODS_AGAIN: Duration = Duration::from_secs(10);

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        namespaces: context.informers.of(),
        pods: context.informers.of(),
    });
    let queue = context.queue();
    let namespace_queue = queue.clone();
    controller.namespaces.observe(move |delta: &Delta<Namespace>| {
        if is_deleting(&**delta.object()) && !matches!(delta, Delta::Deleted(_)) {
            namespace_queue.add(Key::of(&**delta.object()));
        }
    });
    let (namespaces, pod_queue) = (controller.namespaces.clone(), queue.clone());
    controller.pods.observe(move |delta: &Delta<Pod>| {
        if let Delta::Deleted(pod) = delta
            && namespaces.find("", namespace(&**pod)).is_some_and(|found| is_deleting(&*found))
        {
            pod_queue.add(Key::cluster(namespace(&**pod)));
        }
    });
    let ready = {
        let controller = controller.clone();
        async move {
            controller.namespaces.wait_synced().await;
            controller.pods.wait_synced().await;
        }
    };
    context.work("namespaces", 4, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// What an attempt to empty a namespace found.
#[derive(Debug, Default)]
struct Leftovers {
    /// Resource name and how many objects of it remain.
    remaining: Vec<(String, usize)>,
    /// Finalizer and how many objects wait for it.
    finalizers: std::collections::BTreeMap<String, usize>,
    failures: Vec<String>,
    /// The resources could not even be listed.
    discovery: Option<String>,
}

impl Leftovers {
    fn is_empty(&self) -> bool {
        self.remaining.is_empty() && self.failures.is_empty() && self.discovery.is_none()
    }

    fn conditions(&self, now: &Time) -> Vec<NamespaceCondition> {
        let condition = |kind: &str, bad: Option<(&str, String)>, good: (&str, &str)| {
            let (status, reason, message) = match bad {
                Some((reason, message)) => ("True", reason.to_owned(), message),
                None => ("False", good.0.to_owned(), good.1.to_owned()),
            };
            NamespaceCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason),
                message: Some(message),
                last_transition_time: Some(now.clone()),
            }
        };
        let discovery = self
            .discovery
            .clone()
            .map(|text| ("DiscoveryFailed", format!("Discovery failed for some groups, 1 failing: {text}")));
        let content = (!self.failures.is_empty()).then(|| {
            let text = format!(
                "Failed to delete all resource types, {} remaining: {}",
                self.failures.len(),
                self.failures.join(", ")
            );
            ("ContentDeletionFailed", text)
        });
        let remaining = (!self.remaining.is_empty()).then(|| {
            let parts: Vec<String> = self
                .remaining
                .iter()
                .map(|(resource, count)| format!("{resource} has {count} resource instances"))
                .collect();
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", parts.join(", ")))
        });
        let finalizers = (!self.finalizers.is_empty()).then(|| {
            let parts: Vec<String> = self
                .finalizers
                .iter()
                .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
                .collect();
            let text =
                format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "));
            ("SomeFinalizersRemain", text)
        });
        vec![
            condition(
                "NamespaceDeletionDiscoveryFailure",
                discovery,
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
            condition(
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
            condition(
                "NamespaceDeletionContentFailure",
                content,
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
            condition(
                "NamespaceContentRemaining",
                remaining,
                ("ContentRemoved", "All content successfully removed"),
            ),
            condition(
                "NamespaceFinalizersRemaining",
                finalizers,
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ]
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(found) = self.namespaces.get(key) else { return Ok(Next::Done) };
        let finalizers = found.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !is_deleting(&*found) || finalizers.is_empty() {
            return Ok(Next::Done);
        }
        let leftovers = self.empty(&key.name).await;
        if leftovers.is_empty() {
            self.finalize(&found).await?;
            return Ok(Next::Done);
        }
        self.report(&found, &leftovers).await?;
        let only_pods = leftovers.remaining.iter().all(|(resource, _)| resource == "pods.");
        if let Some(failure) = leftovers.failures.first().or(leftovers.discovery.as_ref()) {
            return Err(Error::Other(failure.clone()));
        }
        Ok(Next::After(if only_pods { PODS_AGAIN } else { AGAIN }))
    }

    /// Deletes what is there, and reports what is still there afterwards.
    async fn empty(&self, namespace: &str) -> Leftovers {
        let mut leftovers = Leftovers::default();
        let mut resources = match discover::resources(&self.context.client).await {
            Ok(resources) => resources,
            Err(error) => {
                leftovers.discovery = Some(error_text(&error));
                return leftovers;
            }
        };
        resources.retain(|resource| resource.namespaced && resource.can_delete);
        let is_pods = |resource: &Resource| resource.api.plural == "pods" && resource.api.group.is_empty();
        if let Some(pods) = resources.iter().find(|resource| is_pods(resource)) {
            self.delete_all(pods, namespace, &mut leftovers).await;
            // What pods need while they end stays until they are gone.
            if !leftovers.is_empty() {
                return leftovers;
            }
        }
        for resource in resources.iter().filter(|resource| !is_pods(resource)) {
            self.delete_all(resource, namespace, &mut leftovers).await;
        }
        leftovers
    }

    async fn delete_all(&self, resource: &Resource, namespace: &str, leftovers: &mut Leftovers) {
        if let Err(error) = self.try_delete_all(resource, namespace, leftovers).await
            && !matches!(code(&error), 404 | 405)
        {
            leftovers.failures.push(format!("{}: {}", resource.api.plural, error_text(&error)));
        }
    }

    async fn try_delete_all(
        &self,
        resource: &Resource,
        namespace: &str,
        leftovers: &mut Leftovers,
    ) -> kube::Result<()> {
        let metadata = resource.metadata(&self.context.client, namespace);
        let everything = ListParams::default();
        let found = metadata.list(&everything).await?;
        if found.items.is_empty() {
            return Ok(());
        }
        let objects = resource.objects(&self.context.client, namespace);
        let params = DeleteParams::background();
        if resource.can_delete_collection {
            objects.delete_collection(&params, &everything).await?;
        } else {
            for object in &found.items {
                absent_is_fine(objects.delete(frame::name(object), &params).await)?;
            }
        }
        let rest = metadata.list(&everything).await?;
        if !rest.items.is_empty() {
            let name = format!("{}.{}", resource.api.plural, resource.api.group);
            leftovers.remaining.push((name, rest.items.len()));
            for finalizer in rest.items.iter().flat_map(|object| object.metadata.finalizers.iter().flatten())
            {
                *leftovers.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
        }
        Ok(())
    }

    async fn report(&self, found: &Namespace, leftovers: &Leftovers) -> Result<()> {
        let old = found.status.clone().unwrap_or_default();
        let mut new = NamespaceStatus { phase: Some("Terminating".into()), ..old.clone() };
        let conditions = new.conditions.get_or_insert_default();
        for mut condition in leftovers.conditions(&self.context.now()) {
            match conditions.iter_mut().find(|known| known.type_ == condition.type_) {
                Some(known) => {
                    if known.status == condition.status {
                        condition.last_transition_time = known.last_transition_time.clone();
                    }
                    *known = condition;
                }
                None => conditions.push(condition),
            }
        }
        frame::write_status(&self.context.cluster_api::<Namespace>(), found, &old, &new).await?;
        Ok(())
    }

    async fn finalize(&self, found: &Namespace) -> Result<()> {
        let finalizers: Vec<String> = found
            .spec
            .iter()
            .flat_map(|spec| spec.finalizers.iter().flatten())
            .filter(|finalizer| *finalizer != "kubernetes")
            .cloned()
            .collect();
        let name = frame::name(found);
        let body = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "uid": uid(found), "resourceVersion": found.metadata.resource_version },
            "spec": { "finalizers": finalizers },
            "status": found.status,
        });
        let api: Api<Namespace> = self.context.cluster_api();
        absent_is_fine(api.replace_subresource("finalize", name, &PostParams::default(), &body).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_told_in_upstreams_words() {
        let leftovers = Leftovers {
            remaining: vec![("pods.".into(), 2)],
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Leftovers::default()
        };
        let conditions = leftovers.conditions(&Time(jiff::Timestamp::UNIX_EPOCH));
        let texts: Vec<_> = conditions
            .iter()
            .map(|one| format!("{} {} {}", one.type_, one.status, one.message.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(
            texts[3],
            "NamespaceContentRemaining True Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            texts[4],
            "NamespaceFinalizersRemaining True Some content in the namespace has finalizers remaining: \
             example.com/hold in 1 resource instances"
        );
        assert!(texts[0].starts_with("NamespaceDeletionDiscoveryFailure False"));
    }
}
