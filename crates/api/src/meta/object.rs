//! Reading and checking an object's metadata.

use serde_json::{Map, Value};

use super::names::{label_value_errors, qualified_name_errors};
use crate::field::{Errors, Path, quote};
use crate::registry::Scope;
use crate::value::{list, same, text};

/// How many bytes all annotations of an object may have together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Returns the object's name; empty when it has none.
#[must_use]
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Returns the object's namespace; empty when it has none.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// Returns the object's uid; empty when it has none.
#[must_use]
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Returns the object's resource version; empty when it has none.
#[must_use]
pub fn resource_version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Returns the object's labels.
#[must_use]
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["labels"].as_object()
}

/// Returns one label of the object.
#[must_use]
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

/// Returns the object's annotations.
#[must_use]
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["annotations"].as_object()
}

/// Says whether the object has a deletion timestamp.
#[must_use]
pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// One owner of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// The owner's group and version.
    pub api_version: &'a str,
    /// The owner's kind.
    pub kind: &'a str,
    /// The owner's name; it lives in the same namespace or in none.
    pub name: &'a str,
    /// The owner's uid.
    pub uid: &'a str,
    /// Whether this owner manages the object.
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for this object.
    pub block_owner_deletion: bool,
}

/// Walks over the object's owners.
pub fn owner_references(object: &Value) -> impl Iterator<Item = OwnerReference<'_>> {
    list(object, "metadata.ownerReferences").iter().map(|reference| OwnerReference {
        api_version: text(reference, "apiVersion"),
        kind: text(reference, "kind"),
        name: text(reference, "name"),
        uid: text(reference, "uid"),
        controller: reference["controller"].as_bool().unwrap_or(false),
        block_owner_deletion: reference["blockOwnerDeletion"].as_bool().unwrap_or(false),
    })
}

/// Returns the owner that manages the object, if one does.
#[must_use]
pub fn controller_of(object: &Value) -> Option<OwnerReference<'_>> {
    owner_references(object).find(|reference| reference.controller)
}

/// Says whether the owner with this uid manages the object.
#[must_use]
pub fn is_controlled_by(object: &Value, uid: &str) -> bool {
    controller_of(object).is_some_and(|reference| reference.uid == uid)
}

/// Checks the metadata of a new or changed object.
pub(crate) fn validate(
    object: &Value,
    scope: Scope,
    name_errors: fn(&str) -> Vec<String>,
    errors: &mut Errors,
) {
    let path = Path::new("metadata");
    let meta = &object["metadata"];
    let generate = text(meta, "generateName");
    if !generate.is_empty() {
        // What is generated gets a suffix, so a dash at the end is fine.
        let probe = format!("{}a", generate.trim_end_matches('-'));
        for why in name_errors(if generate.ends_with('-') { &probe } else { generate }) {
            errors.invalid(&path.child("generateName"), generate, why);
        }
    }
    let name = text(meta, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for why in name_errors(name) {
            errors.invalid(&path.child("name"), name, why);
        }
    }
    let namespace = text(meta, "namespace");
    match scope {
        Scope::Namespaced if namespace.is_empty() => errors.required(&path.child("namespace"), ""),
        Scope::Namespaced => {
            for why in super::dns_label_errors(namespace) {
                errors.invalid(&path.child("namespace"), namespace, why);
            }
        }
        Scope::Cluster if !namespace.is_empty() => {
            errors.forbidden(&path.child("namespace"), "not allowed on this type");
        }
        Scope::Cluster => {}
    }
    validate_labels(&meta["labels"], &path.child("labels"), errors);
    validate_annotations(&meta["annotations"], &path.child("annotations"), errors);
    validate_owners(meta, &path.child("ownerReferences"), errors);
    for finalizer in list(meta, "finalizers").iter().filter_map(Value::as_str) {
        for why in qualified_name_errors(finalizer) {
            errors.invalid(&path.child("finalizers"), finalizer, why);
        }
    }
}

/// Checks a map of labels.
pub(crate) fn validate_labels(labels: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for why in qualified_name_errors(key) {
            errors.invalid(path, key.as_str(), why);
        }
        let value = value.as_str().unwrap_or_default();
        for why in label_value_errors(value) {
            errors.invalid(path, value, why);
        }
    }
}

fn validate_annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for why in qualified_name_errors(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), why);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(path, ANNOTATIONS_LIMIT);
    }
}

fn validate_owners(meta: &Value, path: &Path, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for (index, owner) in list(meta, "ownerReferences").iter().enumerate() {
        let at = path.index(index);
        for (key, detail) in [("apiVersion", "version must not be empty"), ("kind", "must not be empty")] {
            if text(owner, key).is_empty() {
                errors.invalid(&at.child(key), text(owner, key), detail);
            }
        }
        for key in ["name", "uid"] {
            if text(owner, key).is_empty() {
                errors.invalid(&at.child(key), text(owner, key), "must not be empty");
            }
        }
        if text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Event" {
            errors.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"].as_bool() == Some(true) {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.invalid(path, meta["ownerReferences"].clone(), why);
            } else {
                controller = Some(this);
            }
        }
    }
}

/// Checks a `LabelSelector` object.
pub(crate) fn validate_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    validate_labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(index);
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&at.child("values"), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, "key");
        for why in qualified_name_errors(key) {
            errors.invalid(&at.child("key"), key, why);
        }
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for why in label_value_errors(value) {
                errors.invalid(&at.child("values").index(index), value, why);
            }
        }
    }
}

/// Checks that a change leaves alone what identifies the object.
pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let (new, old) = (&new["metadata"], &old["metadata"]);
    for key in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        if !same(&new[key], &old[key]) {
            errors.invalid(&path.child(key), new[key].clone(), "field is immutable");
        }
    }
    if !old["deletionTimestamp"].is_null() {
        let known = list(old, "finalizers");
        let added: Vec<String> = list(new, "finalizers")
            .iter()
            .filter(|finalizer| !known.contains(finalizer))
            .map(|finalizer| quote(finalizer.as_str().unwrap_or_default()))
            .collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.forbidden(&path.child("finalizers"), why);
        }
    }
}
