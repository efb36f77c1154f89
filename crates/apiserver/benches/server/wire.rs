//! A client that costs little beside the server that it measures: one request at a time over one connection.

use std::path::Path;
use std::sync::Arc;

use machinery::tls::{self, Identity};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the server is and how it is reached.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) port: u16,
    tls: TlsConnector,
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
    head: Vec<u8>,
}

/// A response's code and body.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Vec<u8>,
}

impl Target {
    pub(crate) fn new(port: u16, directory: &Path) -> Self {
        let identity = Identity::read(&directory.join("admin.pem"), &directory.join("admin.key")).unwrap();
        let authorities = tls::certificates(&directory.join("ca.pem")).unwrap();
        Self { port, tls: TlsConnector::from(Arc::new(tls::client(&authorities, Some(identity)).unwrap())) }
    }

    /// Connects; fails while the server is not there.
    pub(crate) async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let stream = self.tls.connect(name, stream).await?;
        Ok(Connection { stream: BufReader::with_capacity(64 << 10, stream), head: Vec::new() })
    }
}

impl Connection {
    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(&mut self, method: &str, uri: &str, body: &str) -> std::io::Result<Answer> {
        self.send_with(method, uri, "Accept: application/json\r\nContent-Type: application/json\r\n", body)
            .await
    }

    pub(crate) async fn send_with(
        &mut self,
        method: &str,
        uri: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<Answer> {
        self.request(method, uri, headers, body).await?;
        let (code, length) = self.head().await?;
        let mut answer = Answer { code, body: Vec::new() };
        match length {
            Some(length) => {
                answer.body.resize(length, 0);
                self.stream.read_exact(&mut answer.body).await?;
            }
            None => while self.chunk(&mut answer.body).await? {},
        }
        Ok(answer)
    }

    /// Opens a watch.
    pub(crate) async fn watch(&mut self, uri: &str) -> std::io::Result<u16> {
        self.request("GET", uri, "Accept: application/json\r\n", "").await?;
        Ok(self.head().await?.0)
    }

    /// Adds the next chunk of a body to `out`. `false` at its end.
    pub(crate) async fn chunk(&mut self, out: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut size = 0;
        loop {
            match self.stream.read_u8().await? {
                b'\n' => break,
                digit => {
                    if let Some(digit) = char::from(digit).to_digit(16) {
                        size = size * 16 + digit as usize;
                    }
                }
            }
        }
        let begin = out.len();
        out.resize(begin + size, 0);
        self.stream.read_exact(&mut out[begin..]).await?;
        self.stream.read_u16().await?;
        Ok(size > 0)
    }

    async fn request(&mut self, method: &str, uri: &str, headers: &str, body: &str) -> std::io::Result<()> {
        let length = body.len();
        let text = format!(
            "{method} {uri} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(text.as_bytes()).await?;
        self.stream.get_mut().flush().await
    }

    /// Reads an answer's head: its code, and the body's length unless it comes in chunks.
    async fn head(&mut self) -> std::io::Result<(u16, Option<usize>)> {
        self.head.clear();
        while !self.head.ends_with(b"\r\n\r\n") {
            self.head.push(self.stream.read_u8().await?);
        }
        let text = String::from_utf8_lossy(&self.head).to_ascii_lowercase();
        let code = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        Ok((code, length))
    }
}
