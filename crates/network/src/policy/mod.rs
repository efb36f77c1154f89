//! Network policy: which pods of this node may be reached by whom, and whom they may reach.
//!
//! The node agent resolves selectors to addresses and hands a whole [`PolicyTable`] to
//! [`PolicyEnforcer::sync`]. What a pod exchanges with its own node is never filtered: the kubelet's probes
//! must pass, and every node answers DNS itself.

mod model;
mod render;

pub use model::{IpBlock, IsolatedPod, Peer, Policy, PolicyRule, PolicyTable, PortRange};

use std::sync::Arc;

use parking_lot::Mutex;

use crate::nft::Committer;
use crate::{Error, Result};

/// The writer of this node's policy rules.
#[derive(Debug)]
pub struct PolicyEnforcer {
    committer: Arc<Mutex<Committer>>,
}

impl PolicyEnforcer {
    /// Prepares the node. Rules of an earlier process stay in force until the first [`Self::sync`].
    ///
    /// # Errors
    /// When the kernel lacks something that is needed.
    pub async fn open() -> Result<Self> {
        Ok(Self { committer: Arc::new(Mutex::new(Committer::open()?)) })
    }

    /// Makes the kernel's rules those of `table`, in one transaction; an error leaves the old rules in force.
    /// Returns how many things changed. Connections that exist go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn sync(&self, table: &PolicyTable) -> Result<usize> {
        let rendered = render::render(table);
        let committer = self.committer.clone();
        let work = tokio::task::spawn_blocking(move || committer.lock().commit(rendered));
        work.await.map_err(|error| Error::Kernel {
            context: "changing the rules of network policies".into(),
            reason: error.to_string(),
        })?
    }
}
