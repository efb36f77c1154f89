//! Exec and attach: a process's streams, connected to a client's. The protocol's versions differ in how the
//! end is told: as text (1 to 3) or as a `Status` (4 and 5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use runtime::{ContainerState, Duplex, ExecConfig, Reader, Session, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Body, Query, Refusal, find, text};
use crate::agent::Agent;
use crate::streaming::upgrade::{self, Agreed};
use crate::streaming::websocket::{self, Channels, Encoding};
use machinery::spdy::Connection;

/// Protocols that SPDY clients may ask for.
const SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Protocols that WebSocket clients may ask for.
const WEBSOCKET: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// How long a client may take to open its streams.
const STREAMS: Duration = Duration::from_secs(30);
/// How long output may stand still after the end of its process before it is given up: a process in the
/// background may hold it open.
const STILL: Duration = Duration::from_secs(1);
/// The most that is read at a time.
const BLOCK: usize = 32 * 1024;

/// Numbers of the channels in a WebSocket.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Which streams the client wants.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let tty = query.is_set(&["tty"]);
        let wanted = Self {
            stdin: query.is_set(&["input", "stdin"]),
            stdout: query.is_set(&["output", "stdout"]),
            // A terminal has no standard error of its own.
            stderr: query.is_set(&["error", "stderr"]) && !tty,
            tty,
        };
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            return Err((
                StatusCode::BAD_REQUEST,
                "you must specify at least 1 of stdin, stdout, stderr".into(),
            ));
        }
        Ok(wanted)
    }
}

/// What is to be connected.
enum Target {
    Exec { id: String, command: Vec<String> },
    Attach { id: String },
}

impl Target {
    async fn open(&self, agent: &Agent, wanted: Wanted) -> runtime::Result<Session> {
        match self {
            Self::Exec { id, command } => {
                let config = ExecConfig { command: command.clone(), tty: wanted.tty, stdin: wanted.stdin };
                agent.runtime.exec(id, config).await
            }
            Self::Attach { id } => agent.runtime.attach(id).await,
        }
    }
}

pub(super) async fn exec(
    agent: &Arc<Agent>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let id = running(agent, namespace, pod, container)?;
    let command = query.all("command");
    if command.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "you must specify a command to run".into()));
    }
    stream(agent, Target::Exec { id, command }, Wanted::of(query)?, request)
}

pub(super) async fn attach(
    agent: &Arc<Agent>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let id = running(agent, namespace, pod, container)?;
    stream(agent, Target::Attach { id }, Wanted::of(query)?, request)
}

/// Runs a command and answers with what it says.
pub(super) async fn run(
    agent: &Arc<Agent>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let id = running(agent, namespace, pod, container)?;
    let words: Vec<String> =
        query.get("cmd").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let output = agent
        .runtime
        .exec_sync(&id, &words, None)
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut said = output.stdout;
    said.extend_from_slice(&output.stderr);
    Ok(text(StatusCode::OK, said))
}

fn running(agent: &Agent, namespace: &str, pod: &str, container: &str) -> Result<String, Refusal> {
    let snapshot = find(agent, namespace, pod)?;
    snapshot
        .view
        .latest(container)
        .filter(|one| one.state == ContainerState::Running)
        .map(|one| one.id.clone())
        .ok_or_else(|| {
            let reason = format!("container not found ({container:?})");
            (StatusCode::INTERNAL_SERVER_ERROR, reason)
        })
}

fn stream(
    agent: &Arc<Agent>,
    target: Target,
    wanted: Wanted,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let agreed = upgrade::agree(request.headers(), SPDY, WEBSOCKET)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let response = upgrade::answer(&agreed);
    let agent = agent.clone();
    agent.tasks.clone().spawn("remote command", async move {
        let transport: Box<dyn Duplex> = match upgraded.await {
            Ok(upgraded) => Box::new(TokioIo::new(upgraded)),
            Err(error) => return tracing::debug!(%error, "a client went before its streams were open"),
        };
        match agreed {
            Agreed::Spdy(protocol) => over_spdy(&agent, &target, wanted, &protocol, transport).await,
            Agreed::WebSocket { protocol, .. } => {
                over_websocket(&agent, &target, wanted, &protocol, transport).await;
            }
        }
    });
    Ok(response)
}

