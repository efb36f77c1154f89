//! Calls of webhooks over HTTPS: by a URL, or by a service whose address this server looks up itself.
//!
//! A [`Client`] keeps its connections open between calls and speaks HTTP/2 where the other side does.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use machinery::clock::SharedClock;
use machinery::names::Random;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::access::text;
use crate::cache::Cache;
use crate::proxy::{Backend, backend};

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 8 << 20;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(90);
/// Where the machine keeps the authorities that it trusts; for webhooks that name none of their own.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where a webhook is, as its `clientConfig` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The whole URL. The host of a service is `NAME.NAMESPACE.svc`, as in its certificate.
    pub(crate) url: String,
    service: Option<Service>,
    /// PEM; empty for the authorities that the machine trusts.
    authorities: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    namespace: String,
    name: String,
    port: u16,
}

impl Place {
    /// Reads a `clientConfig`.
    ///
    /// # Errors
    /// When `caBundle` is no base64 text, which decoding has seen to.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let bundle = STANDARD
            .decode(text(config, "/caBundle"))
            .map_err(|error| format!("the caBundle is not base64: {error}"))?;
        let authorities =
            String::from_utf8(bundle).map_err(|error| format!("the caBundle is not PEM: {error}"))?;
        let service = &config["service"];
        if !service.is_object() {
            return Ok(Self { url: text(config, "/url").to_owned(), service: None, authorities });
        }
        let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let path = text(service, "/path").trim_start_matches('/');
        Ok(Self {
            url: format!("https://{name}.{namespace}.svc:{port}/{path}"),
            service: Some(Service { namespace: namespace.to_owned(), name: name.to_owned(), port }),
            authorities,
        })
    }
}

/// What a client needs of the server.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) cache: Arc<Cache>,
    pub(crate) random: Random,
    pub(crate) clock: SharedClock,
}

/// Finds the other side of a connection.
#[derive(Clone)]
struct Dialer {
    service: Option<Service>,
    network: Network,
}

impl Dialer {
    async fn dial(self, uri: Uri) -> std::io::Result<TokioIo<TcpStream>> {
        let failed = |text: String| std::io::Error::other(format!("dial tcp: {text}"));
        let (host, port) = match &self.service {
            None => {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                (host, uri.port_u16().unwrap_or(443))
            }
            Some(service) => {
                let (cache, random) = (&self.network.cache, &self.network.random);
                let port = service.port.to_string();
                let found = backend(cache, random, &service.namespace, &service.name, &port)
                    .map_err(|status| failed(status.message))?;
                match found {
                    Backend::Address(address) => (address.ip().to_string(), address.port()),
                    Backend::Host(host, port) => (host, port),
                }
            }
        };
        let stream = match host.parse() {
            Ok(address) => TcpStream::connect(SocketAddr::new(address, port)).await,
            Err(_) => TcpStream::connect((host.as_str(), port)).await,
        };
        let stream = stream.map_err(|error| failed(format!("{host}:{port}: {error}")))?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// Calls one webhook.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    http: legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>,
    clock: SharedClock,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    /// Returns a client without connections.
    ///
    /// # Errors
    /// When the authorities cannot be used.
    pub(crate) fn new(place: &Place, network: Network) -> Result<Self, String> {
        let pem =
            if place.authorities.is_empty() { system_authorities()? } else { place.authorities.clone() };
        let authorities = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("unable to load root certificates: {error}"))?;
        if authorities.is_empty() {
            return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
        }
        let config = machinery::tls::client(&authorities, None)
            .map_err(|error| format!("unable to load root certificates: {error}"))?;
        let clock = network.clock.clone();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(Dialer { service: place.service.clone(), network });
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { url: place.url.clone(), http, clock })
    }

    /// Posts a JSON document and returns the one that comes back.
    ///
    /// # Errors
    /// A text in the words of Go's HTTP client: nothing answered within `within`, or not with JSON.
    pub(crate) async fn post(
        &self,
        agent: &str,
        body: &Value,
        within: Duration,
        shown: Duration,
    ) -> Result<Value, String> {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}timeout={}s", self.url, shown.as_secs());
        let failed = |why: &dyn std::fmt::Display| format!("Post {}: {why}", api::field::quote(&url));
        let body = serde_json::to_vec(body).map_err(|error| failed(&error))?;
        let request = Request::post(&url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, agent)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(&error))?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| failed(&cause(&error)))?;
            let code = answer.status();
            let bytes = Limited::new(answer.into_body(), ANSWER_LIMIT)
                .collect()
                .await
                .map_err(|error| failed(&format_args!("reading the answer: {error}")))?
                .to_bytes();
            match code.as_u16() {
                200..=299 => serde_json::from_slice(&bytes)
                    .map_err(|error| format!("couldn't get version/kind; json parse error: {error}")),
                404 => Err("the server could not find the requested resource".to_owned()),
                500.. => {
                    let text: String = String::from_utf8_lossy(&bytes).trim().chars().take(2048).collect();
                    let text = if text.is_empty() { "unknown".to_owned() } else { text };
                    Err(format!(
                        "an error on the server ({}) has prevented the request from succeeding",
                        api::field::quote(&text)
                    ))
                }
                _ => Err(format!(
                    "the server responded with the status code {code} but did not return more information"
                )),
            }
        };
        tokio::select! {
            biased;
            result = exchange => result,
            () = self.clock.after(within) => Err(failed(&"context deadline exceeded")),
        }
    }
}

/// Returns the innermost reason that says something to a person.
fn cause(error: &legacy::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    let mut text = error.to_string();
    while let Some(source) = deepest.source() {
        deepest = source;
        let own = deepest.to_string();
        if !own.is_empty() {
            text = own;
        }
    }
    let verify = "tls: failed to verify certificate: x509: ";
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        format!("{verify}certificate signed by unknown authority ({text})")
    } else if text.contains("invalid peer certificate") {
        format!("{verify}{text}")
    } else {
        text
    }
}

fn system_authorities() -> Result<String, String> {
    SYSTEM_AUTHORITIES.iter().find_map(|path| fs_err::read_to_string(path).ok()).ok_or_else(|| {
        format!(
            "the configuration has no caBundle and this machine has no trusted authorities in any of {}",
            SYSTEM_AUTHORITIES.join(", ")
        )
    })
}
