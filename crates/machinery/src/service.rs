//! Being a service of an init system: readiness by `sd_notify`, and the end by signal.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tokio::signal::unix::{SignalKind, signal};

/// Tells whoever started this process that it is ready, by the protocol of `sd_notify(3)`: systemd, or the
/// init of a `local` node. Does nothing when nobody asked to be told.
///
/// # Errors
/// When there is a socket to tell and it cannot be written.
pub fn notify_ready() -> io::Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let name = socket.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

/// Completes when the process is asked to end (SIGTERM or SIGINT); returns the signal's name.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn asked_to_end() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
