//! Requests that other servers answer: node agents for logs, exec, attach and port-forward; pods, services
//! and nodes for their proxy subresource.

mod forward;

use api::registry::Kind;
use api::status::Status;
use http::Response;

use crate::body::Body;
use crate::rest::Resource;
use crate::server::RequestBody;

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
pub(crate) async fn dispatch(resource: &Resource, _body: RequestBody) -> Result<Response<Body>, Status> {
    Err(Status::not_implemented(&format!("the subresource {}", resource.target.subresource)))
}
