//! The verbs of resources. Every kind takes the same way; what differs stands in its descriptor.

mod admit;
mod create;
mod delete;
mod objects;
mod options;
mod read;
mod subresources;
mod update;

use std::sync::Arc;

use api::protobuf::Encoder;
use api::registry::{Kind, Storage};
use api::status::Status;
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use crate::body::Body;
use crate::cache::{self, Cache};
use crate::decode::{self, Decoded};
use crate::negotiate::{self, Offer};
use crate::path::Target;
use crate::respond::{self, Include, View};
use crate::server::{Call, RequestBody};

pub(crate) use admit::Write;
pub(crate) use objects::{Written, now};
pub(crate) use options::{DeleteOptions, FieldValidation, ListOptions, WriteOptions};

/// Returns how the cache calls a stored resource: `pods`, `deployments.apps`.
pub(crate) fn id(storage: &Storage) -> String {
    if storage.group.is_empty() {
        storage.plural.to_string()
    } else {
        format!("{}.{}", storage.plural, storage.group)
    }
}

/// Tells the cache of a kind, before its objects are loaded.
pub(crate) fn register(cache: &Cache, kind: &Arc<Kind>) {
    let Some(storage) = kind.storage.as_ref().filter(|_| kind.is_stored_form()) else { return };
    let cached = cache.kind(&id(storage));
    if !kind.fields.is_empty() {
        let kind = kind.clone();
        cached.set_fields(Arc::new(move |object: &Value| {
            kind.selectable_fields(object)
                .map(|(path, value)| (path.to_owned(), value.into_owned()))
                .collect()
        }));
    }
}

/// A call on a resource: the descriptor at the version that was asked for, and where its objects are.
pub(crate) struct Resource {
    pub(crate) call: Arc<Call>,
    pub(crate) kind: Arc<Kind>,
    pub(crate) target: Target,
    /// `None` for kinds that are only computed.
    pub(crate) cached: Option<Arc<cache::Kind>>,
}

/// Serves a request for a resource.
pub(crate) async fn dispatch(call: &Arc<Call>, body: RequestBody) -> Result<Response<Body>, Status> {
    let target = call.info.resource.clone().unwrap_or_default();
    let registry = call.server.registry.load();
    let kind = registry
        .resource(&target.group, &target.version, &target.resource)
        .ok_or_else(Status::no_such_resource)?
        .clone();
    drop(registry);
    let cached = kind.storage.as_ref().map(|storage| call.server.cache.kind(&id(storage)));
    let resource = Resource { call: call.clone(), kind, target, cached };
    resource.check_path()?;
    if !resource.target.subresource.is_empty() {
        return subresources::dispatch(resource, body).await;
    }
    let verb = call.info.verb.as_str();
    if !resource.kind.verbs.contains(&verb) {
        return Err(if verb.is_empty() {
            Status::method_not_allowed()
        } else {
            Status::method_not_supported(resource.kind.resource(), verb)
        });
    }
    if resource.cached.is_none() && matches!(verb, "get" | "list") {
        return match resource.kind.group.as_ref() {
            "metrics.k8s.io" => crate::proxy::serve_metrics(&resource).await,
            _ => Err(Status::not_implemented(&resource.kind.plural)),
        };
    }
    match verb {
        "get" => resource.get().await,
        "list" => resource.list().await,
        "watch" => resource.watch().await,
        "create" => {
            let body = crate::server::read(body).await?;
            if resource.cached.is_none() {
                return subresources::compute(&resource, &body).await;
            }
            resource.create(&body).await
        }
        "update" => resource.update(&crate::server::read(body).await?).await,
        "patch" => resource.patch(&crate::server::read(body).await?).await,
        "delete" => resource.delete(&crate::server::read(body).await?).await,
        "deletecollection" => resource.delete_collection(&crate::server::read(body).await?).await,
        _ => Err(Status::method_not_allowed()),
    }
}

impl Resource {
    /// Refuses paths whose namespace or name does not fit the kind's scope and the verb.
    fn check_path(&self) -> Result<(), Status> {
        let target = &self.target;
        let verb = self.call.info.verb.as_str();
        let namespaced = self.kind.is_namespaced();
        let own_name = target.resource == "namespaces" && target.group.is_empty();
        if !namespaced && !target.namespace.is_empty() && !own_name {
            return Err(Status::no_such_resource());
        }
        let across = matches!(verb, "list" | "watch" | "deletecollection");
        if namespaced && target.namespace.is_empty() {
            if verb == "create" && target.name.is_empty() && self.kind.storage.is_none() {
                // A review may be posted without a namespace: it names one itself, or is refused later.
            } else if matches!(verb, "create" | "update" | "patch") && target.name.is_empty()
                || verb == "deletecollection"
            {
                return Err(Status::method_not_allowed());
            } else if !across {
                return Err(Status::no_such_resource());
            }
        }
        if !target.name.is_empty() && target.subresource.is_empty() && verb == "create" {
            return Err(Status::method_not_allowed());
        }
        if matches!(verb, "update" | "patch") && target.name.is_empty() {
            return Err(Status::method_not_allowed());
        }
        Ok(())
    }

