//! Passes one request on to another HTTP server, upgrades included: after a 101 the bytes of both sides are
//! copied as they are, so that WebSocket and SPDY need not be understood here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use machinery::clock::SharedClock;
use machinery::tasks::Tasks;
use machinery::tls::Identity;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::server::RequestBody;

/// How long connecting may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection, not to the request.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Where to connect.
#[derive(Clone)]
pub(crate) enum Dial {
    /// HTTP.
    Plain(SocketAddr),
    /// HTTPS.
    Tls {
        /// Where.
        address: SocketAddr,
        /// Trust and identity.
        config: Arc<ClientConfig>,
    },
    /// HTTPS to a server that is known by a name.
    Named {
        /// Where.
        address: SocketAddr,
        /// The name in its certificate.
        name: String,
        /// Trust and identity.
        config: Arc<ClientConfig>,
    },
}

/// What forwarding needs of the server.
pub(crate) struct Forward<'a> {
    pub(crate) clock: &'a SharedClock,
    pub(crate) tasks: &'a Tasks,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dial {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Plain(address) | Self::Tls { address, .. } | Self::Named { address, .. } => *address,
        }
    }

    /// Leads to another port of the same address.
    pub(crate) fn set_port(&mut self, port: u16) {
        match self {
            Self::Plain(address) | Self::Tls { address, .. } | Self::Named { address, .. } => {
                address.set_port(port);
            }
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address()).await?;
        stream.set_nodelay(true)?;
        match self {
            Self::Plain(_) => Ok(Box::new(stream)),
            Self::Tls { address, config } => {
                let name = ServerName::IpAddress(address.ip().into());
                Ok(Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?))
            }
            Self::Named { name, config, .. } => {
                let name = ServerName::try_from(name.clone()).map_err(std::io::Error::other)?;
                Ok(Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?))
            }
        }
    }
}

/// Whether a request asks for another protocol on its connection.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

impl Forward<'_> {
    /// Sends `request` to `dial` as `path_and_query` and returns the answer. Credentials that were meant
    /// for this server do not go on.
    pub(crate) async fn send(
        &self,
        mut request: Request<RequestBody>,
        dial: &Dial,
        path_and_query: &str,
    ) -> Result<Response<Body>, Status> {
        let address = dial.address();
        let unreachable = |error: &dyn std::fmt::Display| {
            Status::service_unavailable(format!("error trying to reach service: dial tcp {address}: {error}"))
        };
        let stream = tokio::select! {
            stream = dial.connect() => stream.map_err(|error| unreachable(&error))?,
            () = self.clock.after(CONNECT) => return Err(unreachable(&"i/o timeout")),
        };
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        self.tasks.spawn("proxy connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "proxied connection ended");
            }
        });

        let upgrade = wants_upgrade(request.headers());
        let client = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut headers = end_to_end(&parts.headers, upgrade);
        headers.remove(http::header::AUTHORIZATION);
        let host = HeaderValue::from_str(&address.to_string())
            .map_err(|error| Status::internal(format!("the address {address} is no header: {error}")))?;
        headers.insert(HOST, host);
        let mut outgoing = Request::builder()
            .method(parts.method)
            .uri(path_and_query)
            .body(body)
            .map_err(|error| Status::bad_request(format!("the path cannot be passed on: {error}")))?;
        *outgoing.headers_mut() = headers;
        let mut answer = sender.send_request(outgoing).await.map_err(|error| {
            Status::service_unavailable(format!("error trying to reach service: {address}: {error}"))
        })?;

        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else {
                return Err(Status::service_unavailable(format!("{address} upgraded a request unasked")));
            };
            let backend = hyper::upgrade::on(&mut answer);
            self.tasks.spawn("tunnel", async move {
                match tokio::try_join!(client, backend) {
                    Ok((client, backend)) => {
                        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                        match tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                            Ok((up, down)) => tracing::trace!(%address, up, down, "tunnel ended"),
                            Err(error) => tracing::debug!(%address, %error, "tunnel ended"),
                        }
                    }
                    Err(error) => tracing::debug!(%address, %error, "upgrading a proxied connection"),
                }
            });
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = end_to_end(answer.headers(), true);
            return Ok(response);
        }

        let (parts, body) = answer.into_parts();
        let mut response = Response::new(Body::stream(futures::stream::unfold(
            (body, sender),
            // The sender is kept until the body has ended: without it the connection would close.
            |(mut body, sender)| async move {
                loop {
                    match body.frame().await? {
                        Ok(frame) => match frame.into_data() {
                            Ok(data) => return Some((Ok(data), (body, sender))),
                            Err(_) => continue,
                        },
                        Err(error) => return Some((Err(error.into()), (body, sender))),
                    }
                }
            },
        )));
        *response.status_mut() = parts.status;
        *response.headers_mut() = end_to_end(&parts.headers, false);
        Ok(response)
    }
}

/// Returns the headers that go on to the next hop; with `upgrade` also those that make one.
fn end_to_end(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    headers
        .iter()
        .filter(|(name, _)| {
            let hop = HOP_BY_HOP.contains(&name.as_str()) || named.contains(name);
            !hop || (upgrade && (**name == CONNECTION || **name == UPGRADE))
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Returns a client configuration that takes any certificate, and shows `identity` if there is one: who asks for
/// the proxy of a pod or service by `https:` knows only the address, as with upstream.
pub(crate) fn insecure(identity: Option<Identity>) -> Result<Arc<ClientConfig>, Status> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(Status::internal)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let config = match identity {
        Some(own) => builder.with_client_auth_cert(own.chain, own.key).map_err(Status::internal)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
