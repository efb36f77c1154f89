//! `RuntimeClass`: a pod's overhead and where it may run follow from its runtime class.

use api::status::Status;
use serde_json::{Value, json};

use super::{Context, Operation, Plugin, Request};
use crate::access::{list, text};

/// The plugin.
pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "pods") {
            return Ok(());
        }
        let Some(class) = class(request, context)? else { return Ok(()) };
        let overhead = class.pointer("/overhead/podFixed").filter(|amounts| amounts.is_object());
        if let Some(overhead) = overhead {
            let own = &request.object["spec"]["overhead"];
            if own.is_object() && own != overhead {
                return Err(request.forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ));
            }
            request.object["spec"]["overhead"] = overhead.clone();
        }
        for (key, value) in
            class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten()
        {
            let own = request.object["spec"]["nodeSelector"].get(key);
            if let Some(own) = own.filter(|own| *own != value) {
                let (own, value) = (own.as_str().unwrap_or_default(), value.as_str().unwrap_or_default());
                return Err(request.forbidden(format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                     pod.spec.nodeSelector[{key}] = {own}"
                )));
            }
            request.object["spec"]["nodeSelector"][key] = value.clone();
        }
        for toleration in list(&class, "/scheduling/tolerations") {
            if !list(request.object, "/spec/tolerations").contains(toleration) {
                match request.object["spec"]["tolerations"].as_array_mut() {
                    Some(all) => all.push(toleration.clone()),
                    None => request.object["spec"]["tolerations"] = json!([toleration]),
                }
            }
        }
        Ok(())
    }

    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "pods") {
            return Ok(());
        }
        let own = request.object["spec"]["overhead"].clone();
        let class = class(request, context)?;
        let defined = class.as_deref().and_then(|class| class.pointer("/overhead/podFixed"));
        if own.as_object().is_some_and(|own| !own.is_empty()) && defined.is_none() {
            return Err(request.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        Ok(())
    }
}

/// Returns the class that the pod names.
fn class(request: &Request<'_>, context: &Context<'_>) -> Result<Option<std::sync::Arc<Value>>, Status> {
    let name = text(request.object, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    match context.world.lookup("runtimeclasses.node.k8s.io", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}
