//! A command, or a login shell, joined to local streams.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::Ssh;
use super::channel::{Channel, Connection, Event, Input, Kind, Terminal};
use super::run::{Failure, Persistence};
use crate::command::{Command, Status};
use crate::error::{Error, Result};
use crate::streams::{self, Raw, Streams, write_all};

pub(super) async fn attach(ssh: &Ssh, command: Option<&Command>, streams: Streams) -> Result<Status> {
    let line = command.map(Command::line).transpose()?.unwrap_or_default();
    let terminal = streams.terminal.clone().map(|kind| Terminal { kind, size: streams.size() });
    let doing =
        command.map_or_else(|| "running a login shell".into(), |command| format!("running {command}"));
    // Only until it has started; from then on what was typed and printed cannot be had again.
    let mut persistence = Persistence::new(ssh, &doing, false, ssh.target.timing.reconnect);
    let channel = loop {
        let start = |connection| start(ssh, connection, line.clone(), terminal.clone());
        if let Some(channel) = persistence.attempt(start).await? {
            break channel;
        }
    };
    join(ssh, &doing, channel, streams).await
}

async fn start(
    ssh: &Ssh,
    connection: Arc<Connection>,
    line: String,
    terminal: Option<Terminal>,
) -> Result<Channel, Failure> {
    let what = if terminal.is_some() { "a terminal, or to run it in one" } else { "to run it" };
    let mut channel = connection.open(Kind::Command { line, terminal });
    match channel.reader.next().await {
        Ok(Event::Refused(why)) => {
            Err(Failure::Final(Error::Refused { machine: ssh.target.name.clone(), what: what.into(), why }))
        }
        Ok(_) => Ok(channel),
        Err(why) => Err(Failure::Broken { started: false, why }),
    }
}

async fn join(ssh: &Ssh, doing: &str, channel: Channel, streams: Streams) -> Result<Status> {
    let Channel { writer, mut reader } = channel;
    let local = |what: &str| Error::local(what.to_owned());
    let mut sizes =
        signal(SignalKind::window_change()).map_err(local("listening for the terminal's size"))?;
    let raw = streams.terminal.is_some();
    let _raw = raw.then(|| Raw::enter(&streams.stdin)).transpose().map_err(local("setting the terminal"))?;
    let size = |streams: &Streams| streams.size();
    let mut last = size(&streams);
    let stdin = streams.stdin.try_clone().map_err(local("reading standard input"))?;
    let mut input = streams::Input::start(stdin).map_err(local("reading standard input"))?;
    let speaking = async {
        loop {
            tokio::select! {
                piece = input.pieces.recv() => match piece {
                    Some(bytes) => {
                        if !writer.send(Input::Data(bytes)).await {
                            return;
                        }
                    }
                    None => {
                        writer.send(Input::End).await;
                        // Its size may still change.
                        input.pieces.close();
                        if !raw {
                            return;
                        }
                        std::future::pending::<()>().await;
                    }
                },
                _ = sizes.recv(), if raw => {
                    let now = size(&streams);
                    if now != last {
                        last = now;
                        writer.send(Input::Size(now)).await;
                    }
                }
            }
        }
    };
    let listening = async {
        loop {
            let (to, bytes) = match reader.next().await {
                Ok(Event::Out(bytes)) => (Arc::clone(&streams.stdout), bytes),
                Ok(Event::Err(bytes)) => (Arc::clone(&streams.stderr), bytes),
                Ok(Event::End(status)) => return Ok(status),
                Ok(_) => continue,
                Err(why) => return Err(ssh.lost(doing, why)),
            };
            // A terminal that is held (Ctrl-S) or a pipe that is full must not hold the runtime.
            let written = tokio::task::spawn_blocking(move || write_all(&to, &bytes)).await;
            match written.map_err(std::io::Error::other).and_then(|done| done) {
                // Nobody reads: as with `ssh … | head`, that is the end and no failure.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Status::Exited(0)),
                other => other.map_err(local("writing what it says"))?,
            }
        }
    };
    tokio::pin!(listening);
    tokio::select! {
        outcome = &mut listening => outcome,
        () = speaking => listening.await,
    }
}
