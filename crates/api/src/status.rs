//! The `Status` object: how the API says what went wrong, in upstream's words.
//!
//! People and tools match on the reason, the code and the text, so the constructors here are the only
//! place where such texts are written.

use serde_json::{Map, Value, json};

use crate::field::{Errors, quote};

/// Why a request failed. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are upstream's and say it all")]
#[non_exhaustive]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    ServiceUnavailable,
    NotImplemented,
}

impl Reason {
    /// Every reason that has a name.
    const NAMED: [Self; 20] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Gone,
        Self::Expired,
        Self::Invalid,
        Self::ServerTimeout,
        Self::StoreReadError,
        Self::Timeout,
        Self::TooManyRequests,
        Self::BadRequest,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestEntityTooLarge,
        Self::UnsupportedMediaType,
        Self::InternalError,
        Self::ServiceUnavailable,
        Self::NotImplemented,
    ];

    /// Returns the reason of this name; [`Reason::Unknown`] for one that is not upstream's.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::NAMED.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Self::Unknown)
    }

    /// Returns the reason as it stands in the object; empty for [`Reason::Unknown`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::StoreReadError => "StorageReadError",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::NotImplemented => "NotImplemented",
        }
    }
}

/// One cause of a failure, usually about one field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// The machine-readable reason, such as `FieldValueRequired`; may be empty.
    pub reason: String,
    /// The text without the place.
    pub message: String,
    /// The place; may be empty.
    pub field: String,
}

/// What the failure is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// The object's name; may be empty.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The resource (`pods`), or for invalid objects the kind (`Pod`).
    pub kind: String,
    /// The object's uid; may be empty.
    pub uid: String,
    /// The causes.
    pub causes: Vec<Cause>,
    /// When the client may try again, in seconds; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// A failure that is told to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason.
    pub reason: Reason,
    /// The text.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// Of a paged list that has expired: the token that goes on all the same.
    pub continue_token: Option<Box<str>>,
}

/// A result whose failure is told to a client.
pub type Result<T, E = Status> = std::result::Result<T, E>;

/// A resource with its group: `deployments` of `apps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The plural name.
    pub name: &'a str,
}

impl std::fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

