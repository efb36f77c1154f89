//! Commands with streams, and attaching: containerd serves the streams of both by HTTP, over SPDY/3.1.
//!
//! The protocol is the one between kubectl and a cluster (`v4.channel.k8s.io`), which every containerd speaks: a
//! stream each for input, output, errors and terminal sizes, and one on which the end is told.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use machinery::spdy::Connection;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::proto::cri::{AttachRequest, ExecRequest, UrlResponse};
use super::{Inner, PATIENCE, failure};
use crate::{ContainerState, Error, ExecConfig, Result, Session, TerminalSize};

/// The version of the protocol.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(30);
/// The most that is read of a refusal, or of how a command ended.
const WORDS: usize = 64 * 1024;

/// Which streams there are.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    tty: bool,
}

impl Inner {
    pub(super) async fn exec(self: &Arc<Self>, id: &str, config: ExecConfig) -> Result<Session> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: config.command,
            tty: config.tty,
            stdin: config.stdin,
            stdout: true,
            stderr: !config.tty,
        };
        let answer: UrlResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/Exec", &request, PATIENCE)
            .await
            .map_err(failure::about("container", id, "running a command", PATIENCE))?;
        let wanted = Wanted { stdin: config.stdin, tty: config.tty };
        let (mut session, end) = self.session(&answer.url, wanted).await?;
        session.exit = Box::pin(async move { end_of_command(&told(end).await?) });
        Ok(session)
    }

    pub(super) async fn attach(self: &Arc<Self>, id: &str) -> Result<Session> {
        let tty = self.has_terminal(id).await?;
        let request =
            AttachRequest { container_id: id.to_owned(), stdin: true, tty, stdout: true, stderr: !tty };
        let answer: UrlResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/Attach", &request, PATIENCE)
            .await
            .map_err(failure::about("container", id, "attaching", PATIENCE))?;
        let (mut session, end) = self.session(&answer.url, Wanted { stdin: true, tty }).await?;
        let (this, id) = (Arc::clone(self), id.to_owned());
        session.exit = Box::pin(async move {
            told(end).await?;
            this.exit_code(&id).await
        });
        Ok(session)
    }

    /// Waits until a container has ended, and returns how.
    async fn exit_code(&self, id: &str) -> Result<i32> {
        let mut events = self.events.subscribe();
        loop {
            let status = self.container_status(id).await?;
            if status.state == ContainerState::Exited {
                return Ok(status.exit_code);
            }
            // Whatever it is that happened, or was missed: the container is asked for again.
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
                return Err(Error::system("waiting for a container's end", "the engine is closed"));
            }
        }
    }

    /// Connects to the streams at `url`. The session's end is still to be set, from the second stream.
    async fn session(&self, url: &str, wanted: Wanted) -> Result<(Session, DuplexStream)> {
        let connecting = async {
            let connection = self.upgrade(url).await?;
            let end = open(&connection, "error").await?;
            let stdin = if wanted.stdin { Some(open(&connection, "stdin").await?) } else { None };
            let stdout = open(&connection, "stdout").await?;
            let stderr = if wanted.tty { None } else { Some(open(&connection, "stderr").await?) };
            let sizes = if wanted.tty { Some(open(&connection, "resize").await?) } else { None };
            Ok((end, stdin, stdout, stderr, sizes))
        };
        let (end, stdin, stdout, stderr, sizes) = tokio::select! {
            outcome = connecting => outcome?,
            () = self.config.clock.after(CONNECT) => {
                return Err(Error::Timeout { what: "connecting to a process's streams".into(), after: CONNECT });
            }
        };
        let session = Session {
            stdin: stdin.map(|stream| Box::pin(stream) as _),
            stdout: Some(Box::pin(stdout)),
            stderr: stderr.map(|stream| Box::pin(stream) as _),
            resize: sizes.map(|stream| self.resize(stream)),
            exit: Box::pin(std::future::pending()),
        };
        Ok((session, end))
    }

    /// Returns where terminal sizes go, which are written to `stream`.
    fn resize(&self, mut stream: DuplexStream) -> mpsc::Sender<TerminalSize> {
        let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
        let stop = self.tasks.token();
        self.tasks.spawn("terminal sizes", async move {
            let write = async {
                while let Some(size) = sizes.recv().await {
                    let text = serde_json::json!({"Width": size.width, "Height": size.height});
                    if stream.write_all(format!("{text}\n").as_bytes()).await.is_err() {
                        // The process has ended.
                        return;
                    }
                }
            };
            tokio::select! {
                () = write => {}
                () = stop.cancelled() => {}
            }
        });
        sender
    }

    async fn upgrade(&self, url: &str) -> Result<Connection> {
        let failed =
            |reason: String| Error::system(format!("connecting to a process's streams at {url}"), reason);
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
        let (host, port) = match (uri.scheme_str(), uri.host(), uri.port_u16()) {
            (Some("http"), Some(host), Some(port)) => (host, port),
            (Some("https"), ..) => {
                return Err(failed(
                    "containerd serves them by TLS, which is not supported: set enable_tls_streaming = false in its \
                     configuration"
                        .into(),
                ));
            }
            _ => return Err(failed("it is not a URL with a host and a port".into())),
        };
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::post(path)
            .header(HOST, format!("{host}:{port}"))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "SPDY/3.1")
            .header("X-Stream-Protocol-Version", PROTOCOL)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| failed(error.to_string()))?;
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let stop = self.tasks.token();
        self.tasks.spawn("process streams", async move {
            tokio::select! {
                outcome = connection.with_upgrades() => if let Err(error) = outcome {
                    tracing::debug!(%error, "connecting to a process's streams");
                },
                () = stop.cancelled() => {}
            }
        });
        let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = Limited::new(response.into_body(), WORDS).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(failed(format!("{status}: {}", String::from_utf8_lossy(&body).trim())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| failed(error.to_string()))?;
        Ok(Connection::start(TokioIo::new(upgraded), &self.tasks))
    }
}

