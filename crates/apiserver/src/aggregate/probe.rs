//! Whether the servers of aggregated APIs can be reached, and what they serve.

use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::{Value, json};

use super::{ID, Service};
use crate::path::Target;
use crate::rest::{WriteOptions, now};
use crate::server::ApiServer;

/// How often a server is asked what it serves.
const PAUSE: Duration = Duration::from_secs(30);
/// How soon a server that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(6);
/// The largest answer that is read, in bytes.
const LIMIT: usize = 4 << 20;

/// Follows the objects and the places where their servers are.
pub(crate) async fn run(server: &Arc<ApiServer>) {
    let watch = |resource: &str| server.cache.kind(resource).list_and_watch("").1;
    let (mut objects, mut services, mut endpoints) = (watch(ID), watch("services"), watch("endpoints"));
    loop {
        let all = server.aggregator.services();
        let mut every = true;
        for service in all.iter() {
            every &= settle(server, service).await;
        }
        // Without any aggregated API only a new object is a reason to look.
        let (pause, idle) = (if every { PAUSE } else { RETRY }, all.is_empty());
        tokio::select! {
            changed = objects.next(256) => {
                if changed.is_err() {
                    objects = watch(ID);
                }
            }
            changed = services.next(256), if !idle => {
                if changed.is_err() {
                    services = watch("services");
                }
            }
            changed = endpoints.next(256), if !idle => {
                if changed.is_err() {
                    endpoints = watch("endpoints");
                }
            }
            () = server.clock.after(pause), if !idle => {}
        }
        if idle {
            (services, endpoints) = (watch("services"), watch("endpoints"));
        }
    }
}

/// Asks a server what it serves and writes the condition. Returns whether it answered.
async fn settle(server: &Arc<ApiServer>, service: &Service) -> bool {
    let (status, reason, message) = match probe(server, service).await {
        Ok(resources) => {
            service.resources.store(Arc::new(Some(resources)));
            ("True", "Passed", "all checks passed".to_owned())
        }
        Err((reason, message)) => ("False", reason, message),
    };
    let time = now(server.clock.now());
    let write = |old: &Value| {
        let mut new = old.clone();
        let mut conditions = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let fresh = json!({"type": "Available", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time});
        match conditions.iter_mut().find(|condition| condition["type"] == "Available") {
            Some(known) => {
                let since = known["lastTransitionTime"].clone();
                let same = known["status"] == status;
                *known = fresh;
                if same {
                    known["lastTransitionTime"] = since;
                }
            }
            None => conditions.push(fresh),
        }
        new["status"]["conditions"] = conditions.into();
        Ok(new)
    };
    let target = Target {
        group: "apiregistration.k8s.io".into(),
        version: "v1".into(),
        resource: "apiservices".into(),
        name: service.name.clone(),
        ..Target::default()
    };
    let written = match crate::bootstrap::internal(server, target) {
        Ok(resource) => resource.rewrite(&WriteOptions::default(), &write).await,
        Err(error) => Err(error),
    };
    if let Err(error) = written
        && error.code != 404
    {
        tracing::warn!(%error, name = service.name, "writing the condition of an APIService");
    }
    status == "True"
}

/// Asks for the resources of the group and version.
async fn probe(server: &ApiServer, service: &Service) -> Result<Value, (&'static str, String)> {
    let path = format!("/apis/{}/{}", service.group, service.version);
    let place = format!("{}/{}", service.namespace, service.service);
    let key = crate::rest::key(&service.namespace, &service.service);
    if server.cache.kind("services").get(&key).is_none() {
        let text = format!("service/{} in {:?} is not present", service.service, service.namespace);
        return Err(("ServiceNotFound", text));
    }
    let dial = service.dial(server).map_err(|status| {
        let text = format!("endpoints for service/{place} have no addresses: {}", status.message);
        ("MissingEndpoints", text)
    })?;
    let failed = |why: String| {
        let text = format!("failing or missing response from https://{place}{path}: {why}");
        ("FailedDiscoveryCheck", text)
    };
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    super::introduce(
        request.headers_mut(),
        &crate::access::UserInfo::new("system:kube-aggregator", &["system:masters"]),
    )
    .map_err(|status| failed(status.message))?;
    let exchange = async {
        let response = server.forward().send(request, &dial, &path).await?;
        let code = response.status();
        let bytes = Limited::new(response.into_body(), LIMIT)
            .collect()
            .await
            .map_err(|error| Status::service_unavailable(error.to_string()))?
            .to_bytes();
        if !code.is_success() {
            return Err(Status::service_unavailable(format!(
                "bad status from https://{place}{path}: {}",
                code.as_u16()
            )));
        }
        serde_json::from_slice::<Value>(&bytes)
            .map_err(|error| Status::service_unavailable(error.to_string()))
    };
    tokio::select! {
        biased;
        answer = exchange => answer.map_err(|status| failed(status.message)),
        () = server.clock.after(WITHIN) => Err(failed("context deadline exceeded".to_owned())),
    }
}
