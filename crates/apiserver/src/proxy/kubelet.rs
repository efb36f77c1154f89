//! The kubelet API of node agents: which node, which path, and what its errors mean.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::status::{Reason, Status};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use rustls::ClientConfig;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::{Dial, Forward};
use crate::body::Body;
use crate::config::KubeletClient;
use crate::rest::Resource;
use crate::server::{ApiServer, RequestBody};

/// The port of the kubelet API where a node does not say.
const PORT: u16 = 10250;
/// How much of a node agent's error text is passed on.
const ERROR_LIMIT: usize = 50_000;

/// How node agents are reached.
#[derive(Clone)]
pub(crate) struct Kubelet(Option<Arc<ClientConfig>>);

impl Kubelet {
    pub(crate) fn new(client: Option<&KubeletClient>) -> Result<Self, String> {
        let Some(client) = client else { return Ok(Self(None)) };
        machinery::tls::client(&client.authorities, Some(client.identity.duplicate()))
            .map(|config| Self(Some(Arc::new(config))))
            .map_err(|error| error.to_string())
    }

    /// Returns how to reach the agent of a node.
    pub(crate) fn dial(&self, node: &Value) -> Result<Dial, Status> {
        let name = api::meta::name(node);
        let address = address(node)
            .ok_or_else(|| Status::service_unavailable(format!("node {name} has no internal address yet")))?;
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(PORT);
        let config = self.0.clone().ok_or_else(|| {
            Status::service_unavailable("this API server has no certificate for node agents".to_owned())
        })?;
        Ok(Dial::Tls { address: SocketAddr::new(address, port), config })
    }
}

fn address(node: &Value) -> Option<IpAddr> {
    let of = |kind: &str| {
        let addresses = node["status"]["addresses"].as_array()?;
        addresses.iter().find(|address| address["type"] == kind)?["address"].as_str()?.parse().ok()
    };
    of("InternalIP").or_else(|| of("ExternalIP"))
}

impl ApiServer {
    pub(crate) fn forward(&self) -> Forward<'_> {
        Forward { clock: &self.clock, tasks: &self.tasks }
    }

    /// Reads a path of a node agent's API.
    pub(crate) async fn ask_node(&self, node: &Value, path: &str) -> Result<Bytes, Status> {
        let dial = self.kubelet.dial(node)?;
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let response = self.forward().send(Request::new(body), &dial, path).await?;
        checked(response).await?.into_body().collect().await.map(http_body_util::Collected::to_bytes).map_err(
            |error| {
                Status::service_unavailable(format!("reading {path} of {}: {error}", api::meta::name(node)))
            },
        )
    }
}

/// The pod of a call and how its node is reached; `None` while it is not placed.
async fn placed(resource: &Resource) -> Result<(Value, Option<Dial>), Status> {
    let pod = resource.read_one().await?.value();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Ok((pod, None));
    }
    let nodes = resource.sibling("", "v1", "nodes", &node)?;
    let node = nodes.read_one_of_name(&node)?;
    let dial = resource.call.server.kubelet.dial(&node.value())?;
    Ok((pod, Some(dial)))
}

