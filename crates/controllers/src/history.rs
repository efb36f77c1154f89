//! Versions of a daemon set's or stateful set's template, kept as controller revisions.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use client::Informer;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use machinery::names::safe_encode;
use serde_json::{Value, json};

use crate::frame::{
    Context, Error, Result, absent_is_fine, code, controlled_by, controller_of, name, namespace, uid,
};

pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// The index of revisions by the uid of their owner.
const BY_OWNER: &str = "owner";
/// How many hashes are tried before giving up on a free name.
const TRIES: u32 = 16;

/// The versions of one owner, oldest first.
pub(crate) struct History {
    pub(crate) all: Vec<Arc<ControllerRevision>>,
    /// The one of the template as it is.
    pub(crate) current: Arc<ControllerRevision>,
}

pub(crate) fn add_index(revisions: &Informer<ControllerRevision>) {
    revisions.add_index(BY_OWNER, |revision| {
        controller_of(revision).map(|owner| owner.uid.clone()).into_iter().collect()
    });
}

/// Returns the hash that tells pods of this version from others.
pub(crate) fn hash(revision: &ControllerRevision) -> String {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(HASH_LABEL)).cloned().unwrap_or_else(|| name(revision).to_owned())
}

/// Returns the data of a version: a patch that brings the template back.
fn data(template: &PodTemplateSpec) -> Result<Value> {
    let mut template = serde_json::to_value(template)
        .map_err(|error| Error::Other(format!("encoding a pod template: {error}")))?;
    template["$patch"] = json!("replace");
    Ok(json!({ "spec": { "template": template } }))
}

/// Returns the template that a version stands for.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn hash_of(data: &Value, collision: u32) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in data.to_string().bytes().chain(collision.to_le_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    safe_encode(&hash.to_string())
}

/// Finds the version of the owner's template, or makes it; an old one that comes back gets a new number.
pub(crate) async fn sync<O>(
    context: &Context,
    revisions: &Informer<ControllerRevision>,
    owner: &O,
    owner_template: &PodTemplateSpec,
) -> Result<History>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
{
    let wanted = data(owner_template)?;
    let mut all = revisions.by_index(BY_OWNER, uid(owner));
    all.sort_by_key(|revision| (revision.revision, name(&**revision).to_owned()));
    let next = all.last().map_or(1, |last| last.revision + 1);
    let api = context.api::<ControllerRevision>(namespace(owner));
    let known =
        all.iter().rposition(|revision| revision.data.as_ref().is_some_and(|data| same(&data.0, &wanted)));
    let current = match known {
        Some(at) if at + 1 == all.len() => all[at].clone(),
        Some(at) => {
            let old = all.remove(at);
            let patch = json!({ "metadata": { "uid": old.metadata.uid }, "revision": next });
            Arc::new(api.patch(name(&*old), &PatchParams::default(), &Patch::Merge(patch)).await?)
        }
        None => Arc::new(make(context, owner, owner_template, wanted, next).await?),
    };
    if all.last().is_none_or(|last| uid(&**last) != uid(&*current)) {
        all.push(current.clone());
    }
    Ok(History { all, current })
}

/// Compares what two versions say, whatever the order of their fields.
fn same(a: &Value, b: &Value) -> bool {
    a == b
}

async fn make<O>(
    context: &Context,
    owner: &O,
    template: &PodTemplateSpec,
    data: Value,
    number: i64,
) -> Result<ControllerRevision>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = context.api::<ControllerRevision>(namespace(owner));
    let mut labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    for collision in 0..TRIES {
        let hash = hash_of(&data, collision);
        labels.insert(HASH_LABEL.into(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", name(owner))),
                namespace: Some(namespace(owner).to_owned()),
                labels: Some(labels.clone()),
                annotations: owner.meta().annotations.clone().map(|mut annotations| {
                    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                    annotations
                }),
                owner_references: Some(vec![controlled_by(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data.clone())),
            revision: number,
        };
        match api.create(&PostParams::default(), &revision).await {
            Ok(made) => return Ok(made),
            Err(error) if code(&error) == 409 => {
                let found = api.get(name(&revision)).await?;
                let is_own = controller_of(&found).is_some_and(|found| found.uid == uid(owner));
                if is_own && found.data.as_ref().is_some_and(|found| same(&found.0, &data)) {
                    return Ok(found);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Other(format!("no free name for a revision of {}", name(owner))))
}

/// Deletes the oldest versions beyond `limit` that `in_use` does not need.
pub(crate) async fn truncate(
    context: &Context,
    history: &History,
    limit: i32,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Result<()> {
    let unused: Vec<_> = history
        .all
        .iter()
        .filter(|revision| uid(&***revision) != uid(&*history.current) && !in_use(revision))
        .collect();
    let excess = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in unused.into_iter().take(excess) {
        let api = context.api::<ControllerRevision>(namespace(&**revision));
        absent_is_fine(api.delete(name(&**revision), &DeleteParams::default()).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_brings_its_template_back() {
        let original: PodTemplateSpec = serde_json::from_value(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x"}]}}),
        )
        .unwrap();
        let revision = ControllerRevision {
            data: Some(RawExtension(data(&original).unwrap())),
            ..ControllerRevision::default()
        };
        assert_eq!(template(&revision), Some(original));
    }
}