    /// The namespace of the objects asked for; empty for cluster-scoped kinds.
    pub(crate) fn namespace(&self) -> &str {
        if self.kind.is_namespaced() { &self.target.namespace } else { "" }
    }

    /// The object's key within its kind.
    pub(crate) fn key(&self) -> String {
        key(self.namespace(), &self.target.name)
    }

    /// Where the objects are.
    pub(crate) fn objects(&self) -> Result<&Arc<cache::Kind>, Status> {
        self.cached.as_ref().ok_or_else(Status::method_not_allowed)
    }

    /// How the client wants objects to be shown.
    pub(crate) fn view(&self) -> Result<View, Status> {
        let headers = &self.call.parts.headers;
        let stream = self.call.info.verb == "watch";
        let offer = Offer { protobuf: self.has_protobuf(), shapes: true, stream };
        let form = negotiate::choose(headers, offer).ok_or_else(|| {
            Status::not_acceptable(if stream { &negotiate::OFFERED_STREAMS } else { &negotiate::OFFERED[..] })
        })?;
        Ok(View {
            kind: self.kind.clone(),
            form,
            include: Include::parse(self.call.query.get("includeObject"))?,
            pretty: respond::pretty(&self.call.query, headers),
            now: self.call.server.clock.now(),
        })
    }

    /// Whether what this call is about has a protobuf encoding. Custom resources have none, but their scale.
    fn has_protobuf(&self) -> bool {
        match self.kind.subresource(&self.target.subresource) {
            Some(answer) if self.target.subresource == "scale" => {
                Encoder::of(&format!("{}/{}", answer.group, answer.version), &answer.kind).is_some()
            }
            _ => Encoder::of(&self.kind.api_version(), &self.kind.kind).is_some(),
        }
    }

    /// Decodes a body, of whatever kind it says it is.
    pub(crate) fn read(&self, body: &Bytes) -> Result<Decoded, Status> {
        let headers = &self.call.parts.headers;
        if decode::media_type(headers) == negotiate::Format::Protobuf.content_type() && !self.has_protobuf() {
            return Err(Status::unsupported_media_type(&decode::READ[..2]));
        }
        decode::object(headers, body)
    }

    /// The failure of a name that is not there.
    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.kind.resource(), &self.target.name)
    }

    /// Decodes a body and checks that it is of the kind and in the place of the path.
    pub(crate) fn decode(&self, body: &Bytes, kind: &Kind, options: &WriteOptions) -> Result<Value, Status> {
        let decoded = self.read(body)?;
        self.accept(decoded, kind, options)
    }

    /// Checks a decoded object against the path, and its fields as the client asked.
    pub(crate) fn accept(
        &self,
        decoded: Decoded,
        kind: &Kind,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let Decoded { mut value, problems } = decoded;
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let (found_version, found_kind) = (text(&value, "apiVersion"), text(&value, "kind"));
        let wanted_version = kind.api_version();
        if !found_kind.is_empty() && found_kind != kind.kind {
            return Err(Status::bad_request(format!(
                "{found_kind} in version {:?} cannot be handled as a {}: no kind {found_kind:?} is registered for \
                 this resource",
                if found_version.is_empty() { &wanted_version } else { &found_version },
                kind.kind
            )));
        }
        if !found_version.is_empty() && found_version != wanted_version {
            return Err(Status::bad_request(format!(
                "the API version in the data ({found_version}) does not match the expected API version \
                 ({wanted_version})"
            )));
        }
        kind.stamp(&mut value);
        if !value["metadata"].is_object() {
            if !value["metadata"].is_null() {
                return Err(Status::bad_request(format!(
                    "{} in version {:?} cannot be handled as a {}: metadata is not an object",
                    kind.kind, wanted_version, kind.kind
                )));
            }
            value["metadata"] = Value::Object(serde_json::Map::new());
        }
        self.check_fields(&mut value, kind, problems, options)?;
        Ok(value)
    }

    /// Checks the types of all fields, and reports unknown and duplicate ones as the client asked.
    pub(crate) fn check_fields(
        &self,
        value: &mut Value,
        kind: &Kind,
        mut problems: Vec<String>,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        problems.extend(api::decode::decode(kind, value)?);
        match options.field_validation {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(api::decode::strict_error(kind, &problems))
            }
            FieldValidation::Warn => {
                problems.into_iter().for_each(|text| self.call.warn(text));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Returns an object's key within its kind.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}
