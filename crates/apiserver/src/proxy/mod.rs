//! Requests that other servers answer: node agents for logs, exec, attach and port-forward; pods, services
//! and nodes for their subresource `proxy`.

mod endpoint;
mod forward;
mod kubelet;
mod stats;

use api::registry::Kind;
use api::status::Status;
use http::header::LOCATION;
use http::{HeaderValue, Request, Response, StatusCode};

use crate::body::Body;
use crate::rest::Resource;
use crate::server::RequestBody;

pub(crate) use endpoint::{Backend, backend};
pub(crate) use forward::{Dial, Forward, insecure, wants_upgrade};
pub(crate) use kubelet::Kubelet;
pub(crate) use stats::{kinds as metrics_kinds, serve as serve_metrics};

/// Whether a subresource is answered by another server.
pub(crate) fn serves(kind: &Kind, subresource: &str) -> bool {
    kind.group.is_empty()
        && match kind.plural.as_ref() {
            "pods" => matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy"),
            "services" | "nodes" => subresource == "proxy",
            _ => false,
        }
}

/// Passes the request on.
pub(crate) async fn dispatch(resource: &Resource, body: RequestBody) -> Result<Response<Body>, Status> {
    let call = &resource.call;
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.headers_mut() = call.parts.headers.clone();
    // The connection's promise of an upgrade goes with the request.
    *request.extensions_mut() = call.parts.extensions.clone();
    match resource.target.subresource.as_str() {
        "log" => kubelet::log(resource, request).await,
        "exec" | "attach" => kubelet::run(resource, request).await,
        "portforward" => kubelet::port_forward(resource, request).await,
        _ => proxy(resource, request).await,
    }
}

/// Serves the subresource `proxy`.
async fn proxy(resource: &Resource, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
    let call = &resource.call;
    let rest = &resource.target.rest;
    let own = call.parts.uri.path();
    if rest.is_empty() && call.parts.method.is_safe() && !forward::wants_upgrade(request.headers()) {
        // Without the slash, relative links of what is shown would lead out of the proxy.
        let query = call.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let place = HeaderValue::from_str(&format!("{own}/{query}"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        response.headers_mut().insert(LOCATION, place);
        return Ok(response);
    }
    let dial = match resource.kind.plural.as_ref() {
        "nodes" => kubelet::node_proxy(resource).await?,
        "pods" => endpoint::pod(resource).await?,
        _ => endpoint::service(resource).await?,
    };
    let path = if rest.is_empty() { "/" } else { rest };
    let path = match call.parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = resource.call.server.forward().send(request, &dial, &path).await?;
    let prefix = own.strip_suffix(rest.as_str()).unwrap_or(own);
    if let Some(place) = response.headers().get(LOCATION).and_then(|place| place.to_str().ok())
        && place.starts_with('/')
        && let Ok(place) = HeaderValue::from_str(&format!("{prefix}{place}"))
    {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}
