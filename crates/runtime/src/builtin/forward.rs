//! Connecting to a port on a sandbox's loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::Inner;
use crate::{Duplex, Error, Result};

/// How long a connection to the pod's own loopback may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>> {
        let sandbox = self.sandbox(sandbox_id)?;
        let record = sandbox.record();
        if !record.ready {
            return Err(Error::Invalid(format!("sandbox {sandbox_id:?} is not running")));
        }
        let namespace = (!record.config.host.network).then(|| sandbox.run.join("net"));
        let (done, result) = oneshot::channel();
        // The thread enters the pod's network and so cannot be one that is used again.
        let thread = std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
            // The receiver goes only when the caller gives up, who then needs no answer.
            drop(done.send(connect(namespace.as_deref(), port)));
        });
        thread.map_err(|error| Error::system("starting a thread", error))?;
        let failed = |error: std::io::Error| {
            Error::system(
                format!("failed to connect to localhost:{port} inside namespace {:?}", record.config.name),
                error,
            )
        };
        let stream = result.await.map_err(|error| Error::system("connecting", error))?.map_err(failed)?;
        Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(failed)?))
    }
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
