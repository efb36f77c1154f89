//! Clients for the API over HTTPS. The in-process client comes from the API server itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

/// How long connecting may take; a server that is there answers within a round trip.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that carries watches is asked this often whether the other end is still there …
const PING: Duration = Duration::from_secs(20);
/// … and is given up when no answer came for this long.
const PING_ANSWER: Duration = Duration::from_secs(10);
/// How much of an answer may be under way before it is read: a list of a few thousand objects.
const WINDOW: u32 = 4 << 20;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("connecting with kubeconfig {}: {cause}", path.display())]
pub struct Error {
    path: PathBuf,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Returns a client for the current context of the kubeconfig at `path`.
///
/// # Errors
/// When the file cannot be read, or its certificates and keys are not usable. Nothing is sent yet.
pub async fn from_kubeconfig(path: &Path) -> Result<kube::Client, Error> {
    let fail = |cause: Box<dyn std::error::Error + Send + Sync>| Error { path: path.to_owned(), cause };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| fail(error.into()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(error.into()))?;
    http2(config).map_err(|error| fail(error.into()))
}

/// All requests and watches of a process share one HTTP/2 connection: kube's own client speaks HTTP/1 only, and
/// a node that starts thirty pods would open, by TLS handshakes on both sides, a connection for each request
/// that is under way.
fn http2(config: kube::Config) -> kube::Result<kube::Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http()
        .enable_http2()
        .wrap_connector(connector);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(4 * WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING_ANSWER)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(kube::Client::new(service.boxed(), config.default_namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_in_the_error() {
        let Err(error) = from_kubeconfig(Path::new("/does/not/exist")).await else {
            panic!("there is no such file");
        };
        assert!(error.to_string().starts_with("connecting with kubeconfig /does/not/exist: "), "{error}");
    }
}