impl Status {
    /// Returns a failure with no details.
    #[must_use]
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn about(mut self, resource: Resource<'_>, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        resource.group.clone_into(&mut details.group);
        resource.name.clone_into(&mut details.kind);
        name.clone_into(&mut details.name);
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.to_owned(),
        });
        self
    }

    /// Says when the client may try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// The object does not exist.
    #[must_use]
    pub fn not_found(resource: Resource<'_>, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} {} not found", quote(name)))
            .about(resource, name)
    }

    /// Nothing is served at this path or resource.
    #[must_use]
    pub fn no_such_resource() -> Self {
        let mut status = Self::new(404, Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// An object of this name exists.
    #[must_use]
    pub fn already_exists(resource: Resource<'_>, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} {} already exists", quote(name)))
            .about(resource, name)
    }

    /// No free name was found for `generateName`.
    #[must_use]
    pub fn generate_name_conflict(resource: Resource<'_>, name: &str) -> Self {
        let text = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::new(409, Reason::AlreadyExists, text).about(resource, name).retry_after(1)
    }

    /// The write was based on an old state of the object.
    #[must_use]
    pub fn conflict(resource: Resource<'_>, name: &str) -> Self {
        Self::conflict_because(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// The write does not fit the object's state.
    #[must_use]
    pub fn conflict_because(resource: Resource<'_>, name: &str, why: &str) -> Self {
        let text = format!("Operation cannot be fulfilled on {resource} {}: {why}", quote(name));
        Self::new(409, Reason::Conflict, text).about(resource, name)
    }

    /// A precondition on the uid does not hold.
    #[must_use]
    pub fn uid_mismatch(resource: Resource<'_>, name: &str, wanted: &str, found: &str) -> Self {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        Self::conflict_because(resource, name, &why)
    }

    /// A precondition on the resource version does not hold.
    #[must_use]
    pub fn version_mismatch(resource: Resource<'_>, name: &str, wanted: &str, found: &str) -> Self {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {found}"
        );
        Self::conflict_because(resource, name, &why)
    }

    /// Fields are owned by other managers; `causes` are (manager text, field).
    #[must_use]
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<(String, String)>) -> Self {
        let status = Self::new(409, Reason::Conflict, message);
        causes
            .into_iter()
            .fold(status, |status, (message, field)| status.cause("FieldManagerConflict", message, &field))
    }

    /// The object breaks the rules of its kind. `kind` is the kind's name, not the resource's.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &Errors) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut text = format!("{qualified} {} is invalid", quote(name));
        if !errors.is_empty() {
            text += ": ";
            text += &errors.joined();
        }
        let status = Self::new(422, Reason::Invalid, text).about(Resource { group, name: kind }, name);
        errors
            .iter()
            .fold(status, |status, error| status.cause(error.kind.reason(), error.body(), &error.field))
    }

    /// The client is known but may not do this.
    #[must_use]
    pub fn forbidden(resource: Resource<'_>, name: &str, why: &str) -> Self {
        let text = match (resource.name, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {} is forbidden: {why}", quote(name)),
        };
        Self::new(403, Reason::Forbidden, text).about(resource, name)
    }

    /// The client is not known.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// What was asked for is no longer there, and will not come back.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    /// The history that was asked for is no longer kept; list again.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// The revision of a watch or a list lies before the kept history.
    #[must_use]
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// The continue token of a list is too old; `token` continues at the present state.
    #[must_use]
    pub fn continue_expired(token: &str) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - \
             objects that were created, modified, or deleted between the time the first chunk was returned and \
             now may show up in the list.",
        );
        status.continue_token = Some(token.into());
        status
    }

    /// The revision that was asked for has not been reached.
    #[must_use]
    pub fn too_large(asked: u64, current: u64) -> Self {
        let text = format!("Timeout: Too large resource version: {asked}, current: {current}");
        // Clients tell by the cause that they need not list anew.
        Self::new(504, Reason::Timeout, text)
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
    }

    /// The request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// The resource does not know this verb.
    #[must_use]
    pub fn method_not_supported(resource: Resource<'_>, verb: &str) -> Self {
        let text = format!("{verb} is not supported on resources of kind {}", quote(&resource.to_string()));
        Self::new(405, Reason::MethodNotAllowed, text).about(resource, "")
    }

    /// The path does not know this HTTP method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
    }

    /// No form that the client accepts can be served.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let text = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, Reason::NotAcceptable, text)
    }

    /// The body is in a form that is not read here.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, Reason::UnsupportedMediaType, text)
    }

    /// The client must wait.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, Reason::TooManyRequests, message);
        if retry_after_seconds > 0 {
            status = status.retry_after(retry_after_seconds);
        }
        status
    }

    /// The eviction would break a disruption budget.
    #[must_use]
    pub fn disruption_budget(budget: &str, needed: i64, healthy: i64) -> Self {
        let cause =
            format!("The disruption budget {budget} needs {needed} healthy pods and has {healthy} currently");
        Self::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0).cause(
            "DisruptionBudget",
            cause,
            "",
        )
    }

    /// The body is larger than the limit in bytes.
    #[must_use]
    pub fn request_entity_too_large(limit: usize) -> Self {
        let text = format!("Request entity too large: limit is {limit}");
        Self::new(413, Reason::RequestEntityTooLarge, text)
    }

    /// The request was not done in its time.
    #[must_use]
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        let status = Self::new(504, Reason::Timeout, format!("Timeout: {message}"));
        if retry_after_seconds > 0 { status.retry_after(retry_after_seconds) } else { status }
    }

    /// The server could not do it now.
    #[must_use]
    pub fn server_timeout(resource: Resource<'_>, operation: &str, retry_after_seconds: u32) -> Self {
        let text = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        Self::new(500, Reason::ServerTimeout, text)
            .about(resource, operation)
            .retry_after(retry_after_seconds)
    }

    /// 422 for a request that is well formed and does not fit what is there, in upstream's words: they do not say why.
    #[must_use]
    pub fn unprocessable() -> Self {
        Self::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
    }

    /// Something in the server failed.
    #[must_use]
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let why = why.to_string();
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}")).cause("", why, "")
    }

    /// A part that the request needs is not there.
    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// This is not built.
    #[must_use]
    pub fn not_implemented(what: &str) -> Self {
        Self::new(501, Reason::NotImplemented, format!("{what} is not implemented by this server"))
    }

    /// Returns the object as it is sent.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        });
        if let Some(token) = &self.continue_token {
            object["metadata"]["continue"] = token.as_ref().into();
        }
        let map = object.as_object_mut().expect("it was just made as an object");
        if self.reason != Reason::Unknown {
            map.insert("reason".into(), self.reason.as_str().into());
        }
        if let Some(details) = &self.details {
            map.insert("details".into(), details.to_value());
        }
        map.insert("code".into(), self.code.into());
        object
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        Value::Object(map)
    }
}

