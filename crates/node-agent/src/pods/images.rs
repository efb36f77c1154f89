//! Getting images: pull policy, credentials, one pull of an image at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use client::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use runtime::{Image, RegistryAuth};

use super::model::{Waiting, spec};
use crate::agent::Agent;

/// Pulls that are under way, by image. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Images {
    gates: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Images {
    fn gate(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock();
        // Gates that nobody waits at are taken away, so that the map does not grow.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        gates.entry(image.to_owned()).or_default().clone()
    }
}

/// Returns the pull policy that is in force.
fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest { "Always" } else { "IfNotPresent" }
        }
    }
}

/// Makes sure that the image of `container` is on the node.
///
/// # Errors
/// Why the container waits. `ErrImagePull` is to be tried again with back-off.
pub(crate) async fn ensure(agent: &Agent, pod: &Pod, container: &Container) -> Result<Image, Waiting> {
    let image = container.image.clone().unwrap_or_default();
    let waiting = |reason: &str, message: String| Waiting { reason: reason.into(), message };
    let failed = |message: &str| {
        agent.container_event(pod, &container.name, EventType::Warning, "Failed", message);
    };
    if !acceptable(&image) {
        let message = format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        );
        agent.container_event(pod, &container.name, EventType::Warning, "InspectFailed", message.clone());
        failed("Error: InvalidImageName");
        return Err(waiting("InvalidImageName", message));
    }
    let present = agent.runtime.image_status(&image).await.map_err(|error| {
        let message = format!("Failed to inspect image {image:?}: {error}");
        failed(&message);
        waiting("ImageInspectError", message)
    })?;
    match (policy(container), present) {
        // Whoever loads an image into a machine wants it to run. No registry has given it a digest, so none is
        // asked whether there is a newer one: most labs have no registry that could answer.
        ("Always", Some(found)) if found.digests.is_empty() => {
            let message =
                format!("Container image {image:?} was loaded into the machine; no registry was asked");
            agent.container_event(pod, &container.name, EventType::Normal, "Pulled", message);
            return Ok(found);
        }
        ("Never" | "IfNotPresent", Some(found)) => {
            let message = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            agent.container_event(pod, &container.name, EventType::Normal, "Pulled", message);
            return Ok(found);
        }
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            agent.container_event(
                pod,
                &container.name,
                EventType::Warning,
                "ErrImageNeverPull",
                message.clone(),
            );
            failed("Error: ErrImageNeverPull");
            return Err(waiting("ErrImageNeverPull", message));
        }
        _ => {}
    }
    agent.container_event(
        pod,
        &container.name,
        EventType::Normal,
        "Pulling",
        format!("Pulling image {image:?}"),
    );
    let asked = agent.clock.now();
    let gate = agent.images.gate(&image);
    let turn = gate.lock().await;
    let began = agent.clock.now();
    let outcome = pull(agent, pod, &image).await;
    drop(turn);
    match outcome {
        Ok(found) => {
            let ended = agent.clock.now();
            let message = format!(
                "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                milliseconds(ended.duration_since(began).unsigned_abs()),
                milliseconds(ended.duration_since(asked).unsigned_abs()),
                found.size
            );
            agent.container_event(pod, &container.name, EventType::Normal, "Pulled", message);
            Ok(found)
        }
        Err(error) => {
            failed(&format!("Failed to pull image {image:?}: {error}"));
            failed("Error: ErrImagePull");
            Err(waiting("ErrImagePull", error))
        }
    }
}

/// Prints a duration in Go's way, to the millisecond.
fn milliseconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{:.3}s", duration.as_secs_f64())
    }
}

/// Returns whether `image` can be a reference at all.
fn acceptable(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let path = name.rsplit('/').next().unwrap_or_default();
    let repository = path.split(':').next().unwrap_or_default();
    !repository.is_empty()
        && !image.contains(|c: char| c.is_whitespace() || c.is_control())
        && repository.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        && path.matches(':').count() <= 1
}

async fn pull(agent: &Agent, pod: &Pod, image: &str) -> Result<Image, String> {
    let mut attempts: Vec<Option<RegistryAuth>> = Vec::new();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for reference in spec(pod).image_pull_secrets.iter().flatten() {
        match agent.objects.secret(namespace, &reference.name).await {
            Ok(Some(secret)) => attempts.extend(credentials(&secret, image).into_iter().map(Some)),
            Ok(None) => agent.pod_event(
                pod,
                EventType::Warning,
                "FailedToRetrieveImagePullSecret",
                format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                ),
            ),
            Err(error) => tracing::warn!(secret = reference.name, %error, "reading an image pull secret"),
        }
    }
    if attempts.is_empty() {
        attempts.push(None);
    }
    let mut last = String::new();
    for auth in attempts {
        match agent.runtime.pull_image(image, auth).await {
            Ok(id) => {
                return match agent.runtime.image_status(&id).await {
                    Ok(Some(found)) => Ok(found),
                    Ok(None) => Err(format!("image {image:?} was pulled as {id} and is gone again")),
                    Err(error) => Err(error.to_string()),
                };
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Returns the registry of an image, as credentials name it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// Returns the credentials of a secret that fit the image's registry.
fn credentials(secret: &Secret, image: &str) -> Vec<RegistryAuth> {
    let data = secret.data.as_ref();
    let read = |key: &str| -> Option<serde_json::Value> { serde_json::from_slice(&data?.get(key)?.0).ok() };
    let auths = read(".dockerconfigjson")
        .and_then(|mut config| config.get_mut("auths").map(serde_json::Value::take))
        .or_else(|| read(".dockercfg"));
    let wanted = registry(image);
    let mut found = Vec::new();
    for (key, entry) in auths.as_ref().and_then(|auths| auths.as_object()).into_iter().flatten() {
        let host = key.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        let fits = host == wanted
            || (wanted == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io"));
        if !fits {
            continue;
        }
        let text = |name: &str| entry.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let decoded = text("auth")
            .and_then(|auth| base64::engine::general_purpose::STANDARD.decode(auth).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = match (text("username"), text("password"), decoded) {
            (Some(username), Some(password), _) => Some((username, password)),
            (_, _, Some(both)) => both.split_once(':').map(|(user, word)| (user.to_owned(), word.to_owned())),
            _ => None,
        };
        found.extend(pair.map(|(username, password)| RegistryAuth { username, password }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_defaults_by_the_tag() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            let container = Container { image: Some(image.into()), ..Container::default() };
            assert_eq!(policy(&container), expected, "{image}");
        }
    }

    #[test]
    fn references_that_cannot_be_are_refused() {
        for (image, good) in [
            ("nginx", true),
            ("a/b/c:1.0", true),
            ("host:5000/x", true),
            ("", false),
            ("UPPER", false),
            ("a b", false),
            ("x:y:z", false),
            ("nginx@sha256:abc", true),
        ] {
            assert_eq!(acceptable(image), good, "{image}");
        }
    }

    #[test]
    fn credentials_are_taken_for_the_images_registry_only() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example":{"username":"a","password":"b"}}}"#;
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.into()))].into()),
            ..Secret::default()
        };
        let found = |image: &str| {
            credentials(&secret, image)
                .into_iter()
                .map(|one| (one.username, one.password))
                .collect::<Vec<_>>()
        };
        assert_eq!(found("nginx"), [("u".to_owned(), "p".to_owned())]);
        assert_eq!(found("r.example/x"), [("a".to_owned(), "b".to_owned())]);
        assert!(found("other.example/x").is_empty());
    }
}
