//! The small plugins that fill something in: tolerations of pods, the first taint of nodes, default classes.

use api::status::Status;
use serde_json::{Value, json};

use super::{Context, Operation, Plugin, Request};
use crate::access::{list, text};

/// How long pods stay on a node that is not ready or unreachable, in seconds; upstream's default.
const GRACE: i64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Lets pods stay for a while on a node that fails.
pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn mutate(&self, request: &mut Request<'_>, _: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "pods") && !request.is(Operation::Update, "pods") {
            return Ok(());
        }
        for key in [NOT_READY, UNREACHABLE] {
            let spec = &mut request.object["spec"];
            let tolerated = list(spec, "/tolerations").iter().any(|toleration| {
                let (effect, known) = (text(toleration, "/effect"), text(toleration, "/key"));
                (known == key || known.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            });
            if !tolerated {
                push(
                    spec,
                    "tolerations",
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": GRACE}),
                );
            }
        }
        Ok(())
    }
}

/// Keeps pods off a node until its conditions are known to be good.
pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn mutate(&self, request: &mut Request<'_>, _: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "nodes") {
            return Ok(());
        }
        let spec = &mut request.object["spec"];
        let there = list(spec, "/taints")
            .iter()
            .any(|taint| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule");
        if !there {
            push(spec, "taints", json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

/// Gives a claim that names no class the default one.
pub(super) struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let asked = request.object.pointer("/spec/storageClassName").is_some_and(|class| !class.is_null())
            || request
                .object
                .pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
                .is_some();
        if !request.is(Operation::Create, "persistentvolumeclaims") || asked {
            return Ok(());
        }
        let classes = context.world.list("storageclasses.storage.k8s.io", "");
        if let Some(class) = newest_default(&classes, "storageclass.kubernetes.io/is-default-class") {
            request.object["spec"]["storageClassName"] = text(class, "/metadata/name").into();
        }
        Ok(())
    }
}

/// Gives an ingress that names no class the default one.
pub(super) struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        let is_ingress = request.operation == Operation::Create
            && (request.group, request.resource, request.subresource)
                == ("networking.k8s.io", "ingresses", "");
        let asked = !text(request.object, "/spec/ingressClassName").is_empty()
            || request.object.pointer("/metadata/annotations/kubernetes.io~1ingress.class").is_some();
        if !is_ingress || asked {
            return Ok(());
        }
        let classes = context.world.list("ingressclasses.networking.k8s.io", "");
        if let Some(class) = newest_default(&classes, "ingressclass.kubernetes.io/is-default-class") {
            request.object["spec"]["ingressClassName"] = text(class, "/metadata/name").into();
        }
        Ok(())
    }
}

/// Returns the newest of the classes that an annotation makes the default; by name among equals.
fn newest_default<'a>(classes: &'a [std::sync::Arc<Value>], annotation: &str) -> Option<&'a Value> {
    let pointer = format!("/metadata/annotations/{}", annotation.replace('/', "~1"));
    let key = |class: &Value| {
        let name = text(class, "/metadata/name").to_owned();
        (text(class, "/metadata/creationTimestamp").to_owned(), std::cmp::Reverse(name))
    };
    classes
        .iter()
        .map(AsRef::as_ref)
        .filter(|class| text(class, &pointer) == "true")
        .max_by_key(|class| key(class))
}

/// Appends to a list, made when it is not there.
fn push(object: &mut Value, key: &str, item: Value) {
    match object[key].as_array_mut() {
        Some(list) => list.push(item),
        None => object[key] = json!([item]),
    }
}
