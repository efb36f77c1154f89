//! A machine reached over SSH: run a command, put files, read one, open a terminal, reach a port behind it.
//!
//! The provisioner holds a [`Remote`]: [`Ssh`] is the real one, [`fake::Fake`] records for tests. Host keys are
//! pinned and keys are the only way in; [`key`] makes both kinds. The far side needs a POSIX shell, coreutils and,
//! for what is done as root by another user, sudo. This crate knows nothing of clusters or providers.

mod command;
mod error;
pub mod fake;
mod file;
pub mod key;
pub mod quote;
mod ssh;
mod streams;

use std::fmt::Debug;

pub use command::{Captured, Command, Output, Status};
pub use error::{Error, Result};
pub use file::{File, Progress, Source, Uploaded};
pub use key::{Fingerprint, KeyPair, PrivateKey, PublicKey};
pub use ssh::{HostKey, Ssh, Target, Timing, Tunnel};
pub use streams::Streams;

/// One machine. Every call connects when there is no connection, and names the machine in its errors.
///
/// Dropping a call's future ends it: nothing is sent for it any more. A command that had been started goes on
/// until it notices that its streams are closed, as with any SSH client.
#[async_trait::async_trait]
pub trait Remote: Send + Sync + Debug {
    /// The machine's name, as errors say it.
    fn name(&self) -> &str;

    /// Runs a command and waits for its end. An exit code other than zero is no error: see [`Output::check`].
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Lost`] only when the command is not [repeatable](Command::repeatable).
    async fn run(&self, command: Command) -> Result<Output>;

    /// Runs a command, or a login shell, joined to local streams: with a terminal when they are one.
    ///
    /// # Errors
    /// See [`Error`]. How the command ended is the answer, not an error.
    async fn attach(&self, command: Option<Command>, streams: Streams) -> Result<Status>;

    /// Puts one file in place, of any size: nothing is sent when it is right already, a broken transfer goes on
    /// where it stopped, and the old file is there until the new one is whole and on the disk.
    ///
    /// # Errors
    /// See [`Error`]; the file is then as it was.
    async fn upload(&self, file: File) -> Result<Uploaded>;

    /// Puts many files in place in one exchange, as [`upload`](Self::upload) does; those that differ are replaced
    /// when all of them have arrived. The answers are in the order of `files`.
    ///
    /// # Errors
    /// See [`Error`].
    async fn upload_many(&self, files: Vec<File>) -> Result<Vec<Uploaded>>;

    /// Reads a file as root; `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::TooBig`] when it has more than `most` bytes.
    async fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>>;

    /// Opens a connection from the machine to `host` and `port`, as seen from there.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Refused`] when the machine cannot reach it or does not allow it.
    async fn forward(&self, host: &str, port: u16) -> Result<Tunnel>;
}
