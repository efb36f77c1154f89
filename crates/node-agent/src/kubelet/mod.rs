//! The kubelet API: logs, exec, attach, port-forward, statistics and metrics, over mutual TLS. The API server
//! calls it; whoever else does is asked for at the API server.

mod access;
mod follow;
mod forward;
mod logs;
mod metrics;
mod remote;
mod stats;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use machinery::tls::{self, Identity};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::config::Config;
use crate::pods::Snapshot;

pub(crate) use stats::Samples;

/// What answers are made of.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A refusal: status and text.
pub(crate) type Refusal = (StatusCode, String);

/// The open port and its certificates.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    _keep: watch::Sender<Arc<rustls::ServerConfig>>,
}

/// Opens the port of the kubelet API.
///
/// # Errors
/// When the port is taken or the certificates are not usable.
pub(crate) async fn listen(config: &Config) -> anyhow::Result<Listener> {
    let identity = Identity::read(&config.pki.serving_certificate, &config.pki.serving_key)?;
    let authorities = tls::certificates(&config.pki.ca_certificate)?;
    let (keep, tls) = watch::channel(Arc::new(tls::server(identity, &authorities)?));
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port));
    let socket = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    Ok(Listener { socket, tls, _keep: keep })
}

/// Answers until the agent ends.
pub(crate) async fn serve(agent: Arc<Agent>, listener: Listener) {
    let tasks = agent.tasks.clone();
    let samples = Arc::new(Samples::default());
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let (agent, samples) = (agent.clone(), samples.clone());
        async move { Ok::<_, Infallible>(answer(agent, samples, request).await) }
    });
    machinery::serve::serve(listener.socket, listener.tls, service, tasks).await;
}

/// Returns a body of text.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn answer(agent: Arc<Agent>, samples: Arc<Samples>, request: Request<Incoming>) -> Response<Body> {
    if let Err((status, reason)) = access::check(&agent, &request).await {
        return text(status, reason);
    }
    match route(&agent, &samples, request).await {
        Ok(response) => response,
        Err((status, reason)) => text(status, reason),
    }
}

async fn route(
    agent: &Arc<Agent>,
    samples: &Samples,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::of(request.uri().query().unwrap_or_default());
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz", ..] if reading => Ok(text(StatusCode::OK, "ok")),
        ["pods"] if reading => json(&pod_list(agent.pods.all().into_iter().map(|one| one.pod))),
        ["runningpods"] if reading => {
            let running = agent.pods.all().into_iter().filter(|one| one.view.running().next().is_some());
            json(&pod_list(running.map(|one| one.pod)))
        }
        ["containerLogs", namespace, pod, container] if reading => {
            logs::answer(agent, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            remote::exec(agent, namespace, pod, container, &query, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            remote::attach(agent, namespace, pod, container, &query, request).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if *request.method() == Method::POST =>
        {
            remote::run(agent, namespace, pod, container, &query).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            forward::answer(agent, namespace, pod, &query, request).await
        }
        ["stats", "summary"] if reading => json(&stats::summary(agent, samples).await),
        ["metrics"] if reading => Ok(text(StatusCode::OK, metrics::own(agent))),
        ["metrics", "resource"] if reading => {
            Ok(text(StatusCode::OK, metrics::resource(agent, samples).await))
        }
        ["metrics", "cadvisor"] if reading => {
            Ok(text(StatusCode::OK, metrics::cadvisor(agent, samples).await))
        }
        _ => Err((StatusCode::NOT_FOUND, "404 page not found".into())),
    }
}

fn pod_list(pods: impl Iterator<Item = Arc<k8s_openapi::api::core::v1::Pod>>) -> serde_json::Value {
    let items: Vec<_> = pods.map(|pod| serde_json::to_value(pod.as_ref()).unwrap_or_default()).collect();
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// Returns the pod of this name.
fn find(agent: &Agent, namespace: &str, pod: &str) -> Result<Snapshot, Refusal> {
    agent
        .pods
        .find(namespace, pod)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist")))
}

/// The query of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    fn is_set(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| (StatusCode::BAD_REQUEST, format!("invalid value {text:?} of {name}"))),
        }
    }
}
