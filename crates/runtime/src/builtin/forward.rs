//! Connecting to a port on a sandbox's loopback.

use super::Inner;
use crate::{Duplex, Error, Result, loopback};

impl Inner {
    pub(super) async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>> {
        let sandbox = self.sandbox(sandbox_id)?;
        let record = sandbox.record();
        if !record.ready {
            return Err(Error::Invalid(format!("sandbox {sandbox_id:?} is not running")));
        }
        let namespace = (!record.config.host.network).then(|| sandbox.run.join("net"));
        loopback::open(namespace, port, &record.config.name).await
    }
}