/// The client's ends.
struct Streams {
    stdin: Option<DuplexStream>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    error: Option<DuplexStream>,
    resize: Option<DuplexStream>,
}

async fn over_spdy(
    agent: &Arc<Agent>,
    target: &Target,
    wanted: Wanted,
    protocol: &str,
    transport: Box<dyn Duplex>,
) {
    let mut connection = Connection::start(transport, &agent.tasks);
    let version: u8 = match protocol {
        "v4.channel.k8s.io" => 4,
        "v3.channel.k8s.io" => 3,
        "v2.channel.k8s.io" => 2,
        _ => 1,
    };
    let expected = 1
        + usize::from(wanted.stdin)
        + usize::from(wanted.stdout)
        + usize::from(wanted.stderr)
        + usize::from(wanted.tty && version >= 3);
    let mut found: BTreeMap<String, DuplexStream> = BTreeMap::new();
    let opening = async {
        while found.len() < expected {
            let Some(stream) = connection.accept().await else { return false };
            let kind = stream.header("streamtype").unwrap_or_default().to_owned();
            found.insert(kind, stream.data);
        }
        true
    };
    if !tokio::time::timeout(STREAMS, opening).await.unwrap_or(false) {
        tracing::debug!(protocol, "the client did not open its streams");
        return connection.close().await;
    }
    let streams = Streams {
        stdin: found.remove("stdin"),
        stdout: found.remove("stdout"),
        stderr: found.remove("stderr"),
        error: found.remove("error"),
        resize: found.remove("resize"),
    };
    found.clear();
    connect(agent, target, wanted, streams, version >= 4, connection.ended()).await;
    connection.close().await;
}

async fn over_websocket(
    agent: &Arc<Agent>,
    target: &Target,
    wanted: Wanted,
    protocol: &str,
    transport: Box<dyn Duplex>,
) {
    let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
    let with_status = protocol.starts_with("v4") || protocol.starts_with("v5");
    let mut channels: Channels =
        websocket::serve(transport, encoding, &[STDIN, STDOUT, STDERR, ERROR, RESIZE], &agent.tasks).await;
    // An empty message tells the client that the connection stands.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    channels.send(first, b"", encoding).await;
    let mut take = |channel: u8, wanted: bool| channels.ends.remove(&channel).filter(|_| wanted);
    let streams = Streams {
        stdin: take(STDIN, wanted.stdin),
        stdout: take(STDOUT, wanted.stdout),
        stderr: take(STDERR, wanted.stderr),
        error: take(ERROR, true),
        resize: take(RESIZE, wanted.tty),
    };
    connect(agent, target, wanted, streams, with_status, channels.ended()).await;
    channels.close().await;
}

/// Connects the process and the client until one of them ends, and tells the client how.
async fn connect(
    agent: &Arc<Agent>,
    target: &Target,
    wanted: Wanted,
    mut streams: Streams,
    with_status: bool,
    client_gone: CancellationToken,
) {
    let mut error_stream = streams.error.take();
    let outcome = match target.open(agent, wanted).await {
        Ok(session) => tokio::select! {
            outcome = copy(agent, session, streams) => outcome,
            () = client_gone.cancelled() => return,
        },
        Err(error) => Err(error),
    };
    let attached = matches!(target, Target::Attach { .. });
    let told = ending(outcome, with_status, attached);
    if let Some(stream) = &mut error_stream
        && !told.is_empty()
    {
        if let Err(error) = stream.write_all(told.as_bytes()).await {
            tracing::debug!(%error, "telling a client how its command ended");
        }
        stream.shutdown().await.ok();
    }
}

/// Returns what the error stream says. Pure.
fn ending(outcome: runtime::Result<i32>, with_status: bool, attached: bool) -> String {
    let status = |value: serde_json::Value| value.to_string();
    match outcome {
        Ok(code) if code == 0 || attached => {
            if with_status {
                status(serde_json::json!({"metadata": {}, "status": "Success"}))
            } else {
                String::new()
            }
        }
        Ok(code) if with_status => status(serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
        })),
        Ok(code) => {
            format!("command terminated with non-zero exit code: command terminated with exit code {code}")
        }
        Err(error) if with_status => status(serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: error executing command in container: {error}"),
            "details": {"causes": [{"message": format!("error executing command in container: {error}")}]}
        })),
        Err(error) => format!("error executing command in container: {error}"),
    }
}

