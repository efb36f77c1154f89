//! Versions of a deployment: which replica set is which, and the annotations that remember it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use machinery::names::safe_encode;

use crate::frame::name;

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// How long the annotation that lists former revisions may grow.
const HISTORY_LENGTH: usize = 2000;
/// Annotations of a deployment that are not its replica sets' business.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

pub(crate) type Annotations = BTreeMap<String, String>;

pub(crate) fn revision(annotations: Option<&Annotations>) -> i64 {
    annotations.and_then(|map| map.get(REVISION)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(crate) fn revision_of(set: &ReplicaSet) -> i64 {
    revision(set.metadata.annotations.as_ref())
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.creation_timestamp = None;
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    template
}

/// Tells whether two templates describe the same pods.
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

/// Returns the oldest replica set that has the deployment's current template.
pub(crate) fn find_new<'a>(
    deployment: &Deployment,
    sets: &'a [Arc<ReplicaSet>],
) -> Option<&'a Arc<ReplicaSet>> {
    let template = &deployment.spec.as_ref()?.template;
    sets.iter()
        .filter(|set| {
            let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            own.is_some_and(|own| same_template(own, template))
        })
        .min_by_key(|set| age_key(set))
}

/// Sorts by age, the oldest first.
pub(crate) fn age_key(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), name(set).to_owned())
}

/// Hashes a template into what a replica set's name ends in. `collisions` makes another one of it.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // FNV-1a over the canonical JSON.
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    let text = serde_json::to_string(&without_hash(template)).unwrap_or_default();
    feed(text.as_bytes());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

/// Returns the annotations that the replica set of the current version has to carry.
pub(crate) fn set_annotations(
    deployment: &Deployment,
    current: Option<&Annotations>,
    new_revision: i64,
    limits: Option<(i32, i32)>,
) -> Annotations {
    let mut annotations = current.cloned().unwrap_or_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old_text = annotations.get(REVISION).cloned();
    let old = revision(Some(&annotations));
    if old < new_revision {
        annotations.insert(REVISION.into(), new_revision.to_string());
        if let Some(old_text) = old_text {
            let mut history: Vec<String> = annotations
                .get(HISTORY)
                .map(|text| text.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.retain(|entry| !entry.is_empty());
            history.push(old_text);
            while history.join(",").len() > HISTORY_LENGTH {
                history.remove(0);
            }
            annotations.insert(HISTORY.into(), history.join(","));
        }
    }
    if let Some((desired, max)) = limits {
        annotations.insert(DESIRED.into(), desired.to_string());
        annotations.insert(MAX.into(), max.to_string());
    }
    annotations
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(image: &str, hash: Option<&str>) -> PodTemplateSpec {
        let mut labels = json!({"app": "x"});
        if let Some(hash) = hash {
            labels[HASH_LABEL] = json!(hash);
        }
        serde_json::from_value(
            json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": image}]}}),
        )
        .unwrap()
    }

    #[test]
    fn the_hash_label_makes_no_difference_and_a_collision_does() {
        assert!(same_template(&template("a", None), &template("a", Some("1"))));
        assert!(!same_template(&template("a", None), &template("b", None)));
        let hash = template_hash(&template("a", None), None);
        assert_eq!(hash, template_hash(&template("a", Some("1")), None));
        assert_ne!(hash, template_hash(&template("a", None), Some(1)));
        assert_ne!(hash, template_hash(&template("b", None), None));
    }

    #[test]
    fn going_back_to_a_version_gives_it_a_new_number_and_remembers_the_old() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"annotations": {"kubernetes.io/change-cause": "undo", REVISION: "2",
                "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"selector": {}, "template": {}}}))
        .unwrap();
        let current = Annotations::from([(REVISION.to_owned(), "1".to_owned())]);
        let annotations = set_annotations(&deployment, Some(&current), 3, Some((2, 3)));
        assert_eq!(
            serde_json::to_value(annotations).unwrap(),
            json!({"kubernetes.io/change-cause": "undo", REVISION: "3", HISTORY: "1", DESIRED: "2", MAX: "3"})
        );
    }
}
