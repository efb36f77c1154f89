//! `ServiceAccount`: every pod runs as a service account, and sees its token unless it does not want to.

use std::sync::Arc;

use api::status::Status;
use serde_json::{Value, json};

use super::{Context, Operation, PATIENCE, Plugin, Request, World};
use crate::access::{list, text};

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How the token's volume begins its name.
const VOLUME: &str = "kube-api-access-";
/// Seconds; a little more than an hour, so that these tokens can be told from those asked for by hand.
const TOKEN_LIFE: i64 = 3607;
/// Restricts pods to the secrets that the account lists.
const ENFORCE: &str = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";

pub(super) struct ServiceAccount;

/// Gives a service account that the controller is about to make (in a new namespace) the time to appear.
pub(super) async fn await_account(request: &Request<'_>, world: &dyn World) {
    if !request.is(Operation::Create, "pods") || is_mirror(request.object) {
        return;
    }
    let name = account(request.object);
    if world.lookup("serviceaccounts", request.namespace, name).is_none() {
        // Found or not, the plugin looks again.
        drop(world.appears("serviceaccounts", request.namespace, name, PATIENCE).await);
    }
}

impl Plugin for ServiceAccount {
    fn mutate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "pods") || is_mirror(request.object) {
            return Ok(());
        }
        let name = account(request.object).to_owned();
        let account = find(request, context, &name)?;
        let spec = &mut request.object["spec"];
        spec["serviceAccountName"] = name.as_str().into();
        // The old name of the field, which clients still read.
        spec["serviceAccount"] = name.as_str().into();
        let automount = spec["automountServiceAccountToken"]
            .as_bool()
            .or_else(|| account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if automount {
            mount_token(spec, context);
        }
        if list(spec, "/imagePullSecrets").is_empty() && !list(&account, "/imagePullSecrets").is_empty() {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }

    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if !request.is(Operation::Create, "pods") {
            return Ok(());
        }
        let spec = &request.object["spec"];
        if is_mirror(request.object) {
            return match text(spec, "/serviceAccountName") {
                "" => Ok(()),
                _ => Err(request.forbidden("a mirror pod may not reference service accounts")),
            };
        }
        let name = text(spec, "/serviceAccountName").to_owned();
        let account = find(request, context, &name)?;
        if text(&account, ENFORCE) == "true" {
            check_secrets(request, &account, &name)?;
        }
        Ok(())
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

fn account(pod: &Value) -> &str {
    [text(pod, "/spec/serviceAccountName"), text(pod, "/spec/serviceAccount")]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("default")
}

fn find(request: &Request<'_>, context: &Context<'_>, name: &str) -> Result<Arc<Value>, Status> {
    let namespace = request.namespace;
    context.world.lookup("serviceaccounts", namespace, name).ok_or_else(|| {
        request.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))
    })
}

/// Adds the volume with token, CA and namespace, and mounts it where nothing is mounted already.
fn mount_token(spec: &mut Value, context: &Context<'_>) {
    let present = list(spec, "/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME))
        .map(str::to_owned);
    let name = match &present {
        Some(name) => name.clone(),
        None => loop {
            let name = format!("{VOLUME}{}", context.random.suffix(5));
            if !list(spec, "/volumes").iter().any(|volume| text(volume, "/name") == name) {
                break name;
            }
        },
    };
    let mut used = false;
    for containers in ["initContainers", "containers"] {
        for container in spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, "/volumeMounts").iter().any(|mount| text(mount, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            push(container, "volumeMounts", mount);
            used = true;
        }
    }
    if used && present.is_none() {
        push(
            spec,
            "volumes",
            json!({"name": name, "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFE, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                ]}},
            ]}}),
        );
    }
}

/// Appends to a list, made when it is not there.
fn push(object: &mut Value, key: &str, item: Value) {
    match object[key].as_array_mut() {
        Some(list) => list.push(item),
        None => object[key] = json!([item]),
    }
}

/// Checks that the pod uses only secrets that its account lists.
fn check_secrets(request: &Request<'_>, account: &Value, name: &str) -> Result<(), Status> {
    let spec = &request.object["spec"];
    let listed = |pointer: &str, secret: &str| {
        list(account, pointer).iter().any(|known| text(known, "/name") == secret)
    };
    for volume in list(spec, "/volumes") {
        let secret = text(volume, "/secret/secretName");
        if !secret.is_empty() && !listed("/secrets", secret) {
            return Err(request.forbidden(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
            )));
        }
    }
    for containers in ["/initContainers", "/containers", "/ephemeralContainers"] {
        for container in list(spec, containers) {
            let of_env = list(container, "/env").iter().map(|env| text(env, "/valueFrom/secretKeyRef/name"));
            let of_all = list(container, "/envFrom").iter().map(|env| text(env, "/secretRef/name"));
            if let Some(secret) =
                of_env.chain(of_all).find(|secret| !secret.is_empty() && !listed("/secrets", secret))
            {
                return Err(request.forbidden(format!(
                    "container {} with envVar referencing secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret",
                    text(container, "/name")
                )));
            }
        }
    }
    for secret in list(spec, "/imagePullSecrets") {
        let secret = text(secret, "/name");
        if !listed("/imagePullSecrets", secret) {
            return Err(request.forbidden(format!(
                "imagePullSecret {secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            )));
        }
    }
    Ok(())
}