/// Returns the object that answers a successful deletion or an action without a result of its own.
#[must_use]
pub fn success(resource: Resource<'_>, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: resource.group.to_owned(),
        kind: resource.name.to_owned(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    let mut object = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if !name.is_empty() {
        object["details"] = details.to_value();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    const PODS: Resource<'_> = Resource { group: "", name: "pods" };
    const DEPLOYMENTS: Resource<'_> = Resource { group: "apps", name: "deployments" };

    #[test]
    fn texts_are_the_ones_that_tools_match_on() {
        let mut errors = Errors::new();
        errors.required(&Path::new("spec").child("containers").index(0).child("name"), "");
        for (status, code, text) in [
            (Status::not_found(PODS, "x"), 404, "pods \"x\" not found"),
            (Status::not_found(DEPLOYMENTS, "x"), 404, "deployments.apps \"x\" not found"),
            (Status::already_exists(PODS, "x"), 409, "pods \"x\" already exists"),
            (
                Status::conflict(PODS, "x"),
                409,
                "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your \
                 changes to the latest version and try again",
            ),
            (
                Status::invalid("", "Pod", "x", &errors),
                422,
                "Pod \"x\" is invalid: spec.containers[0].name: Required value",
            ),
            (Status::forbidden(PODS, "", "no"), 403, "pods is forbidden: no"),
            (Status::forbidden(PODS, "x", "no"), 403, "pods \"x\" is forbidden: no"),
            (
                Status::method_not_supported(DEPLOYMENTS, "create"),
                405,
                "create is not supported on resources of kind \"deployments.apps\"",
            ),
            (Status::internal("disk"), 500, "Internal error occurred: disk"),
        ] {
            assert_eq!((status.code, status.message.as_str()), (code, text));
        }
    }

    #[test]
    fn an_invalid_object_lists_its_causes() {
        let mut errors = Errors::new();
        errors.required(&Path::new("spec").child("x"), "");
        errors.invalid(&Path::new("spec").child("y"), "v", "must not");
        let value = Status::invalid("apps", "Deployment", "d", &errors).to_value();
        assert_eq!(
            value,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422,
                "reason": "Invalid",
                "message": "Deployment.apps \"d\" is invalid: [spec.x: Required value, spec.y: Invalid value: \"v\": must not]",
                "details": {"name": "d", "group": "apps", "kind": "Deployment", "causes": [
                    {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.x"},
                    {"reason": "FieldValueInvalid", "message": "Invalid value: \"v\": must not", "field": "spec.y"},
                ]},
            })
        );
    }
}
