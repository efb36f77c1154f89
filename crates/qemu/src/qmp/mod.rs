//! A client of QEMU's machine protocol (QMP): one command after the other over a unix socket, events between.
//!
//! QEMU serves one client at a time and lets the next one wait, so a connection is held for one operation only.

mod message;

use std::collections::VecDeque;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::error::{Error, Result};
pub use message::Event;
use message::Message;

/// The longest line taken from QEMU. Its answers to what is asked here are far below.
const LONGEST_LINE: usize = 1 << 20;
/// How many events are kept for a reader that has not come yet; the oldest go first.
const MOST_EVENTS: usize = 256;

/// A connection to QEMU's monitor.
pub struct Monitor<S> {
    stream: BufReader<S>,
    /// For errors.
    path: PathBuf,
    next: u64,
    events: VecDeque<Event>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Monitor<S> {
    /// Begins to talk over `stream`: waits for QEMU's greeting, which it sends once its machine is made.
    ///
    /// # Errors
    /// [`Error::Monitor`] when QEMU ends or does not speak the protocol. There is no deadline in here.
    pub async fn begin(stream: S, path: impl Into<PathBuf>) -> Result<Self> {
        let mut monitor =
            Self { stream: BufReader::new(stream), path: path.into(), next: 1, events: VecDeque::new() };
        loop {
            match monitor.read().await? {
                Message::Greeting => break,
                Message::Event(event) => monitor.keep(event),
                other => return Err(monitor.fail(format!("it began with {other:?} instead of a greeting"))),
            }
        }
        monitor.execute("qmp_capabilities", Value::Null).await?;
        Ok(monitor)
    }

    /// Runs a command and returns its value; `arguments` may be null.
    ///
    /// # Errors
    /// [`Error::Refused`] when QEMU refuses it; [`Error::Monitor`] when the connection ends.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\r\n");
        let sent = self.stream.write_all(line.as_bytes()).await;
        sent.map_err(|error| self.fail(format!("{command} could not be sent: {error}")))?;
        loop {
            match self.read().await? {
                Message::Event(event) => self.keep(event),
                // What an earlier, given up command had asked for.
                Message::Return { id: other, .. } | Message::Error { id: Some(other), .. } if other != id => {
                }
                Message::Return { value, .. } => return Ok(value),
                Message::Error { class, description, .. } => {
                    return Err(Error::Refused { command: command.into(), class, reason: description });
                }
                Message::Greeting => return Err(self.fail("it greeted in the middle".into())),
            }
        }
    }

    /// Returns the next event, also one that came while a command ran. May wait forever.
    ///
    /// # Errors
    /// [`Error::Monitor`] when the connection ends: QEMU has ended.
    pub async fn next_event(&mut self) -> Result<Event> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        loop {
            if let Message::Event(event) = self.read().await? {
                return Ok(event);
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    async fn read(&mut self) -> Result<Message> {
        let mut line = Vec::new();
        loop {
            let chunk = self.stream.fill_buf().await;
            let chunk = chunk.map_err(|error| Error::Monitor {
                path: self.path.clone(),
                reason: format!("the connection broke: {error}"),
            })?;
            if chunk.is_empty() {
                return Err(self.fail("QEMU closed the connection".into()));
            }
            let (taken, whole) = match chunk.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (chunk.len(), false),
            };
            line.extend_from_slice(&chunk[..taken]);
            self.stream.consume(taken);
            if line.len() > LONGEST_LINE {
                return Err(self.fail(format!("a line of more than {LONGEST_LINE} bytes")));
            }
            if whole {
                break;
            }
        }
        Message::parse(&line).map_err(|reason| self.fail(reason))
    }

    fn fail(&self, reason: String) -> Error {
        Error::Monitor { path: self.path.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// Plays QEMU: sends each text, and before each but the first reads a line.
    async fn talk(
        parts: &'static [&'static str],
    ) -> (Monitor<tokio::io::DuplexStream>, tokio::task::JoinHandle<Vec<String>>) {
        let (ours, theirs) = tokio::io::duplex(1 << 21);
        let server = tokio::spawn(async move {
            let mut stream = BufReader::new(theirs);
            let mut seen = Vec::new();
            for text in [[GREETING, "\r\n"].concat(), "{\"return\": {}, \"id\": 1}\r\n".into()]
                .into_iter()
                .chain(parts.iter().map(|part| (*part).to_owned()))
                .enumerate()
            {
                if text.0 > 0 {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    seen.push(line.trim().to_owned());
                }
                stream.write_all(text.1.as_bytes()).await.unwrap();
            }
            seen
        });
        (Monitor::begin(ours, "/run/qmp").await.unwrap(), server)
    }

    #[tokio::test]
    async fn a_command_has_its_answer_and_events_are_kept() {
        let (mut monitor, server) =
            talk(&["{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n\
             {\"return\": 5, \"id\": 77}\r\n{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n"])
            .await;
        let value = monitor.execute("query-status", Value::Null).await.unwrap();
        assert_eq!(value["status"], "paused");
        assert_eq!(monitor.next_event().await.unwrap().name, "STOP");
        let seen = server.await.unwrap();
        assert_eq!(seen[0], r#"{"execute":"qmp_capabilities","id":1}"#);
        assert_eq!(seen[1], r#"{"execute":"query-status","id":2}"#);
    }

    #[tokio::test]
    async fn a_refusal_carries_its_words_and_an_end_is_an_error() {
        let (mut monitor, server) =
            talk(&["{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such tag\"}, \"id\": 2}\r\n"])
                .await;
        let error = monitor.execute("snapshot-load", json!({ "tag": "a" })).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused snapshot-load: no such tag");
        server.await.unwrap();
        let error = monitor.next_event().await.unwrap_err().to_string();
        assert_eq!(error, "QEMU's monitor /run/qmp: QEMU closed the connection");
    }

    #[tokio::test]
    async fn a_line_without_end_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            let chunk = [b'x'; 4096];
            while theirs.write_all(&chunk).await.is_ok() {}
        });
        let error = Monitor::begin(ours, "/run/qmp").await.err().unwrap().to_string();
        assert!(error.contains("a line of more than"), "{error}");
        server.await.unwrap();
    }
}
