//! The engine's side of shims: starting them, hearing from them, asking them for things.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::Inner;
use super::state::{Container, End, Phase};
use crate::helper::MARK;
use crate::helper::protocol::{self, Exit, Kind, Parsed};
use crate::{ContainerEventKind, Error, Result};

/// A connection that speaks in frames.
pub(super) struct Connection {
    socket: UnixStream,
    received: Vec<u8>,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, received: Vec::new() }
    }

    /// Connects to the shim of the container with this run directory.
    pub(super) async fn open(run: &Path) -> Result<Self> {
        let context = || format!("connecting to the shim in {}", run.display());
        let directory = std::fs::File::open(run).map_err(|error| Error::system(context(), error))?;
        // The whole path may be too long for an address; this one never is.
        let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), protocol::SOCKET);
        let socket = UnixStream::connect(path).await.map_err(|error| Error::system(context(), error))?;
        Ok(Self::new(socket))
    }

    /// Tells whether there is a shim to connect to.
    pub(super) async fn is_there(run: &Path) -> bool {
        Self::open(run).await.is_ok()
    }

    pub(super) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut frame = Vec::with_capacity(protocol::HEADER + payload.len());
        protocol::put(&mut frame, kind, payload);
        self.socket.write_all(&frame).await.map_err(|error| Error::system("writing to the shim", error))
    }

    /// Returns the next frame; `None` when the shim has gone.
    pub(super) async fn receive(&mut self) -> Result<Option<(Kind, Vec<u8>)>> {
        loop {
            match protocol::parse(&self.received) {
                Parsed::Frame(kind, payload, length) => {
                    let payload = payload.to_vec();
                    self.received.drain(..length);
                    return Ok(Some((kind, payload)));
                }
                Parsed::Garbage => return Err(Error::system("reading from the shim", "not a frame")),
                Parsed::Partial => {}
            }
            // A shim that was killed may reset the connection rather than end it.
            match self.socket.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    pub(super) fn into_parts(self) -> (UnixStream, Vec<u8>) {
        (self.socket, self.received)
    }
}

/// Asks the shim in `run` for one thing and waits until it is done.
pub(super) async fn ask(run: &Path, kind: Kind, payload: &[u8]) -> Result<()> {
    let mut connection = Connection::open(run).await?;
    connection.send(kind, payload).await?;
    match connection.receive().await? {
        Some((Kind::Done, _)) => Ok(()),
        Some((_, why)) => {
            Err(Error::system(format!("the shim in {}", run.display()), String::from_utf8_lossy(&why)))
        }
        None => Err(Error::system(format!("the shim in {}", run.display()), "it has gone")),
    }
}

impl Inner {
    /// Starts the shim of a container. The connection is the one that it reports on.
    pub(super) fn spawn_shim(
        &self,
        container: &Container,
        image_lock: OwnedFd,
        memory_events: &Path,
    ) -> Result<(Connection, Child)> {
        let record = container.record();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()
            .and_then(|(ours, theirs)| ours.set_nonblocking(true).map(|()| (ours, theirs)))
            .map_err(|error| Error::system("making a socket pair", error))?;
        let errors = std::fs::File::create(container.run.join("shim.log"))
            .map_err(|error| Error::system("making the shim's log", error))?;
        let mut flags = String::from("-");
        for (letter, on) in
            [('t', record.config.tty), ('i', record.config.stdin), ('o', record.config.stdin_once)]
        {
            if on {
                flags.push(letter);
            }
        }
        let child = Command::new(&self.config.shim_executable)
            .args([MARK, "shim"])
            .arg(&container.run)
            .arg(container.data.join(Container::EXIT_FILE))
            .arg(&record.log_path)
            .arg(memory_events)
            .arg(flags)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(image_lock))
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(|error| {
                Error::system(format!("starting the shim {}", self.config.shim_executable.display()), error)
            })?;
        let socket =
            UnixStream::from_std(ours).map_err(|error| Error::system("making a socket pair", error))?;
        Ok((Connection::new(socket), child))
    }

    /// Follows a running container until it ends, and cleans up after it.
    pub(super) async fn watch(
        self: Arc<Self>,
        container: Arc<Container>,
        mut connection: Connection,
        child: Option<Child>,
    ) {
        let end = loop {
            match connection.receive().await {
                Ok(Some((Kind::Exited, json))) => match serde_json::from_slice::<Exit>(&json) {
                    Ok(exit) => break End::from(exit),
                    Err(error) => tracing::warn!(container = %container.id, %error, "bad word from a shim"),
                },
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break self.lost(&container),
            }
        };
        self.ended(&container, end);
        self.clean_up(&container).await;
        if let Some(mut child) = child
            && let Err(error) = child.wait().await
        {
            tracing::warn!(container = %container.id, %error, "waiting for a shim");
        }
    }

    /// Makes it known that a container has ended.
    pub(super) fn ended(&self, container: &Container, end: End) {
        if let Err(error) = container.change(|record| record.end = Some(end)) {
            // The shim's own file says the same.
            tracing::warn!(container = %container.id, %error, "the end of a container was not written down");
        }
        container.phase.send_replace(Phase::Exited);
        self.publish(&container.id, &container.sandbox_id, ContainerEventKind::Stopped);
    }

    /// Says how a container ended whose shim has gone without a word.
    pub(super) fn lost(&self, container: &Container) -> End {
        let path = container.data.join(Container::EXIT_FILE);
        match super::state::read::<Exit>(&path) {
            Ok(Some(exit)) => exit.into(),
            Ok(None) | Err(_) => End {
                finished_at: self.config.clock.now(),
                exit_code: 255,
                reason: "Unknown".to_owned(),
                message: "the container's shim ended without writing down how the container did".to_owned(),
            },
        }
    }
}
