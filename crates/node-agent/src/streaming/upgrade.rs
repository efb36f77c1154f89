//! Which streaming protocol a request asks for, and the answer that begins it.

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The header in which SPDY clients list the protocols that they know.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The header in which WebSocket clients do.
const SUBPROTOCOL: &str = "sec-websocket-protocol";

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// SPDY/3.1 with this protocol above it; empty is the first version of all.
    Spdy(String),
    /// WebSocket with this subprotocol; empty when none was asked for.
    WebSocket {
        /// The subprotocol.
        protocol: String,
        /// The client's key.
        key: String,
    },
}

/// Chooses the first protocol that both sides know.
///
/// # Errors
/// The status and text of the refusal.
pub(crate) fn agree(
    headers: &HeaderMap,
    spdy: &[&str],
    websocket: &[&str],
) -> Result<Agreed, (StatusCode, String)> {
    let bad = |text: String| Err((StatusCode::BAD_REQUEST, text));
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let connection = list(headers, CONNECTION.as_str());
    if upgrade.is_empty() || !connection.iter().any(|one| one.eq_ignore_ascii_case("upgrade")) {
        return bad("Upgrade request required".into());
    }
    if upgrade.eq_ignore_ascii_case("websocket") {
        let asked = list(headers, SUBPROTOCOL);
        let key = headers.get("sec-websocket-key").and_then(|value| value.to_str().ok());
        let Some(key) = key.map(str::to_owned) else { return bad("sec-websocket-key is missing".into()) };
        return match asked.iter().find(|one| websocket.contains(&one.as_str())) {
            Some(protocol) => Ok(Agreed::WebSocket { protocol: protocol.clone(), key }),
            None if asked.is_empty() && websocket.contains(&"") => {
                Ok(Agreed::WebSocket { protocol: String::new(), key })
            }
            None => bad(format!("unable to upgrade: none of the requested protocols {asked:?} is supported")),
        };
    }
    if upgrade.to_ascii_uppercase().starts_with("SPDY/3.1") {
        let asked = list(headers, STREAM_PROTOCOL);
        return match asked.iter().find(|one| spdy.contains(&one.as_str())) {
            Some(protocol) => Ok(Agreed::Spdy(protocol.clone())),
            None if asked.is_empty() => Ok(Agreed::Spdy(String::new())),
            None => Err((
                StatusCode::FORBIDDEN,
                format!(
                    "unable to upgrade: unable to negotiate protocol: client supports {asked:?}, server accepts {spdy:?}"
                ),
            )),
        };
    }
    bad(format!("unable to upgrade: {upgrade:?} is neither SPDY/3.1 nor websocket"))
}

fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().to_owned())
        .filter(|one| !one.is_empty())
        .collect()
}

/// Returns the answer that begins what was agreed on.
pub(crate) fn answer<B: Default>(agreed: &Agreed) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    match agreed {
        Agreed::Spdy(protocol) => {
            put("upgrade", "SPDY/3.1");
            if !protocol.is_empty() {
                put(STREAM_PROTOCOL, protocol);
            }
        }
        Agreed::WebSocket { protocol, key } => {
            put("upgrade", "websocket");
            put("sec-websocket-accept", &derive_accept_key(key.as_bytes()));
            if !protocol.is_empty() {
                put(SUBPROTOCOL, protocol);
            }
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_clients_first_known_protocol_wins() {
        let spdy = ["v4.channel.k8s.io", "channel.k8s.io"];
        let websocket = ["v5.channel.k8s.io", ""];
        let check = |pairs: &[(&'static str, &'static str)]| agree(&headers(pairs), &spdy, &websocket);
        assert_eq!(
            check(&[
                ("upgrade", "SPDY/3.1"),
                ("connection", "Upgrade"),
                (STREAM_PROTOCOL, "v9"),
                (STREAM_PROTOCOL, "v4.channel.k8s.io")
            ]),
            Ok(Agreed::Spdy("v4.channel.k8s.io".into()))
        );
        assert_eq!(
            check(&[
                ("upgrade", "websocket"),
                ("connection", "keep-alive, upgrade"),
                ("sec-websocket-key", "k"),
                (SUBPROTOCOL, "x, v5.channel.k8s.io")
            ]),
            Ok(Agreed::WebSocket { protocol: "v5.channel.k8s.io".into(), key: "k".into() })
        );
        assert_eq!(check(&[]).unwrap_err().1, "Upgrade request required");
        assert_eq!(
            check(&[("upgrade", "SPDY/3.1"), ("connection", "Upgrade"), (STREAM_PROTOCOL, "v9")])
                .unwrap_err()
                .0,
            403
        );
    }
}
