//! `PodSecurity`: the Pod Security Standards, as a namespace's labels ask for them.

mod checks;

use api::status::Status;
use serde_json::Value;

use super::{Context, Operation, Plugin, Request};
use crate::access::text;

/// How strict a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Everything goes.
    Privileged,
    /// What is known to lead out of a container does not.
    Baseline,
    /// Only what follows today's hardening advice does.
    Restricted,
}

pub(super) struct PodSecurity;

impl Plugin for PodSecurity {
    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        let ephemeral = request.is_for("pods", "ephemeralcontainers");
        if !written || (!request.subresource.is_empty() && !ephemeral) {
            return Ok(());
        }
        if request.is_for("namespaces", "") {
            return check_labels(request);
        }
        let Some((template, is_pod)) = template(request) else { return Ok(()) };
        let Some(namespace) = context.world.lookup("namespaces", "", request.namespace) else {
            return Ok(());
        };
        // Of a pod only its image, metadata and tolerations change later; what was let in may stay.
        if is_pod && request.operation == Operation::Update && !ephemeral {
            return Ok(());
        }
        let empty = Value::Null;
        let (metadata, spec) =
            (template.get("metadata").unwrap_or(&empty), template.get("spec").unwrap_or(&empty));
        let find = |mode: &str| {
            let (level, version) = policy(&namespace, mode);
            let violations = checks::violations(level, metadata, spec);
            (!violations.is_empty()).then(|| {
                format!("violate PodSecurity \"{}:{version}\": {}", level.name(), violations.join(", "))
            })
        };
        if is_pod && let Some(text) = find("enforce") {
            return Err(request.forbidden(text.replacen("violate ", "violates ", 1)));
        }
        if let Some(text) = find("warn") {
            request.warnings.push(format!("would {text}"));
        }
        Ok(())
    }
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Returns level and version that a namespace asks for in a mode. A label that is not understood is as
/// strict as can be, as upstream has it.
fn policy(namespace: &Value, mode: &str) -> (Level, String) {
    let label = |key: String| {
        namespace.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str)
    };
    let level = match label(format!("pod-security.kubernetes.io/{mode}")) {
        None => Level::Privileged,
        Some(level) => Level::parse(level).unwrap_or(Level::Restricted),
    };
    let version = label(format!("pod-security.kubernetes.io/{mode}-version")).unwrap_or("latest");
    (level, version.to_owned())
}

/// Checks that the labels of a namespace name levels and versions.
fn check_labels(request: &Request<'_>) -> Result<(), Status> {
    for (key, value) in
        request.object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten()
    {
        let Some(mode) = key.strip_prefix("pod-security.kubernetes.io/") else { continue };
        let value = value.as_str().unwrap_or_default();
        let why = if mode.ends_with("-version") {
            let numbered = value
                .strip_prefix("v1.")
                .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()));
            (value != "latest" && !numbered).then_some("must be \"latest\" or \"v1.x\"")
        } else {
            Level::parse(value).is_none().then_some("must be one of privileged, baseline, restricted")
        };
        if let Some(why) = why {
            let detail = format!("Invalid value: {value:?}: {why}");
            let field = format!("metadata.labels[{key}]");
            let name = text(request.object, "/metadata/name");
            return Err(Status::new(
                422,
                api::status::Reason::Invalid,
                format!("Namespace {name:?} is invalid: {field}: {detail}"),
            )
            .cause("FieldValueInvalid", detail, &field));
        }
    }
    Ok(())
}

/// Returns the pod, or the template of pods, that a request writes, and whether it is the pod itself.
fn template<'a>(request: &'a Request<'_>) -> Option<(&'a Value, bool)> {
    let object = &*request.object;
    let template = match (request.group, request.resource) {
        ("", "pods") => return Some((object, true)),
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(template).map(|template| (template, false))
}
