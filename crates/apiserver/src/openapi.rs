//! The OpenAPI documents, as `api::openapi` builds them.

use std::io::Read as _;
use std::sync::Arc;

use api::openapi::{self, Document, Which};
use api::status::Status;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::negotiate::Format;
use crate::respond;
use crate::server::{ApiServer, Call};

/// Serves `/openapi/…`.
pub(crate) async fn dispatch(call: &Call, segments: &[&str]) -> Result<Response<Body>, Status> {
    let headers = &call.parts.headers;
    let accepts = |what: &str| {
        headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(what)))
    };
    let (which, content_type) = match segments {
        ["v3"] => {
            let registry = call.server.registry.load();
            let mut index = openapi::v3_index(&registry, &custom);
            for service in call.server.aggregator.services().iter() {
                let path = format!("apis/{}/{}", service.group, service.version);
                index["paths"][&path] =
                    serde_json::json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            }
            return Ok(respond::encode(StatusCode::OK, Format::Json, &index, false));
        }
        ["v2"] if accepts("application/com.github.proto-openapi.spec.v2") => {
            (Which::V2Protobuf, openapi::V2_PROTOBUF)
        }
        ["v2"] => (Which::V2Json, "application/json"),
        ["v3", "api", version] => {
            (Which::V3 { group: String::new(), version: (*version).to_owned() }, "application/json")
        }
        ["v3", "apis", group, version] => {
            (Which::V3 { group: (*group).to_owned(), version: (*version).to_owned() }, "application/json")
        }
        _ => return Err(Status::no_such_resource()),
    };
    let document = build(&call.server, which).await?;
    let etag = format!("\"{}\"", document.etag);
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(etag.as_str());
    let mut response = Response::new(Body::empty());
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        let (bytes, compressed) = plain_unless_wanted(&document, headers)?;
        *response.body_mut() = Body::from(bytes);
        if compressed {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    // Who names the document by its hash may keep it for ever.
    let lasting = call.query.get("hash") == Some(&*document.etag);
    let cache = if lasting { "public, immutable" } else { "no-cache, private" };
    for (name, text) in [
        (CONTENT_TYPE, content_type),
        (ETAG, etag.as_str()),
        (CACHE_CONTROL, cache),
        (VARY, "Accept-Encoding, Accept"),
    ] {
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// The schema of a custom kind.
fn custom(kind: &api::registry::Kind) -> Option<serde_json::Value> {
    api::custom::schema_of(kind).cloned()
}

/// Builds a document off the async threads: the first time takes a while.
async fn build(server: &Arc<ApiServer>, which: Which) -> Result<Document, Status> {
    let server = server.clone();
    let built =
        tokio::task::spawn_blocking(move || server.documents.get(&which, &server.registry.load(), &custom));
    built.await.map_err(Status::internal)?.ok_or_else(Status::no_such_resource)
}

/// Returns the compressed bytes to who takes them, else the document itself.
fn plain_unless_wanted(document: &Document, headers: &HeaderMap) -> Result<(Bytes, bool), Status> {
    if takes_gzip(headers) {
        return Ok((document.gzip.clone(), true));
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&*document.gzip).read_to_end(&mut plain).map_err(Status::internal)?;
    Ok((plain.into(), false))
}

/// Whether the client takes gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            matches!(coding.split(';').next().map(str::trim), Some("gzip" | "*")) && !coding.contains("q=0")
        })
}
