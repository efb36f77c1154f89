//! Lifecycle hooks: what a container wants done right after its start and right before its end.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::{Container, HTTPHeader, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::agent::Agent;
use crate::http::{Target, dial, get};

/// How long a hook's HTTP request may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a hook to its end.
///
/// # Errors
/// What went wrong.
pub(crate) async fn run(
    agent: &Agent,
    handler: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output =
            agent.runtime.exec_sync(container_id, &command, None).await.map_err(|error| error.to_string())?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        return Err(format!("command '{}' exited with {}: {said}", command.join(" "), output.exit_code));
    }
    if let Some(sleep) = &handler.sleep {
        agent.clock.after(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let target = Target {
            host,
            port: resolve_port(&action.port, container)?,
            tls: action.scheme.as_deref() == Some("HTTPS"),
        };
        let headers = headers(action.http_headers.as_deref().unwrap_or_default(), "kube-lifecycle/1.36");
        let (status, _) = get(&target, &path(action.path.as_deref()), &headers, HTTP_TIMEOUT).await?;
        return if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(format!("HTTP lifecycle hook failed with statuscode: {}", status.as_u16()))
        };
    }
    if let Some(action) = &handler.tcp_socket {
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        return dial(&host, resolve_port(&action.port, container)?, HTTP_TIMEOUT).await.map(drop);
    }
    Err("invalid handler: it has no action".into())
}

/// Returns the number of a port that is given by number or by name.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|one| one.name.as_deref() == Some(name.as_str()))
            .map(|one| one.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("couldn't find port: {port:?} in container {}", container.name))
}

/// Returns a path that begins with a slash.
pub(crate) fn path(path: Option<&str>) -> String {
    let path = path.unwrap_or("/");
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Returns the headers of a request, with the agent's own where the user gave none.
pub(crate) fn headers(given: &[HTTPHeader], user_agent: &'static str) -> HeaderMap {
    let mut out = HeaderMap::new();
    for one in given {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&one.name), HeaderValue::try_from(&one.value)) {
            out.append(name, value);
        }
    }
    out.entry(http::header::USER_AGENT).or_insert(HeaderValue::from_static(user_agent));
    out.entry(http::header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_number_or_name() {
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .unwrap();
        assert_eq!(resolve_port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(resolve_port(&IntOrString::String("web".into()), &container), Ok(8080));
        assert!(resolve_port(&IntOrString::String("no".into()), &container).is_err());
        assert!(resolve_port(&IntOrString::Int(70000), &container).is_err());
    }
}