/// Copies until the process has ended and said everything.
async fn copy(agent: &Arc<Agent>, session: Session, streams: Streams) -> runtime::Result<i32> {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let beside = |name: &'static str, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = stop.clone();
        agent.tasks.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    };
    match (streams.stdin, stdin) {
        (Some(mut from), Some(mut to)) => beside(
            "stdin",
            Box::pin(async move {
                if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
                    tracing::debug!(%error, "copying standard input");
                }
                to.shutdown().await.ok();
            }),
        ),
        // Nobody will write: the process sees the end of its input.
        (None, Some(to)) => drop(to),
        _ => {}
    }
    if let (Some(from), Some(to)) = (streams.resize, resize) {
        beside("resize", Box::pin(sizes(from, to)));
    }
    let (ended, has_ended) = watch::channel(false);
    let output = async {
        tokio::join!(
            say(stdout, streams.stdout, has_ended.clone()),
            say(stderr, streams.stderr, has_ended.clone())
        );
    };
    let exit = async {
        let code = exit.await;
        ended.send_replace(true);
        code
    };
    let (code, ()) = tokio::join!(exit, output);
    code
}

/// Copies output to its end, or until it stands still after the process has ended.
async fn say(from: Option<Reader>, to: Option<DuplexStream>, mut ended: watch::Receiver<bool>) {
    let Some(mut from) = from else { return };
    let mut to = to;
    let mut block = vec![0u8; BLOCK];
    loop {
        let count = if *ended.borrow() {
            match tokio::time::timeout(STILL, from.read(&mut block)).await {
                Ok(count) => count,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                biased;
                count = from.read(&mut block) => count,
                changed = ended.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        };
        match count {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if let Some(client) = &mut to
                    && client.write_all(&block[..count]).await.is_err()
                {
                    // The process must not stall because nobody listens.
                    to = None;
                }
            }
        }
    }
}

/// Reads terminal sizes as the client sends them: JSON objects, one after the other.
async fn sizes(mut from: DuplexStream, to: mpsc::Sender<TerminalSize>) {
    let mut pending: Vec<u8> = Vec::new();
    let mut block = [0u8; 1024];
    loop {
        match from.read(&mut block).await {
            Ok(0) | Err(_) => return,
            Ok(count) => pending.extend_from_slice(&block[..count]),
        }
        let (found, used) = parse_sizes(&pending);
        pending.drain(..used);
        for size in found {
            if to.send(size).await.is_err() {
                return;
            }
        }
        if pending.len() > BLOCK {
            return;
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Returns the whole sizes in `bytes` and how many bytes they took. Pure.
fn parse_sizes(bytes: &[u8]) -> (Vec<TerminalSize>, usize) {
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    let mut found = Vec::new();
    let mut used = 0;
    while let Some(Ok(size)) = stream.next() {
        used = stream.byte_offset();
        if size.width > 0 && size.height > 0 {
            found.push(TerminalSize { width: size.width, height: size.height });
        }
    }
    (found, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sizes_are_read_as_they_come() {
        let text = br#"{"Width":80,"Height":24}{"Width":100,"Height":30}
{"Wid"#;
        let (found, used) = parse_sizes(text);
        assert_eq!(found, [TerminalSize { width: 80, height: 24 }, TerminalSize { width: 100, height: 30 }]);
        assert_eq!(&text[used..], b"\n{\"Wid");
    }

    #[test]
    fn the_end_is_told_in_the_protocols_own_way() {
        assert_eq!(ending(Ok(0), false, false), "");
        assert_eq!(ending(Ok(0), true, false), r#"{"metadata":{},"status":"Success"}"#);
        let failed: serde_json::Value = serde_json::from_str(&ending(Ok(3), true, false)).unwrap();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "3"}));
        assert!(ending(Ok(3), false, false).ends_with("exit code 3"));
        assert_eq!(ending(Ok(3), false, true), "", "an attached process's own end is no failure of attach");
    }
}
