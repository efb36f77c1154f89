//! A web server of one file that misbehaves in the ways that a test asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Ends each connection after so many bytes of the body.
    Cut(usize),
    /// Has never heard of ranges, and ends the first connection after so many bytes.
    NoRanges(usize),
    /// Says that the file has more bytes than it has.
    TooLong(usize),
    /// Answers with this status, so many times.
    Status(u16, usize),
}

pub(crate) struct Web {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    file: Mutex<(Vec<u8>, String)>,
    fault: Mutex<Fault>,
    requests: AtomicUsize,
    sent: AtomicUsize,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    pub(crate) async fn new(contents: &[u8], fault: Fault) -> Self {
        Self::begin(contents, fault, None).await
    }

    /// Serves by HTTPS; returns the authority that signed its certificate, too.
    pub(crate) async fn secure(contents: &[u8]) -> (Self, CertificateDer<'static>) {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let server = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let server = server.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let identity = machinery::tls::Identity { chain: vec![server.der().clone()], key };
        let mut config = machinery::tls::server(identity, &[]).unwrap();
        config.alpn_protocols.clear();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self::begin(contents, Fault::None, Some(acceptor)).await, authority.der().clone())
    }

    async fn begin(contents: &[u8], fault: Fault, acceptor: Option<TlsAcceptor>) -> Self {
        let shared = Arc::new(Shared {
            file: Mutex::new((contents.to_vec(), "\"one\"".into())),
            fault: Mutex::new(fault),
            requests: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (shared, acceptor) = (shared.clone(), acceptor.clone());
                    // A client that hangs up is its own business.
                    tokio::spawn(async move {
                        match acceptor {
                            Some(acceptor) => serve(acceptor.accept(stream).await?, &shared).await,
                            None => serve(stream, &shared).await,
                        }
                    });
                }
            }
        });
        Self { port, shared, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/image", self.port)
    }

    pub(crate) fn fault(&self, fault: Fault) {
        *self.shared.fault.lock() = fault;
    }

    /// Replaces the file by a newer one.
    pub(crate) fn publish(&self, contents: &[u8], tag: &str) {
        *self.shared.file.lock() = (contents.to_vec(), tag.into());
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many bytes of bodies were sent.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
        headers.push(line.trim().to_ascii_lowercase());
    }
    let number = shared.requests.fetch_add(1, Ordering::SeqCst);
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (file, tag) = shared.file.lock().clone();
    let fault = *shared.fault.lock();
    if let Fault::Status(status, times) = fault
        && number < times
    {
        let text = format!("HTTP/1.1 {status} Sorry\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return stream.write_all(text.as_bytes()).await;
    }
    let asked = header("range: bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let same = header("if-range:").is_none_or(|validator| validator == tag);
    let from = asked.filter(|_| same && !matches!(fault, Fault::NoRanges(_)));
    let length = if let Fault::TooLong(more) = fault { file.len() + more } else { file.len() };
    let head = match from {
        Some(from) if from >= file.len() => {
            format!("HTTP/1.1 416 No\r\ncontent-range: bytes */{}\r\ncontent-length: 0\r\n", file.len())
        }
        Some(from) => format!(
            "HTTP/1.1 206 Part\r\ncontent-range: bytes {from}-{}/{length}\r\ncontent-length: {}\r\netag: {tag}\r\n",
            length - 1,
            length - from
        ),
        None => format!("HTTP/1.1 200 All\r\ncontent-length: {length}\r\netag: {tag}\r\n"),
    };
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await?;
    let body = &file[from.unwrap_or(0).min(file.len())..];
    let body = match fault {
        Fault::Cut(after) => &body[..body.len().min(after)],
        Fault::NoRanges(after) if number == 0 => &body[..body.len().min(after)],
        _ => body,
    };
    shared.sent.fetch_add(body.len(), Ordering::SeqCst);
    stream.write_all(body).await?;
    stream.shutdown().await
}
