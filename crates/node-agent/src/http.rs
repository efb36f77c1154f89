//! One small HTTP request to a pod: for probes and hooks. Certificates are not verified, as documented for
//! HTTPS probes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::Duplex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The most of an answer that is kept, bytes.
const LONGEST_ANSWER: usize = 10 * 1024;

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The host name or address.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// With TLS.
    pub(crate) tls: bool,
}

impl Target {
    /// Returns `host:port`.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Connects by TCP.
///
/// # Errors
/// In the words that Go's dialer uses, since users know them from events.
pub(crate) async fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Err(_) => Err(format!("dial tcp {authority}: i/o timeout")),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let reason = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
                std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
                std::io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
                _ => error.to_string(),
            };
            Err(format!("dial tcp {authority}: {reason}"))
        }
    }
}

/// Sends a GET and returns the status and the beginning of the answer.
///
/// # Errors
/// Why there was no answer.
pub(crate) async fn get(
    target: &Target,
    path: &str,
    headers: &HeaderMap,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let scheme = if target.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", target.authority());
    let fail = |reason: String| format!("Get {url:?}: {reason}");
    let attempt = async {
        let stream = dial(&target.host, target.port, timeout).await?;
        let stream: Box<dyn Duplex> =
            if target.tls { tls(stream, &target.host).await? } else { Box::new(stream) };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let mut request = Request::builder().method(Method::GET).uri(path);
        if let Some(all) = request.headers_mut() {
            for (name, value) in headers {
                all.append(name, value.clone());
            }
            if !all.contains_key(http::header::HOST)
                && let Ok(host) = target.authority().parse()
            {
                all.insert(http::header::HOST, host);
            }
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let mut body = response.into_body();
            let mut kept = Vec::new();
            while kept.len() < LONGEST_ANSWER {
                match body.frame().await {
                    Some(Ok(frame)) => kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                    Some(Err(_)) | None => break,
                }
            }
            kept.truncate(LONGEST_ANSWER);
            Ok::<_, String>((status, Bytes::from(kept)))
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            ended = &mut connection => match ended {
                // The answer may be complete although the other end has closed.
                Ok(()) => exchange.await,
                Err(error) => Err(error.to_string()),
            }
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(outcome) => outcome.map_err(fail),
        Err(_) => {
            Err(fail("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()))
        }
    }
}

async fn tls(stream: TcpStream, host: &str) -> Result<Box<dyn Duplex>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Box::new(stream))
}

/// Asks a gRPC health service; returns its serving status, 1 being "serving".
///
/// # Errors
/// Why there was no answer.
pub(crate) async fn grpc_health(
    host: &str,
    port: u16,
    service: &str,
    timeout: Duration,
) -> Result<u8, String> {
    let attempt = async {
        let stream = dial(host, port, timeout).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        // The one field of HealthCheckRequest: 1, a string.
        let mut message = Vec::new();
        if !service.is_empty() {
            message.push(0x0a);
            message.push(u8::try_from(service.len()).map_err(|_| "the service name is too long".to_owned())?);
            message.extend_from_slice(service.as_bytes());
        }
        let mut frame = vec![0u8];
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        frame.extend_from_slice(&message);
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(frame)))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if let Some(code) = response.headers().get("grpc-status").filter(|code| *code != "0") {
                return Err(format!("rpc error: code = {}", code.to_str().unwrap_or("?")));
            }
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            match body.get(5..) {
                Some([0x08, status, ..]) => Ok(*status),
                _ => Ok(0),
            }
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            _ = &mut connection => Err("the connection was closed".to_owned()),
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("timeout: failed to connect service \"{host}:{port}\" within {timeout:?}")),
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
