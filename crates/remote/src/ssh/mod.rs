//! [`Remote`] over SSH.
//!
//! A connection is a thread that owns the libssh2 session ([`driver`]) and hands bytes to and from channels
//! ([`channel`]); everything else is made of channels.

mod channel;
mod driver;
mod lane;
mod login;
mod put;
mod run;
mod terminal;
mod tunnel;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use machinery::clock::SharedClock;
use machinery::names::Random;
use parking_lot::Mutex;

use self::channel::Connection;
pub use self::tunnel::Tunnel;
use crate::Remote;
use crate::command::{Command, Output, Status};
use crate::error::{Error, Result};
use crate::file::{File, Uploaded};
use crate::key::{Fingerprint, PrivateKey, PublicKey};
use crate::streams::Streams;

/// A machine's host key, as it is known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKey {
    /// This key.
    Key(PublicKey),
    /// The key of this fingerprint.
    Fingerprint(Fingerprint),
}

impl HostKey {
    fn is(&self, blob: &[u8]) -> bool {
        match self {
            Self::Key(key) => key.blob() == blob,
            Self::Fingerprint(fingerprint) => *fingerprint == Fingerprint::of(blob),
        }
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{} {}", key.algorithm(), key.fingerprint()),
            Self::Fingerprint(fingerprint) => fmt::Display::fmt(fingerprint, f),
        }
    }
}

impl From<PublicKey> for HostKey {
    fn from(key: PublicKey) -> Self {
        Self::Key(key)
    }
}

impl From<Fingerprint> for HostKey {
    fn from(fingerprint: Fingerprint) -> Self {
        Self::Fingerprint(fingerprint)
    }
}

/// Who is reached, where and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The machine's name, for messages.
    pub name: String,
    /// Where its SSH daemon listens.
    pub address: SocketAddr,
    /// The user to log in as.
    pub user: String,
    /// The key that logs in.
    pub key: PrivateKey,
    /// The keys that the machine may show; any other ends the connection. Empty: none will do.
    pub host_keys: Vec<HostKey>,
    /// How patient to be.
    pub timing: Timing,
}

/// How patient to be with a machine.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long one attempt to connect, and to log in, may take.
    pub attempt: Duration,
    /// How long to go on connecting when a call finds no connection.
    pub reconnect: Duration,
    /// How long a refused key is tried again: the machine may still be applying its first configuration.
    pub grace: Duration,
    /// After how much silence the machine is asked whether it is there; zero is never.
    pub keepalive: Duration,
    /// After how much silence of the machine the connection is given up.
    pub silence: Duration,
    /// How long an upload may take, with all its broken connections.
    pub upload: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(30),
            reconnect: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            silence: Duration::from_secs(60),
            upload: Duration::from_secs(900),
        }
    }
}

/// A machine over SSH. Nothing is connected before the first call; cloning shares the connection.
#[derive(Clone)]
pub struct Ssh {
    target: Arc<Target>,
    clock: SharedClock,
    random: Random,
    connection: Arc<Mutex<Option<Arc<Connection>>>>,
}

impl Ssh {
    /// Returns the machine `target`.
    #[must_use]
    pub fn new(target: Target, clock: SharedClock, random: Random) -> Self {
        Self { target: Arc::new(target), clock, random, connection: Arc::default() }
    }

    /// Connects and logs in, trying again until `deadline` has passed.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with what was last seen, [`Error::HostKey`], [`Error::Authentication`].
    pub async fn connect(&self, deadline: Duration) -> Result<()> {
        self.connection(deadline).await.map(drop)
    }

    /// Closes the connection; the next call makes another one.
    pub fn disconnect(&self) {
        if let Some(connection) = self.connection.lock().take() {
            connection.shared.stop();
        }
    }

    /// Returns the connection, making it when there is none that works.
    async fn connection(&self, deadline: Duration) -> Result<Arc<Connection>> {
        let known = self.connection.lock().clone();
        if let Some(connection) = known
            && connection.shared.ended().is_none()
        {
            return Ok(connection);
        }
        let connection = login::reach(&self.target, deadline, &*self.clock, &self.random).await?;
        let mut known = self.connection.lock();
        // Two calls may have connected side by side; one connection is enough.
        match &*known {
            Some(other) if other.shared.ended().is_none() => Ok(other.clone()),
            _ => Ok(known.insert(connection).clone()),
        }
    }

    /// What broke, for an error.
    fn lost(&self, doing: impl fmt::Display, why: impl Into<String>) -> Error {
        Error::Lost { machine: self.target.name.clone(), doing: doing.to_string(), why: why.into() }
    }
}

impl fmt::Debug for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ssh({} at {}@{})", self.target.name, self.target.user, self.target.address)
    }
}

#[async_trait::async_trait]
impl Remote for Ssh {
    fn name(&self) -> &str {
        &self.target.name
    }

    async fn run(&self, command: Command) -> Result<Output> {
        run::run(self, &command).await
    }

    async fn attach(&self, command: Option<Command>, streams: Streams) -> Result<Status> {
        terminal::attach(self, command.as_ref(), streams).await
    }

    async fn upload(&self, file: File) -> Result<Uploaded> {
        put::one(self, &file).await
    }

    async fn upload_many(&self, files: Vec<File>) -> Result<Vec<Uploaded>> {
        put::many(self, &files).await
    }

    async fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>> {
        run::read(self, path, most).await
    }

    async fn forward(&self, host: &str, port: u16) -> Result<Tunnel> {
        tunnel::forward(self, host, port).await
    }
}
