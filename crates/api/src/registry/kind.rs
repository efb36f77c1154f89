//! The descriptor of a kind, and what the API server asks of it.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::scale::ScalePaths;
use super::strategy::{SelectableField, Strategy};
use super::table::Table;
use crate::field::Errors;
use crate::status::{Resource, Status};
use crate::{meta, value};

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// The object itself: its status is kept.
    Main,
    /// The subresource `status`: everything else is kept.
    Status,
    /// Another subresource that writes the object, such as `approval`, `finalize`, `ephemeralcontainers`.
    Other(&'a str),
}

/// A subresource and the kind that it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Its name, such as `status`.
    pub name: Cow<'static, str>,
    /// Its verbs, sorted.
    pub verbs: Vec<&'static str>,
    /// The group of what it speaks.
    pub group: Cow<'static, str>,
    /// The version of what it speaks.
    pub version: Cow<'static, str>,
    /// The kind that it speaks: often the object's own, else such as `Scale`.
    pub kind: Cow<'static, str>,
}

/// Where and in which version objects are stored. Kinds that are views of the same objects share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// The group whose name is in the key; also the group of the stored form.
    pub group: Cow<'static, str>,
    /// The plural in the key.
    pub plural: Cow<'static, str>,
    /// The version of the stored form.
    pub version: Cow<'static, str>,
    /// The kind of the stored form.
    pub kind: Cow<'static, str>,
}

impl Storage {
    /// Returns the prefix of all keys of these objects, with `/` at the end.
    #[must_use]
    pub fn prefix(&self) -> String {
        if self.group.is_empty() {
            format!("/registry/{}/", self.plural)
        } else {
            format!("/registry/{}/{}/", self.group, self.plural)
        }
    }

    /// Returns the prefix of the keys in a namespace, with `/` at the end.
    #[must_use]
    pub fn namespace_prefix(&self, namespace: &str) -> String {
        format!("{}{namespace}/", self.prefix())
    }

    /// Returns the key of an object; `namespace` is empty for cluster-scoped ones.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.prefix();
        if !namespace.is_empty() {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }
}

/// A resource kind at one group and version.
#[derive(Debug, Clone)]
pub struct Kind {
    /// The group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version.
    pub version: Cow<'static, str>,
    /// The kind, such as `Pod`.
    pub kind: Cow<'static, str>,
    /// The kind of lists, such as `PodList`.
    pub list_kind: Cow<'static, str>,
    /// The resource, such as `pods`.
    pub plural: Cow<'static, str>,
    /// The singular, such as `pod`.
    pub singular: Cow<'static, str>,
    /// Short names, such as `po`.
    pub short_names: Vec<Cow<'static, str>>,
    /// Categories, such as `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// Where objects live.
    pub scope: Scope,
    /// The verbs of the resource, sorted.
    pub verbs: Vec<&'static str>,
    /// The subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Where objects are stored; `None` for what is only computed (reviews, bindings).
    pub storage: Option<Storage>,
    /// The paths of the subresource `scale`, when there is one.
    pub scale: Option<ScalePaths>,
    /// Fields that a field selector may name, beside `metadata.name` and `metadata.namespace`.
    pub fields: Vec<SelectableField>,
    /// The columns and cells of tables.
    pub table: Table,
    /// What is special about the kind.
    pub strategy: Strategy,
    /// The name of its definition in [`crate::schema`]; `None` for custom kinds.
    pub definition: Option<&'static str>,
    /// What a custom kind needs in its strategy's functions (its schema).
    pub extension: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl Kind {
    /// Returns `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Returns the resource as errors name it.
    #[must_use]
    pub fn resource(&self) -> Resource<'_> {
        Resource { group: &self.group, name: &self.plural }
    }

