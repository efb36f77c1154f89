//! The loopback of network namespaces: raising it, connecting to a port on it.
#![expect(unsafe_code, reason = "raising an interface has no safe form in the libraries at hand")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::{Duplex, Error, Result};

/// How long a connection to the pod's own loopback may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to `port` inside `namespace`, or in this process's own without one. `name` is for the error.
pub(crate) async fn open(namespace: Option<PathBuf>, port: u16, name: &str) -> Result<Box<dyn Duplex>> {
    let (done, result) = oneshot::channel();
    // The thread enters the pod's network and so cannot be one that is used again.
    let thread = std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        // The receiver goes only when the caller gives up, who then needs no answer.
        drop(done.send(connect(namespace.as_deref(), port)));
    });
    thread.map_err(|error| Error::system("starting a thread", error))?;
    let failed = |error: std::io::Error| {
        Error::system(format!("failed to connect to localhost:{port} inside namespace {name:?}"), error)
    };
    let stream = result.await.map_err(|error| Error::system("connecting", error))?.map_err(failed)?;
    Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(failed)?))
}

fn connect(namespace: Option<&Path>, port: u16) -> std::io::Result<TcpStream> {
    if let Some(path) = namespace {
        setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    let connect = |address: SocketAddr| TcpStream::connect_timeout(&address, PATIENCE);
    let stream = connect((Ipv4Addr::LOCALHOST, port).into()).or_else(|first| {
        // What the first address said is worth more, since most programs listen there.
        connect((Ipv6Addr::LOCALHOST, port).into()).map_err(|_| first)
    })?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Raises the loopback of the network namespace that the calling thread is in.
pub(crate) fn raise() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).unwrap_or_default();
    }
    let flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the call reads an ifreq that names the interface and its flags, and lives until it returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
