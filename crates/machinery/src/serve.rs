//! The accept loop: TLS, HTTP/1.1 and HTTP/2 with upgrades, the peer's certificate handed to the service.
//! The API server and the node agent's kubelet API both run on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt};

use crate::tasks::Tasks;

/// How long a client may take over its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection; found in the request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The certificate chain that the client presented, verified against the client authorities.
    /// Empty when it presented none.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Accepts connections on `listener` and serves them until `tasks` is cancelled.
/// Each request carries a [`Peer`] extension. `tls` is read for every connection, so that new
/// certificates take effect without a restart.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: tokio::sync::watch::Receiver<Arc<rustls::ServerConfig>>,
    service: S,
    tasks: Tasks,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most of all: connections that end will free some.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.borrow().clone());
        let service = service.clone();
        tasks.spawn("connection", async move {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%address, %error, "setting TCP_NODELAY");
            }
            let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake"),
                Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
            };
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let peer = Peer {
                address,
                certificates: certificates.iter().map(|one| one.clone().into_owned()).collect(),
            };
            let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer.clone());
                service.clone().oneshot(request)
            });
            let mut server = auto::Builder::new(TokioExecutor::new());
            server
                .http1()
                .max_buf_size(64 * 1024)
                .http2()
                .max_concurrent_streams(1000)
                .max_header_list_size(64 * 1024);
            if let Err(error) = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
                tracing::debug!(%address, %error, "connection ended");
            }
        });
    }
}
