//! Everything that is no resource: health, version, discovery.

use api::status::Status;
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::negotiate::Format;
use crate::respond;
use crate::server::Call;

/// The version that this server says it is.
pub(crate) const GIT_VERSION: &str = concat!("v1.36.0+cluster.", env!("CARGO_PKG_VERSION"));

/// Serves a path that is no resource.
pub(crate) async fn dispatch(call: &Call) -> Result<Response<Body>, Status> {
    let path = call.info.path.clone();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if !matches!(call.parts.method.as_str(), "GET" | "HEAD") {
        return Err(Status::method_not_allowed());
    }
    match segments.as_slice() {
        [] => Ok(respond::encode(
            StatusCode::OK,
            Format::Json,
            &json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            false,
        )),
        ["api" | "apis", ..] => crate::discovery::dispatch(call, &segments),
        ["openapi", rest @ ..] => crate::openapi::dispatch(call, rest).await,
        ["metrics"] => Ok(respond::text(StatusCode::OK, crate::metrics::render(&call.server))),
        ["openid", "v1", "jwks"] => {
            Ok(respond::encode(StatusCode::OK, Format::Json, &call.server.tokens.jwks(), false))
        }
        [".well-known", "openid-configuration"] => {
            let config = &call.server.config;
            let base = format!("https://{}:{}", config.advertise_address, config.port);
            Ok(respond::encode(StatusCode::OK, Format::Json, &call.server.tokens.discovery(&base), false))
        }
        ["version"] => Ok(respond::encode(StatusCode::OK, Format::Json, &version(), true)),
        [check @ ("healthz" | "livez" | "readyz"), rest @ ..] => health(call, check, rest).await,
        _ => Err(Status::no_such_resource()),
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36",
        "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    })
}

/// The machine's architecture as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers the health checks. A server that answers has loaded its cache and made its bootstrap objects,
/// since it serves only afterwards; what can fail later is the store.
async fn health(call: &Call, check: &str, rest: &[&str]) -> Result<Response<Body>, Status> {
    let store = call.server.cache.current().await;
    let checks = [("ping", Ok(())), ("store", store.map(drop)), ("informer-sync", Ok(()))];
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    if let [name] = rest {
        let Some((_, result)) = checks.iter().find(|(known, _)| known == name) else {
            return Err(Status::no_such_resource());
        };
        return Ok(match result {
            Ok(()) => respond::text(StatusCode::OK, "ok"),
            Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        });
    }
    let mut text = String::new();
    let mut failed = false;
    for (name, result) in &checks {
        if excluded.contains(name) {
            text += &format!("[+]{name} excluded: ok\n");
            continue;
        }
        match result {
            Ok(()) => text += &format!("[+]{name} ok\n"),
            Err(error) => {
                failed = true;
                text += &format!("[-]{name} failed: {error}\n");
            }
        }
    }
    if failed {
        text += &format!("{check} check failed\n");
        return Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    if call.query.is_set("verbose") {
        text += &format!("{check} check passed\n");
        return Ok(respond::text(StatusCode::OK, text));
    }
    Ok(respond::text(StatusCode::OK, "ok"))
}
