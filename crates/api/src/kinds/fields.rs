//! The fields that field selectors may name, beside name and namespace.

use std::borrow::Cow;

use serde_json::Value;

use crate::registry::{Kind, SelectableField};
use crate::value::{list, text};

/// Sets the selectable fields of a kind.
pub(super) fn describe(kind: &mut Kind) {
    kind.fields = match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "Pod") => vec![
            SelectableField::path("spec.nodeName"),
            SelectableField::path("spec.restartPolicy"),
            SelectableField::path("spec.schedulerName"),
            SelectableField::path("spec.serviceAccountName"),
            SelectableField::path_or("spec.hostNetwork", "false"),
            SelectableField::path("status.phase"),
            SelectableField::path("status.podIP"),
            SelectableField::function("status.podIPs", pod_ips),
            SelectableField::path("status.nominatedNodeName"),
        ],
        ("", "Node") => vec![SelectableField::path_or("spec.unschedulable", "false")],
        ("", "Namespace") => vec![SelectableField::path("status.phase")],
        ("", "Secret") => vec![SelectableField::path("type")],
        ("", "Service") => vec![SelectableField::path("spec.clusterIP"), SelectableField::path("spec.type")],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => {
            vec![SelectableField::path_or("status.replicas", "0")]
        }
        ("batch", "Job") => {
            vec![SelectableField::function("status.successful", |job| plain(&job["status"]["succeeded"]))]
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            vec![SelectableField::path("spec.signerName")]
        }
        ("resource.k8s.io", "ResourceSlice") => {
            vec![SelectableField::path("spec.nodeName"), SelectableField::path("spec.driver")]
        }
        ("", "Event") => event("involvedObject", false),
        ("events.k8s.io", "Event") => event("regarding", true),
        _ => Vec::new(),
    };
}

fn pod_ips(pod: &Value) -> Cow<'_, str> {
    let ips: Vec<&str> = list(pod, "status.podIPs").iter().map(|ip| text(ip, "ip")).collect();
    Cow::Owned(ips.join(","))
}

fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Null => Cow::Borrowed("0"),
        other => Cow::Owned(other.to_string()),
    }
}

/// The fields of events. They are the same under both versions, but the object is called differently.
fn event(object: &'static str, renamed: bool) -> Vec<SelectableField> {
    let mut fields = vec![SelectableField::path("reason"), SelectableField::path("type")];
    for part in ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"] {
        let path = format!("{object}.{part}");
        fields.push(SelectableField {
            label: path.clone().into(),
            read: crate::registry::Read::Path(path.into()),
        });
    }
    fields.push(SelectableField::path("reportingComponent"));
    fields.push(if renamed {
        SelectableField::path("reportingController")
    } else {
        SelectableField::function("source", |event| {
            let source = text(event, "source.component");
            Cow::Borrowed(if source.is_empty() { text(event, "reportingComponent") } else { source })
        })
    });
    fields
}
