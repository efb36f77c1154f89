//! Port-forward: connections of a client, each to a port of a pod. Over SPDY (also inside a WebSocket) each
//! connection is a pair of streams; over plain WebSocket each port has two channels.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use runtime::Duplex;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::{Body, Query, Refusal, find};
use crate::agent::Agent;
use crate::streaming::upgrade::{self, Agreed};
use crate::streaming::websocket::{self, Encoding};
use machinery::spdy::{Connection, Stream};

/// The SPDY protocol.
const SPDY: &str = "portforward.k8s.io";
/// The same inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Protocols of plain WebSockets.
const CHANNELS: &[&str] = &["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];

pub(super) async fn answer(
    agent: &Arc<Agent>,
    namespace: &str,
    pod: &str,
    query: &Query,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let snapshot = find(agent, namespace, pod)?;
    let sandbox = snapshot
        .view
        .sandbox
        .as_ref()
        .filter(|_| snapshot.view.sandbox_ready())
        .map(|sandbox| sandbox.id.clone())
        .ok_or_else(|| (StatusCode::INTERNAL_SERVER_ERROR, format!("pod {pod:?} is not running")))?;
    let ports = ports(query)?;
    let websocket: Vec<&str> = std::iter::once(TUNNEL).chain(CHANNELS.iter().copied()).collect();
    let agreed = upgrade::agree(request.headers(), &[SPDY], &websocket)?;
    let plain = matches!(&agreed, Agreed::WebSocket { protocol, .. } if protocol != TUNNEL);
    if plain && ports.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "at least one port must be given".into()));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let response = upgrade::answer(&agreed);
    let place =
        Place { agent: agent.clone(), sandbox, uid: snapshot.pod.metadata.uid.clone().unwrap_or_default() };
    agent.tasks.spawn("port forward", async move {
        let transport: Box<dyn Duplex> = match upgraded.await {
            Ok(upgraded) => Box::new(TokioIo::new(upgraded)),
            Err(error) => return tracing::debug!(%error, "a client went before its ports were open"),
        };
        match agreed {
            Agreed::Spdy(_) => over_spdy(&place, transport).await,
            Agreed::WebSocket { protocol, .. } if protocol == TUNNEL => {
                let inner = websocket::tunnel(transport, &place.agent.tasks).await;
                over_spdy(&place, inner).await;
            }
            Agreed::WebSocket { protocol, .. } => over_websocket(&place, &protocol, &ports, transport).await,
        }
    });
    Ok(response)
}

fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let given = query.all("ports").into_iter().chain(query.all("port"));
    let mut out = Vec::new();
    for list in given {
        for text in list.split(',').filter(|text| !text.is_empty()) {
            let port = text.parse::<u16>().ok().filter(|port| *port > 0);
            out.push(port.ok_or_else(|| (StatusCode::BAD_REQUEST, format!("invalid port {text:?}")))?);
        }
    }
    Ok(out)
}

/// Which pod.
#[derive(Clone)]
struct Place {
    agent: Arc<Agent>,
    sandbox: String,
    uid: String,
}

impl Place {
    /// Connects `data` to a port and copies both ways until both have ended; an error is written to `error`.
    async fn join(&self, port: u16, mut data: DuplexStream, mut error: DuplexStream) {
        let failed = |reason: &dyn std::fmt::Display| {
            format!("error forwarding port {port} to pod {}, uid {}: {reason}", self.sandbox, self.uid)
        };
        let outcome = match self.agent.runtime.port_forward(&self.sandbox, port).await {
            Ok(mut connection) => tokio::io::copy_bidirectional(&mut data, &mut connection)
                .await
                .map(drop)
                .map_err(|error| failed(&error)),
            Err(error) => Err(failed(&error)),
        };
        if let Err(reason) = outcome
            && let Err(error) = error.write_all(reason.as_bytes()).await
        {
            tracing::debug!(%error, "telling a client why its port failed");
        }
        error.shutdown().await.ok();
    }
}

async fn over_spdy(place: &Place, transport: Box<dyn Duplex>) {
    let mut connection = Connection::start(transport, &place.agent.tasks);
    let mut halves: HashMap<String, (Option<Stream>, Option<Stream>)> = HashMap::new();
    while let Some(stream) = connection.accept().await {
        let port = stream.header("port").unwrap_or_default().to_owned();
        let Ok(number) = port.parse::<u16>() else {
            tracing::debug!(port, "a stream for something that is no port");
            continue;
        };
        let request = stream.header("requestid").map_or_else(|| port.clone(), str::to_owned);
        let pair = halves.entry(request.clone()).or_default();
        match stream.header("streamtype") {
            Some("error") => pair.1 = Some(stream),
            Some("data") => pair.0 = Some(stream),
            other => {
                tracing::debug!(?other, "a stream of an unknown kind");
                continue;
            }
        }
        if let (Some(_), Some(_)) = pair
            && let Some((Some(data), Some(error))) = halves.remove(&request)
        {
            let (place, ended) = (place.clone(), connection.ended());
            place.agent.tasks.clone().spawn("forwarded port", async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = place.join(number, data.data, error.data) => {}
                }
            });
        }
    }
}

async fn over_websocket(place: &Place, protocol: &str, ports: &[u16], transport: Box<dyn Duplex>) {
    let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
    let numbers: Vec<u8> = (0..ports.len() * 2).filter_map(|channel| u8::try_from(channel).ok()).collect();
    let mut channels = websocket::serve(transport, encoding, &numbers, &place.agent.tasks).await;
    let mut joined = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let (Ok(data), Ok(error)) = (u8::try_from(at * 2), u8::try_from(at * 2 + 1)) else { break };
        // Each channel begins with its port's number, so that the client knows which is which.
        channels.send(data, &port.to_le_bytes(), encoding).await;
        channels.send(error, &port.to_le_bytes(), encoding).await;
        if let (Some(data), Some(error)) = (channels.ends.remove(&data), channels.ends.remove(&error)) {
            joined.push(place.join(*port, data, error));
        }
    }
    let ended = channels.ended();
    tokio::select! {
        () = ended.cancelled() => {}
        _ = futures::future::join_all(joined) => {}
    }
    channels.close().await;
}
