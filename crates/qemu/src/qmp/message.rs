//! The lines of QEMU's machine protocol.

use serde::Deserialize;
use serde_json::Value;

/// Something that happened to a machine by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN` or `STOP`.
    pub name: String,
    /// More about it; null for most.
    pub data: Value,
}

/// One line from QEMU.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// The first line of a connection.
    Greeting,
    /// A command went well.
    Return { id: u64, value: Value },
    /// A command was refused. Without an id it was not even understood.
    Error { id: Option<u64>, class: String, description: String },
    /// Something happened.
    Event(Event),
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    // `Some(null)` must differ from absent: commands may return null.
    #[serde(rename = "return", default, deserialize_with = "present")]
    value: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Message {
    /// Reads a line; the error says what is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let start = || String::from_utf8_lossy(&line[..line.len().min(80)]).trim_end().to_owned();
        let parsed: Line =
            serde_json::from_slice(line).map_err(|error| format!("{:?} is not of QMP: {error}", start()))?;
        match parsed {
            Line { greeting: Some(_), .. } => Ok(Self::Greeting),
            Line { error: Some(Refusal { class, desc }), id, .. } => {
                Ok(Self::Error { id, class, description: desc })
            }
            Line { value: Some(value), id: Some(id), .. } => Ok(Self::Return { id, value }),
            Line { event: Some(name), data, .. } => Ok(Self::Event(Event { name, data })),
            _ => Err(format!("{:?} is neither an answer nor an event", start())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_line_is_read() {
        let cases = [
            (r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#, Message::Greeting),
            (r#"{"return": {}, "id": 3}"#, Message::Return { id: 3, value: json!({}) }),
            (r#"{"return": null, "id": 3}"#, Message::Return { id: 3, value: Value::Null }),
            (
                r#"{"error": {"class": "CommandNotFound", "desc": "no x"}, "id": 4}"#,
                Message::Error { id: Some(4), class: "CommandNotFound".into(), description: "no x".into() },
            ),
            (
                r#"{"error": {"class": "GenericError", "desc": "bad"}}"#,
                Message::Error { id: None, class: "GenericError".into(), description: "bad".into() },
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 1}, "event": "SHUTDOWN", "data": {"guest": true}}"#,
                Message::Event(Event { name: "SHUTDOWN".into(), data: json!({ "guest": true }) }),
            ),
            (r#"{"event": "STOP"}"#, Message::Event(Event { name: "STOP".into(), data: Value::Null })),
        ];
        for (line, expected) in cases {
            assert_eq!(Message::parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_not_of_the_protocol_is_an_error_and_not_a_panic() {
        for line in
            ["", "x", "[]", "{}", "5", r#"{"return": 1}"#, r#"{"error": 1}"#, "\u{ff}", r#"{"id": -1}"#]
        {
            assert!(Message::parse(line.as_bytes()).is_err(), "{line}");
        }
        assert!(Message::parse(&[0xff, 0xfe, b'\n']).is_err());
    }
}
