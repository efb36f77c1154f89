//! The sandboxes' network by CNI: containerd runs this executable as plugin, which asks the agent over a socket.
//!
//! The agent connects a sandbox exactly as for the built-in engine, through [`SandboxNetwork`](crate::SandboxNetwork);
//! the sandbox's configuration comes back to it in the annotations that containerd hands to plugins. The plugin
//! itself knows nothing and keeps nothing. To speak a further CNI version, add it to [`result::VERSIONS`].

mod install;
pub(crate) mod plugin;
mod result;
mod server;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use machinery::retry::{Attempt, Backoff, until_sent};
use serde::{Deserialize, Serialize};

use super::grpc::Channel;
use super::proto::cri::{StatusRequest, StatusResponse};
use super::{Inner, PATIENCE};
use crate::{Error, Result};

/// The name of the plugin, of its executable and of the network.
pub(crate) const PLUGIN: &str = "cluster-cni";
/// The plugin for a sandbox's own loopback; containerd wants one by this name.
pub(crate) const LOOPBACK: &str = "loopback";
/// The plugin's socket in the run directory.
const SOCKET: &str = "cni.sock";
/// The most that is read from the other side.
const LARGEST: u64 = 4 << 20;
/// How long containerd may take to read the network's configuration.
const READY: Duration = Duration::from_secs(30);

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Question {
    /// Connect a sandbox.
    Add {
        /// Its id.
        sandbox: String,
        /// Its network namespace.
        namespace: PathBuf,
        /// Its annotations.
        annotations: BTreeMap<String, String>,
    },
    /// Take the connection away.
    Delete {
        /// The sandbox's id.
        sandbox: String,
    },
    /// Is anybody there?
    Status,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// It is done; these are the sandbox's addresses.
    Done(Vec<IpAddr>),
    /// It failed.
    Failed(String),
}

/// Serves the plugin, puts it where containerd looks for it, and waits until containerd uses it.
pub(super) async fn start(inner: &Arc<Inner>) -> Result<()> {
    let run = &inner.config.run_directory;
    std::fs::create_dir_all(run)
        .map_err(|error| Error::system(format!("making {}", run.display()), error))?;
    let socket = run.join(SOCKET);
    server::start(&socket, inner.config.network.clone(), &inner.tasks)?;
    install::plugins(&inner.node.cni_binaries, &inner.config.executable)?;
    install::configuration(&inner.node.cni_configuration, &socket)?;
    wait_ready(&inner.channel, inner).await
}

/// Waits until containerd has read the configuration: it watches the directory.
async fn wait_ready(channel: &Channel, inner: &Inner) -> Result<()> {
    let (clock, random) = (inner.config.clock.as_ref(), &inner.config.random);
    until_sent("the runtime's network", READY, Backoff::QUICK, clock, random, || async move {
        let request = StatusRequest { verbose: false };
        let answer =
            channel.call::<_, StatusResponse>("/runtime.v1.RuntimeService/Status", &request, PATIENCE).await;
        match answer {
            Ok(answer) => {
                let conditions = answer.status.unwrap_or_default().conditions;
                match conditions.into_iter().find(|one| one.kind == "NetworkReady") {
                    Some(network) if network.status => Attempt::Done(()),
                    Some(network) => Attempt::Again(network.message),
                    None => Attempt::Again("it says nothing of its network".to_owned()),
                }
            }
            Err(status) => Attempt::<_, String>::Again(status.message),
        }
    })
    .await
    .map_err(|error| Error::system("opening the network of sandboxes", error))
}