    /// Returns a subresource by its name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Says whether objects have a status that only the subresource `status` writes.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Says whether objects live in a namespace.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Returns what clients of a deprecated version are told with every answer (`Warning` header).
    #[must_use]
    pub fn deprecation(&self) -> Option<&'static str> {
        match (self.group.as_ref(), self.kind.as_ref()) {
            ("", "Endpoints") => {
                Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            }
            ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            _ => None,
        }
    }

    /// Writes `apiVersion` and `kind` of this descriptor into an object.
    pub fn stamp(&self, object: &mut Value) {
        value::set(object, "apiVersion", self.api_version());
        value::set(object, "kind", self.kind.as_ref());
    }

    /// Turns an object of this version into the stored form.
    pub fn to_storage(&self, object: &mut Value) {
        (self.strategy.to_storage)(self, object);
        if let Some(storage) = &self.storage {
            let api_version = if storage.group.is_empty() {
                storage.version.to_string()
            } else {
                format!("{}/{}", storage.group, storage.version)
            };
            value::set(object, "apiVersion", api_version);
            value::set(object, "kind", storage.kind.as_ref());
        }
    }

    /// Turns a stored object into this version.
    pub fn from_storage(&self, object: &mut Value) {
        (self.strategy.from_storage)(self, object);
        self.stamp(object);
    }

    /// Says whether the stored form is this version as it stands, so that stored bytes can be sent.
    #[must_use]
    pub fn is_stored_form(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| {
            storage.group == self.group && storage.version == self.version && storage.kind == self.kind
        })
    }

    /// Checks the types of what a client sent, makes quantities and times canonical and drops unknown fields.
    /// Returns what strict decoding objects to, such as `unknown field "spec.foo"`; what to do about that is
    /// said by the request's `fieldValidation` ([`crate::decode::strict_error`] or warnings).
    ///
    /// # Errors
    /// `BadRequest` when a value has the wrong type.
    pub fn decode(&self, object: &mut Value) -> Result<Vec<String>, Status> {
        (self.strategy.decode)(self, object)
    }

    /// Fills in what the client left out. Done on every object that is written, before admission.
    pub fn default(&self, object: &mut Value) {
        (self.strategy.default)(self, object);
    }

    /// Removes what a client may not set on a new object and sets what the server decides. The server
    /// itself sets name, uid, times and managed fields.
    pub fn prepare_create(&self, object: &mut Value) {
        (self.strategy.prepare_create)(self, object);
        if self.strategy.generation
            && let Some(meta) = object.get_mut("metadata")
        {
            value::set(meta, "generation", 1);
        }
    }

    /// Makes of `new`, as the client sent it for `part` of `old`, the object that will be stored.
    pub fn prepare_update(&self, new: &mut Value, old: &Value, part: Part<'_>) {
        if let (Some(meta), Some(was)) = (new.get_mut("metadata"), old.get("metadata")) {
            value::keep(meta, was, "generation");
        }
        (self.strategy.prepare_update)(self, new, old, part);
        if self.strategy.generation && part != Part::Status && self.differs(new, old) {
            let generation = value::int(old, "metadata.generation").unwrap_or(0) + 1;
            if let Some(meta) = new.get_mut("metadata") {
                value::set(meta, "generation", generation);
            }
        }
    }

    /// Says whether anything but metadata and status is different.
    fn differs(&self, new: &Value, old: &Value) -> bool {
        let counts = |key: &String| key != "metadata" && (key != "status" || !self.has_status());
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
        let empty = Value::Null;
        new.iter()
            .filter(|(key, _)| counts(key))
            .any(|(key, value)| !value::same(value, old.get(key).unwrap_or(&empty)))
            || old
                .iter()
                .filter(|(key, _)| counts(key) && !new.contains_key(*key))
                .any(|(_, value)| !value::same(value, &empty))
    }

    /// Checks a new object, defaulted and prepared.
    ///
    /// # Errors
    /// `Invalid` with all that is wrong.
    pub fn validate_create(&self, object: &Value) -> Result<(), Status> {
        let mut errors = Errors::new();
        meta::validate(object, self.scope, self.strategy.name_errors, &mut errors);
        (self.strategy.validate)(self, object, &mut errors);
        self.invalid(object, &errors)
    }

    /// Checks a changed object, defaulted and prepared.
    ///
    /// # Errors
    /// `Invalid` with all that is wrong.
    pub fn validate_update(&self, new: &Value, old: &Value, part: Part<'_>) -> Result<(), Status> {
        let mut errors = Errors::new();
        meta::validate(new, self.scope, self.strategy.name_errors, &mut errors);
        meta::validate_update(new, old, &mut errors);
        (self.strategy.validate_update)(self, new, old, part, &mut errors);
        self.invalid(new, &errors)
    }

    /// Returns what a client should be told about an object that is accepted (`Warning` headers).
    #[must_use]
    pub fn warnings(&self, object: &Value) -> Vec<String> {
        (self.strategy.warnings)(self, object)
    }

    fn invalid(&self, object: &Value, errors: &Errors) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&self.group, &self.kind, meta::name(object), errors))
    }

    /// Says whether a field selector may name this field.
    #[must_use]
    pub fn selects_by(&self, label: &str) -> bool {
        matches!(label, "metadata.name" | "metadata.namespace")
            || self.fields.iter().any(|field| field.label == label)
    }

    /// Reads one field that a field selector names; `None` for one that it may not name.
    #[must_use]
    pub fn field<'a>(&self, object: &'a Value, label: &str) -> Option<Cow<'a, str>> {
        match label {
            "metadata.name" => Some(Cow::Borrowed(meta::name(object))),
            "metadata.namespace" => Some(Cow::Borrowed(meta::namespace(object))),
            _ => self.fields.iter().find(|field| field.label == label).map(|field| field.read(object)),
        }
    }

    /// Reads all fields that a field selector may name, name and namespace aside.
    pub fn selectable_fields<'a>(
        &'a self,
        object: &'a Value,
    ) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        self.fields.iter().map(move |field| (field.label.as_ref(), field.read(object)))
    }
}