/// Returns the container that a call is about, by its query or because there is no other.
fn container(resource: &Resource, pod: &Value) -> Result<String, Status> {
    let name = api::meta::name(pod);
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let (all, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match resource.call.query.get("container").filter(|container| !container.is_empty()) {
        Some(wanted) => {
            let known = [&all, &init, &ephemeral].iter().any(|names| names.iter().any(|name| name == wanted));
            if known {
                Ok(wanted.to_owned())
            } else {
                Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
            }
        }
        None => match all.as_slice() {
            [only] => Ok(only.clone()),
            _ => {
                let preferred =
                    pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
                if let Some(preferred) =
                    preferred.filter(|preferred| all.iter().any(|name| name == preferred))
                {
                    return Ok(preferred.to_owned());
                }
                let mut text = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    all.join(" ")
                );
                if !init.is_empty() {
                    text += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                Err(Status::bad_request(text))
            }
        },
    }
}

fn path(parts: &[&str], query: &[(&str, String)]) -> String {
    let encode = |part: &&str| {
        percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    // What names may hold beside letters and digits needs no encoding; it is kept readable.
    let plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let mut path = String::new();
    for part in parts {
        path.push('/');
        path.push_str(&if plain(part) { (*part).to_owned() } else { encode(part) });
    }
    if !query.is_empty() {
        let mut serializer = Serializer::new(String::new());
        serializer.extend_pairs(query);
        path.push('?');
        path.push_str(&serializer.finish());
    }
    path
}

/// Serves `pods/log`.
pub(super) async fn log(
    resource: &Resource,
    request: Request<RequestBody>,
) -> Result<Response<Body>, Status> {
    let (pod, dial) = placed(resource).await?;
    let container = container(resource, &pod)?;
    let text = HeaderValue::from_static("text/plain");
    let mut response = match dial {
        None => Response::new(Body::empty()),
        Some(dial) => {
            let options = [
                "follow",
                "previous",
                "sinceSeconds",
                "sinceTime",
                "timestamps",
                "tailLines",
                "limitBytes",
                "stream",
            ];
            let query: Vec<(&str, String)> = options
                .into_iter()
                .filter_map(|option| {
                    Some((
                        option,
                        resource.call.query.get(option).filter(|value| !value.is_empty())?.to_owned(),
                    ))
                })
                .collect();
            let path =
                path(&["containerLogs", resource.namespace(), &resource.target.name, &container], &query);
            checked(resource.call.server.forward().send(request, &dial, &path).await?).await?
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}

/// Serves `pods/exec` and `pods/attach`.
pub(super) async fn run(
    resource: &Resource,
    request: Request<RequestBody>,
) -> Result<Response<Body>, Status> {
    let (pod, dial) = placed(resource).await?;
    let name = &resource.target.name;
    let what = resource.target.subresource.as_str();
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let text = format!("cannot {what} into a container in a completed pod; current phase is {phase}");
        return Err(Status::bad_request(text));
    }
    let container = container(resource, &pod)?;
    let dial =
        dial.ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))?;
    let asked = &resource.call.query;
    let mut query: Vec<(&str, String)> = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if asked.is_set(ours) {
            query.push((theirs, "1".into()));
        }
    }
    query.extend(asked.all("command").map(|word| ("command", word.to_owned())));
    let path = path(&[what, resource.namespace(), name, &container], &query);
    upgraded(resource.call.server.forward().send(request, &dial, &path).await?).await
}

/// Serves `pods/portforward`.
pub(super) async fn port_forward(
    resource: &Resource,
    request: Request<RequestBody>,
) -> Result<Response<Body>, Status> {
    let (_, dial) = placed(resource).await?;
    let name = &resource.target.name;
    let dial =
        dial.ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))?;
    let ports: Vec<(&str, String)> =
        resource.call.query.all("ports").map(|ports| ("ports", ports.to_owned())).collect();
    let path = path(&["portForward", resource.namespace(), name], &ports);
    upgraded(resource.call.server.forward().send(request, &dial, &path).await?).await
}

/// Returns how the node of a `nodes/proxy` call is reached.
pub(super) async fn node_proxy(resource: &Resource) -> Result<Dial, Status> {
    let server = &resource.call.server;
    server.cache.current().await?;
    let name = resource.target.name.as_str();
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) => {
            let port = port.parse().map_err(|_| {
                Status::bad_request(format!("invalid node request {:?}", resource.target.name))
            })?;
            (name, Some(port))
        }
        None => (name, None),
    };
    let node = resource.read_one_of_name(name)?.value();
    let mut dial = server.kubelet.dial(&node)?;
    if let Some(port) = port {
        dial.set_port(port);
    }
    Ok(dial)
}

/// Passes on what a node agent answers to an upgrade. Its refusal goes to the client word by word, as upstream's
/// does: kubectl puts "unable to upgrade connection" before it. Only a refusal of this server is not the client's.
async fn upgraded(response: Response<Body>) -> Result<Response<Body>, Status> {
    if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return checked(response).await;
    }
    Ok(response)
}

/// Turns a node agent's refusal into the `Status` that it means.
async fn checked(response: Response<Body>) -> Result<Response<Body>, Status> {
    let code = response.status();
    if code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS || code.is_redirection() {
        return Ok(response);
    }
    let body = http_body_util::Limited::new(response.into_body(), ERROR_LIMIT);
    let text = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => format!("its answer cannot be read: {error}"),
    };
    Err(match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::NOT_FOUND => Status::new(404, Reason::NotFound, text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Status::internal(format!("the node agent refuses this API server ({code}): {text}"))
        }
        _ => Status::new(code.as_u16(), Reason::Unknown, text),
    })
}
