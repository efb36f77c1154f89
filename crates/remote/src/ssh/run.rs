//! Commands that are waited for, and what is common to all that is done over a channel.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use machinery::retry::{Backoff, Tries, WaitError};

use super::Ssh;
use super::channel::{Channel, Connection, Event, Input, Kind};
use crate::command::{Captured, Command, Output, Status, sudo_refusal};
use crate::error::{Error, Result};

/// How much standard input is handed over at once.
pub(super) const PIECE: usize = 256 * 1024;
/// The exit code by which the reading of a file says that there is none.
const NO_FILE: i32 = 44;

/// Why something over a channel did not come to its end.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection broke; `started` says whether the far side had begun.
    Broken {
        /// Whether the far side had begun.
        started: bool,
        /// How it broke.
        why: String,
    },
    /// Again would be no better.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Attempts at something that is done over a connection, each on a new one when the last broke.
pub(super) struct Persistence<'a> {
    ssh: &'a Ssh,
    doing: &'a str,
    repeatable: bool,
    tries: Tries<'a>,
}

impl<'a> Persistence<'a> {
    pub(super) fn new(ssh: &'a Ssh, doing: &'a str, repeatable: bool, deadline: Duration) -> Self {
        let tries = Tries::new(doing, deadline, Backoff::QUICK, &*ssh.clock, &ssh.random);
        Self { ssh, doing, repeatable, tries }
    }

    /// Makes an attempt, on the connection that there is or on a new one. `None`: it broke, and may be done again.
    pub(super) async fn attempt<T, F>(&mut self, work: impl FnOnce(Arc<Connection>) -> F) -> Result<Option<T>>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let (ssh, doing) = (self.ssh, self.doing);
        let over = |error: WaitError<Infallible>| match error {
            WaitError::Fatal { error, .. } => match error {},
            WaitError::Deadline { after, last, .. } => {
                Error::Deadline { machine: ssh.target.name.clone(), doing: doing.into(), after, last }
            }
        };
        let attempt = async {
            // Connecting has its own deadline, and an error that says more.
            let connection = ssh.connection(ssh.target.timing.reconnect).await?;
            work(connection).await
        };
        match self.tries.attempt(attempt).await.map_err(over)? {
            Ok(done) => Ok(Some(done)),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Broken { started, why }) if self.repeatable || !started => {
                tracing::debug!(machine = ssh.target.name, doing, why, "the connection broke; trying again");
                self.tries.again(format!("the connection broke: {why}")).await.map_err(over)?;
                Ok(None)
            }
            Err(Failure::Broken { why, .. }) => Err(ssh.lost(doing, why)),
        }
    }
}

/// What a command has written so far.
#[derive(Default)]
struct Seen {
    started: bool,
    stdout: Captured,
    stderr: Captured,
}

impl Seen {
    fn last(&self) -> Option<String> {
        let mut lines = self.stderr.last_lines(3);
        if lines.is_empty() {
            lines = self.stdout.last_lines(3);
        }
        if !lines.is_empty() {
            return Some(lines.join("; "));
        }
        self.started.then(|| "it runs and says nothing".into())
    }
}

pub(super) async fn run(ssh: &Ssh, command: &Command) -> Result<Output> {
    let line = command.line()?;
    let mut seen;
    let doing = format!("running {command}");
    let mut persistence = Persistence::new(ssh, &doing, command.repeatable, command.deadline);
    let outcome = loop {
        seen = Seen::default();
        let once = persistence.attempt(|connection| once(ssh, connection, command, &line, &mut seen)).await;
        if let Some(outcome) = once.transpose() {
            break outcome;
        }
    };
    match outcome {
        Ok(status) => {
            seen.stdout.trim(command.kept);
            seen.stderr.trim(command.kept);
            Ok(Output {
                machine: ssh.target.name.clone(),
                command: command.to_string(),
                status,
                stdout: seen.stdout,
                stderr: seen.stderr,
            })
        }
        Err(Error::Deadline { machine, doing, after, last }) => {
            Err(Error::Deadline { machine, doing, after, last: seen.last().unwrap_or(last) })
        }
        Err(error) => Err(error),
    }
}

async fn once(
    ssh: &Ssh,
    connection: Arc<Connection>,
    command: &Command,
    line: &str,
    seen: &mut Seen,
) -> Result<Status, Failure> {
    let Channel { writer, mut reader } = connection.open(Kind::Command { line: line.into(), terminal: None });
    let feeding = async move {
        for piece in pieces(&command.stdin) {
            if !writer.send(Input::Data(piece)).await {
                return;
            }
        }
        // The end of standard input comes with the writer's.
    };
    let listening = async {
        loop {
            match reader.next().await {
                Ok(Event::Started) => seen.started = true,
                Ok(Event::Out(bytes)) => seen.stdout.push(&bytes, command.kept),
                Ok(Event::Err(bytes)) => seen.stderr.push(&bytes, command.kept),
                Ok(Event::Eof) => {}
                Ok(Event::End(status)) => return Ok(status),
                Ok(Event::Refused(why)) => {
                    return Err(Failure::Final(Error::Refused {
                        machine: ssh.target.name.clone(),
                        what: format!("to run {command}"),
                        why,
                    }));
                }
                Err(why) => return Err(Failure::Broken { started: seen.started, why }),
            }
        }
    };
    tokio::pin!(listening);
    tokio::select! {
        outcome = &mut listening => outcome,
        () = feeding => listening.await,
    }
}

/// Cuts bytes into pieces without copying them.
pub(super) fn pieces(bytes: &Bytes) -> impl Iterator<Item = Bytes> {
    let bytes = bytes.clone();
    (0..bytes.len()).step_by(PIECE).map(move |at| bytes.slice(at..bytes.len().min(at + PIECE)))
}

pub(super) async fn read(ssh: &Ssh, path: &str, most: usize) -> Result<Option<Vec<u8>>> {
    if !path.starts_with('/') {
        return Err(Error::Invalid(format!("the path {path:?} to read does not start with /")));
    }
    let script = format!(r#"[ -e "$1" ] || exit {NO_FILE}; exec head -c "$2" -- "$1""#);
    let command = Command::new(&["sh", "-c", &script, "sh", path, &most.saturating_add(1).to_string()])
        .root()
        .repeatable()
        .keep(most.saturating_add(1));
    let output = run(ssh, &command).await?;
    if output.status == Status::Exited(NO_FILE) && sudo_refusal(&output.stderr).is_none() {
        return Ok(None);
    }
    let output = output.check()?;
    if output.stdout.bytes().len() > most {
        return Err(Error::TooBig { machine: ssh.target.name.clone(), path: path.into(), most });
    }
    Ok(Some(output.stdout.bytes().to_vec()))
}
