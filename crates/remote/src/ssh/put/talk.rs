//! The conversation with `put.sh` on the far side.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{Captured, Status, as_root, sudo_refusal};
use crate::error::Error;
use crate::quote;
use crate::ssh::Ssh;
use crate::ssh::channel::{Channel, Connection, Event, Input, Kind, Reader, Writer};
use crate::ssh::run::Failure;

const SCRIPT: &str = include_str!("put.sh");
/// What the script says first: whatever comes before is noise of the login shell.
const READY: &str = "-- ready --";
/// Longer lines are no answers of ours.
const LONGEST: usize = 16 * 1024;
/// How much of its standard error is kept.
const KEPT: usize = 16 * 1024;

/// A running script.
#[derive(Debug)]
pub(super) struct Talk<'a> {
    ssh: &'a Ssh,
    /// None once everything has been said.
    writer: Option<Writer>,
    reader: Reader,
    lines: VecDeque<String>,
    partial: Vec<u8>,
    stderr: Captured,
    ended: Option<Status>,
    /// The file that errors name.
    path: &'a str,
}

impl<'a> Talk<'a> {
    /// Starts the script and waits until it speaks.
    pub(super) async fn start(
        ssh: &'a Ssh,
        connection: &Arc<Connection>,
        root: bool,
        path: &'a str,
    ) -> Result<Self, Failure> {
        let line = quote::words(&["sh", "-c", SCRIPT]);
        let line = if root { as_root(&line) } else { line };
        let Channel { writer, reader } = connection.open(Kind::Command { line, terminal: None });
        let mut talk = Self {
            ssh,
            writer: Some(writer),
            reader,
            lines: VecDeque::new(),
            partial: Vec::new(),
            stderr: Captured::default(),
            ended: None,
            path,
        };
        while talk.line().await? != READY {}
        Ok(talk)
    }

    /// Says something; nothing happens when the far side has ended, which its answer will tell.
    pub(super) async fn say(&self, bytes: impl Into<Bytes>) -> bool {
        match &self.writer {
            Some(writer) => writer.send(Input::Data(bytes.into())).await,
            None => false,
        }
    }

    /// Takes the end that speaks, for saying much while listening.
    pub(super) fn mouth(&mut self) -> Option<Writer> {
        self.writer.take()
    }

    /// Returns the next line. Its end is an error, since the script says when it is done.
    pub(super) async fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(line);
            }
            if let Some(status) = &self.ended {
                return Err(Failure::Final(self.ended_early(status)));
            }
            match self.reader.next().await {
                Ok(Event::Out(bytes)) => self.take(&bytes),
                Ok(Event::Err(bytes)) => self.stderr.push(&bytes, KEPT),
                Ok(Event::End(status)) => self.ended = Some(status),
                Ok(Event::Started | Event::Eof) => {}
                Ok(Event::Refused(why)) => {
                    return Err(Failure::Final(Error::Refused {
                        machine: self.ssh.target.name.clone(),
                        what: "to run a shell".into(),
                        why,
                    }));
                }
                // Putting a file twice does no harm.
                Err(why) => return Err(Failure::Broken { started: false, why }),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(at) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=at).collect();
            self.lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        self.partial.truncate(LONGEST);
    }

    /// What the far side died of.
    fn ended_early(&self, status: &Status) -> Error {
        let machine = self.ssh.target.name.clone();
        if let Some(why) = sudo_refusal(&self.stderr) {
            return Error::Root { machine, why };
        }
        let path = self.path.to_owned();
        let said = self.stderr.last_lines(5).join("; ");
        if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
            return Error::Full { machine, path, why: said };
        }
        let why = if said.is_empty() { format!("the shell there {status}") } else { said };
        Error::Upload { machine, path, why }
    }

    /// An answer that makes no sense.
    pub(super) fn confused(&self, line: &str) -> Failure {
        Failure::Final(Error::Upload {
            machine: self.ssh.target.name.clone(),
            path: self.path.into(),
            why: format!("the shell there answers {:?}", line.chars().take(80).collect::<String>()),
        })
    }
}
