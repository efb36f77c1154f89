//! How the container engine gets its network: through the node's pod network, once that is open.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use network::pods::{HostPort, PodNetwork};
use runtime::{Error, Result, SandboxConfig, SandboxNetwork};
use tokio::sync::watch;

use crate::pods::HOST_PORTS;

/// Where the open pod network is put.
pub(crate) type Opened = watch::Sender<Option<Arc<PodNetwork>>>;

/// The node's network as the engine sees it. Sandboxes wait until it is open.
pub(crate) struct NodeNetwork(watch::Receiver<Option<Arc<PodNetwork>>>);

impl NodeNetwork {
    /// Returns the engine's end and where the network is put.
    pub(crate) fn new() -> (Self, Opened) {
        let (sender, receiver) = watch::channel(None);
        (Self(receiver), sender)
    }

    async fn network(&self) -> Result<Arc<PodNetwork>> {
        let mut receiver = self.0.clone();
        let found = receiver.wait_for(Option::is_some).await.map(|network| network.clone());
        found.ok().flatten().ok_or_else(|| Error::System {
            context: "waiting for the pod network".into(),
            reason: "the agent is ending".into(),
        })
    }
}

fn system(context: String) -> impl FnOnce(network::Error) -> Error {
    move |error| Error::System { context, reason: error.to_string() }
}

#[async_trait]
impl SandboxNetwork for NodeNetwork {
    async fn attach(&self, sandbox_id: &str, netns: &Path, config: &SandboxConfig) -> Result<Vec<IpAddr>> {
        let ports: Vec<HostPort> = match config.annotations.get(HOST_PORTS) {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| Error::Invalid(format!("host ports of sandbox {sandbox_id}: {error}")))?,
            None => Vec::new(),
        };
        let context = format!("connecting pod {}/{} to the network", config.namespace, config.name);
        self.network().await?.attach(sandbox_id, netns, &ports).await.map_err(system(context))
    }

    async fn detach(&self, sandbox_id: &str) -> Result<()> {
        self.network()
            .await?
            .detach(sandbox_id)
            .await
            .map_err(system(format!("disconnecting sandbox {sandbox_id} from the network")))
    }
}