async fn open(connection: &Connection, kind: &str) -> Result<DuplexStream> {
    connection
        .open(&[("streamtype", kind)])
        .await
        .map_err(|error| Error::system(format!("opening the stream {kind:?} of a process"), error))
}

/// Reads what is told at the end.
async fn told(end: DuplexStream) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    end.take(WORDS as u64)
        .read_to_end(&mut text)
        .await
        .map_err(|error| Error::system("waiting for a command's end", error))?;
    Ok(text)
}

/// Returns the exit code that a `Status` of the Kubernetes API tells.
fn end_of_command(text: &[u8]) -> Result<i32> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        status: String,
        reason: String,
        message: String,
        details: Option<Details>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Details {
        causes: Vec<Cause>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Cause {
        reason: String,
        message: String,
    }
    if text.is_empty() {
        // The connection ended before the command did.
        return Err(Error::system("running a command", "the runtime did not tell its end"));
    }
    let status: Status = serde_json::from_slice(text)
        .map_err(|_| Error::system("running a command", String::from_utf8_lossy(text)))?;
    if status.status == "Success" {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let code = causes.filter(|cause| cause.reason == "ExitCode").find_map(|cause| cause.message.parse().ok());
    match code {
        Some(code) if status.reason == "NonZeroExitCode" => Ok(code),
        _ => Err(Error::system("running a command", failure::tidy(&status.message))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_end_is_read_from_its_status() {
        let code = |text: &str| end_of_command(text.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(code(r#"{"metadata":{},"status":"Success"}"#), Ok(0));
        let failure = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(code(failure), Ok(3));
        let failure = r#"{"status":"Failure","reason":"InternalError","message":"no such command: unknown"}"#;
        assert_eq!(code(failure), Err("running a command: no such command".to_owned()));
        assert!(code("").is_err() && code("{").is_err());
    }
}
