//! The end of every pod, for a machine that shuts down.
//!
//! Without it systemd sends SIGTERM to what is left of the pods and waits its 90 seconds: the first process of a
//! container does not hear a signal that it has no handler for. What the pods are to be afterwards is the API's to
//! say; the next agent starts them again.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::join_all;
use machinery::clock::SharedClock;
use machinery::names::Random;
use runtime::ContainerState;

use crate::config::Config;
use crate::run::open_runtime;
use crate::wiring::NodeNetwork;

/// How long a container has between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(5);

/// Ends every container of this node, all at once. The agent does not run any more.
///
/// # Errors
/// When the runtime cannot be asked, or a container goes on.
pub(crate) async fn end_pods(config: &Config, clock: &SharedClock, random: &Random) -> anyhow::Result<()> {
    // Nothing is connected to it; the network ends with the machine.
    let (network, _opened) = NodeNetwork::new();
    let runtime = open_runtime(config, network, clock, random).await?;
    let containers = runtime.list_containers().await.context("listing containers")?;
    let running: Vec<_> =
        containers.into_iter().filter(|container| container.state == ContainerState::Running).collect();
    let ends = running.iter().map(|container| runtime.stop_container(&container.id, GRACE));
    let outcomes = join_all(ends).await;
    tracing::info!(containers = running.len(), "ended the pods of this node");
    let failed: Vec<String> = running
        .iter()
        .zip(outcomes)
        .filter_map(|(container, outcome)| Some(format!("{}: {}", container.id, outcome.err()?)))
        .collect();
    if !failed.is_empty() {
        bail!("these containers go on: {}", failed.join("; "));
    }
    Ok(())
}
