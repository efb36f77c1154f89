//! Who controls what: owners adopt what matches their selector and release what no longer does.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::frame::{Error, Result, code, controlled_by, controller_of, is_deleting, name, uid};

/// What an owner does about an object.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// It is controlled by the owner and stays so.
    Keep,
    /// It matches and nobody controls it.
    Adopt,
    /// It is controlled by the owner and matches no longer.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

pub(crate) fn labels<K: Resource>(object: &K) -> &BTreeMap<String, String> {
    object.meta().labels.as_ref().unwrap_or(&NO_LABELS)
}

/// Parses a label selector. The API server lets no wrong one in; one that is missing selects nothing.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> Option<Selector> {
    selector.and_then(|selector| Selector::try_from(selector.clone()).ok())
}

fn decide<K: Resource>(object: &K, owner_uid: &str, owner_deleting: bool, selector: &Selector) -> Claim {
    let matches = selector.matches(labels(object));
    match controller_of(object) {
        Some(controller) if controller.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting || is_deleting(object) => Claim::Ignore,
        Some(_) => Claim::Release,
        None if matches && !owner_deleting && !is_deleting(object) => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Returns those of `candidates` that `owner` controls, after adopting and releasing what it has to.
/// `owners` reads the owner afresh before anything is adopted, since the cache may not know of its deletion.
pub(crate) async fn claim<O, K>(
    owners: &Api<O>,
    objects: &Api<K>,
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut claimed = Vec::new();
    let mut may_adopt = None;
    for object in candidates {
        match decide(&*object, uid(owner), is_deleting(owner), selector) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Adopt => {
                if may_adopt.is_none() {
                    let fresh = owners.get(name(owner)).await?;
                    may_adopt = Some(uid(&fresh) == uid(owner) && !is_deleting(&fresh));
                }
                if may_adopt == Some(true)
                    && let Some(adopted) = adopt(objects, owner, &*object).await?
                {
                    claimed.push(Arc::new(adopted));
                }
            }
            Claim::Release => release(objects, owner, &*object).await?,
        }
    }
    Ok(claimed)
}

async fn adopt<O, K>(objects: &Api<K>, owner: &O, object: &K) -> Result<Option<K>>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let patch = json!({ "metadata": { "uid": uid(object), "ownerReferences": [controlled_by(owner)] } });
    match objects.patch(name(object), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if code(&error) == 404 => Ok(None),
        Err(error) => Err(Error::Api(error)),
    }
}

async fn release<O, K>(objects: &Api<K>, owner: &O, object: &K) -> Result<()>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let patch = json!({ "metadata": {
        "uid": uid(object),
        "ownerReferences": [{ "$patch": "delete", "uid": uid(owner) }],
    } });
    match objects.patch(name(object), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        // It is gone, or another one by that name: nothing left to release.
        Err(error) if matches!(code(&error), 404 | 422) => Ok(()),
        Err(error) => Err(Error::Api(error)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_owner_adopts_orphans_that_match_and_releases_what_does_not() {
        let selector: Selector = [("app".to_owned(), "x".to_owned())].into_iter().collect();
        let owned = |uid: &str| json!([{"apiVersion": "v1", "kind": "RC", "name": "rc", "uid": uid, "controller": true}]);
        let deleting = "2026-01-01T00:00:00Z";
        for (label, owners, deleted, owner_deleting, expect) in [
            ("x", Value::Null, None, false, Claim::Adopt),
            ("y", Value::Null, None, false, Claim::Ignore),
            ("x", Value::Null, Some(deleting), false, Claim::Ignore),
            ("x", Value::Null, None, true, Claim::Ignore),
            ("x", owned("me"), None, false, Claim::Keep),
            ("x", owned("other"), None, false, Claim::Ignore),
            ("y", owned("me"), None, false, Claim::Release),
            ("y", owned("me"), None, true, Claim::Ignore),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {
                "labels": {"app": label}, "ownerReferences": owners, "deletionTimestamp": deleted}}))
            .unwrap();
            assert_eq!(decide(&pod, "me", owner_deleting, &selector), expect, "{pod:?}");
        }
    }
}
