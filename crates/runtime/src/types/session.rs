//! Streams of running processes, and events.

use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::Result;

/// Something happened to a container or sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container (or the sandbox, for sandbox events).
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// What happened.
    pub kind: ContainerEventKind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// A container was started.
    Started,
    /// A container ended.
    Stopped,
    /// A sandbox ended by itself.
    SandboxStopped,
}

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A reader that is handed over.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// A writer that is handed over.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Give it a terminal; standard error is then part of standard output.
    pub tty: bool,
    /// Connect standard input.
    pub stdin: bool,
}

/// The ends of a process's streams, and its end. Dropping it does not kill the process.
pub struct Session {
    /// Standard input; dropping it closes the stream.
    pub stdin: Option<Writer>,
    /// Standard output.
    pub stdout: Option<Reader>,
    /// Standard error; none with a terminal.
    pub stderr: Option<Reader>,
    /// Where new terminal sizes go.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Resolves to the exit code when the process has ended.
    pub exit: Pin<Box<dyn Future<Output = Result<i32>> + Send>>,
}

/// What a command that ran to its end said.
#[derive(Debug, Clone, Default)]
pub struct ExecOutput {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output, up to 64 KiB.
    pub stdout: Vec<u8>,
    /// Standard error, up to 64 KiB.
    pub stderr: Vec<u8>,
}
