//! Clients for the API over HTTPS. The in-process client comes from the API server itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt as _};

/// How long connecting may take; a server that is there answers within a round trip.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that carries watches is asked this often whether the other end is still there …
const PING: Duration = Duration::from_secs(20);
/// … and is given up when no answer came for this long.
const PING_ANSWER: Duration = Duration::from_secs(10);
/// Where there are several servers, a silent one is given up sooner: the next one is there.
const NEXT_CONNECT: Duration = Duration::from_secs(2);
const NEXT_PING: Duration = Duration::from_secs(4);
const NEXT_PING_ANSWER: Duration = Duration::from_secs(4);
/// How much of an answer may be under way before it is read: a list of a few thousand objects.
const WINDOW: u32 = 4 << 20;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("connecting with kubeconfig {}: {cause}", path.display())]
pub struct Error {
    path: PathBuf,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Returns a client for the current context of the kubeconfig at `path`. With `servers` (`https://HOST:PORT`) it asks
/// these instead of the one that is named there: the first one, and the next one when a connection to it cannot be
/// made or breaks. All of them have to show a certificate that is good for the first one.
///
/// # Errors
/// When the file cannot be read, its certificates and keys are not usable, or a server is no URL. Nothing is sent yet.
pub async fn from_kubeconfig(path: &Path, servers: &[String]) -> Result<kube::Client, Error> {
    let fail = |cause: Box<dyn std::error::Error + Send + Sync>| Error { path: path.to_owned(), cause };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| fail(error.into()))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(error.into()))?;
    let servers: Vec<http::Uri> = servers
        .iter()
        .map(|server| server.parse().map_err(|error| fail(format!("the server {server:?}: {error}").into())))
        .collect::<Result<_, _>>()?;
    if let Some(first) = servers.first() {
        config.cluster_url = first.clone();
    }
    http2(config, servers).map_err(|error| fail(error.into()))
}

/// All requests and watches of a process share one HTTP/2 connection: kube's own client speaks HTTP/1 only, and
/// a node that starts thirty pods would open, by TLS handshakes on both sides, a connection for each request
/// that is under way.
fn http2(config: kube::Config, servers: Vec<http::Uri>) -> kube::Result<kube::Client> {
    let several = servers.len() > 1;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(if several { NEXT_CONNECT } else { CONNECT }));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http()
        .enable_http2()
        .wrap_connector(Servers::new(connector, servers));
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(4 * WINDOW)
        .http2_keep_alive_interval(if several { NEXT_PING } else { PING })
        .http2_keep_alive_timeout(if several { NEXT_PING_ANSWER } else { PING_ANSWER })
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(kube::Client::new(service.boxed(), config.default_namespace))
}

/// Connects to the first of several servers that takes a connection, beginning behind the one that did last: a new
/// connection is only wanted when that one broke, and a server that hangs still takes connections.
#[derive(Debug, Clone)]
struct Servers<C> {
    connector: C,
    servers: Arc<[http::Uri]>,
    next: Arc<AtomicUsize>,
}

impl<C> Servers<C> {
    fn new(connector: C, servers: Vec<http::Uri>) -> Self {
        Self { connector, servers: servers.into(), next: Arc::default() }
    }
}

impl<C> Service<http::Uri> for Servers<C>
where
    C: Service<http::Uri> + Clone + Send + 'static,
    C::Future: Send,
    C::Response: Send,
    C::Error: Into<BoxError> + Send,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let Self { connector, servers, next } = self.clone();
        Box::pin(async move {
            if servers.is_empty() {
                return connector.oneshot(uri).await.map_err(Into::into);
            }
            let first = next.load(Ordering::Relaxed);
            let mut troubles = Vec::new();
            for place in (first..).take(servers.len()) {
                let server = &servers[place % servers.len()];
                match connector.clone().oneshot(server.clone()).await {
                    Ok(connection) => {
                        tracing::info!(%server, "connected to an API server");
                        next.store((place + 1) % servers.len(), Ordering::Relaxed);
                        return Ok(connection);
                    }
                    Err(error) => troubles.push(format!("{server} {}", error.into())),
                }
            }
            Err(format!("no API server takes a connection: {}", troubles.join("; ")).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes connections by servers whose port is even, and says by which.
    fn even()
    -> impl Service<http::Uri, Response = u16, Error = BoxError, Future: Send> + Clone + Send + 'static {
        tower::service_fn(|uri: http::Uri| async move {
            let port = uri.port_u16().unwrap();
            if port.is_multiple_of(2) { Ok(port) } else { Err(BoxError::from("is odd")) }
        })
    }

    async fn connected(
        servers: &mut (impl Service<http::Uri, Response = u16, Error = BoxError> + Clone),
    ) -> String {
        let connection = servers.clone().oneshot(http::Uri::from_static("https://unused:1")).await;
        connection.map_or_else(|error| error.to_string(), |port| port.to_string())
    }

    #[tokio::test]
    async fn a_server_that_takes_no_connection_is_passed_over_from_then_on() {
        let uris =
            |ports: &[u16]| ports.iter().map(|port| format!("https://m:{port}").parse().unwrap()).collect();
        let mut servers = Servers::new(even(), uris(&[1, 3, 4, 6]));
        assert_eq!(connected(&mut servers).await, "4");
        assert_eq!(connected(&mut servers).await, "6", "the connection before broke");
        assert_eq!(connected(&mut servers).await, "4");
        let mut none = Servers::new(even(), uris(&[1, 3]));
        let said = "no API server takes a connection: https://m:1/ is odd; https://m:3/ is odd";
        assert_eq!(connected(&mut none).await, said);
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_in_the_error() {
        let Err(error) = from_kubeconfig(Path::new("/does/not/exist"), &[]).await else {
            panic!("there is no such file");
        };
        assert!(error.to_string().starts_with("connecting with kubeconfig /does/not/exist: "), "{error}");
    }
}
