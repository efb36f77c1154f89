//! `cluster upgrade`: replaces the executable of every machine, one after the other, and takes it back on a machine
//! that does not come up with it.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use super::drain::{self, Bare};
use super::{Session, executable, node, ready, up};
use crate::cli::Upgrade;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Unit, count};
use crate::provider::{self, Host, Provider};
use crate::ui::Ui;

/// Runs `cluster upgrade`.
pub(super) async fn run(session: &Session<'_>, arguments: &Upgrade) -> Result<()> {
    let Upgrade { node_executable, wait } = arguments;
    let (plan, state) = session.existing()?;
    let ui = session.ui;
    let _lock = state.lock()?;
    let program = node_executable.as_deref().unwrap_or(Path::new(up::EXECUTABLE));
    executable::check(program)?;
    let provider = provider::of(&plan, &state)?;
    let client = node::admin(&state).await?;
    // Where this command is cut short, `up` finds it and starts every unit anew.
    if state.begin_change()? {
        return Err(Error::user(format!("an earlier command that changed {} was cut short", plan.spec.name))
            .hint("run `cluster up`, which completes it, then `cluster upgrade`"));
    }
    let outcome = each(&*provider, &plan, &client, program, Duration::from_secs(*wait), ui).await;
    state.end_change()?;
    match outcome? {
        0 => ui.note("nothing to do: every machine has this version"),
        replaced => ui.note(&format!("{} of {} upgraded", count(replaced, "machine"), plan.machines.len())),
    }
    Ok(())
}

/// Upgrades one machine after the other; returns how many had another executable.
async fn each(
    provider: &dyn Provider,
    plan: &Plan,
    client: &Client,
    program: &Path,
    wait: Duration,
    ui: &Ui,
) -> Result<u32> {
    let mut replaced = 0;
    for machine in &plan.machines {
        // The time is for each machine: a cluster of many takes as long as it takes.
        let deadline = Instant::now() + wait;
        ui.begin(&machine.name, "comparing");
        let host = provider.reach(machine, deadline, ui).await?;
        if !host.replace_executable(program, ui).await? {
            ui.done(&machine.name, "has this version already");
            continue;
        }
        replaced += 1;
        let node = machine.address.to_string();
        let was = drain::cordon(client, &node, true).await?;
        let renewed = async {
            // Pods that nothing would make again stay: their containers outlive the agent.
            drain::evict(client, &node, Bare::Leave, deadline).await?;
            restart(&*host, machine, deadline).await?;
            alive(client, &node, deadline).await
        };
        let outcome = renewed.await;
        if let Err(error) = outcome {
            host.restore_executable()
                .await
                .context(format!("taking the upgrade of {} back", machine.name))?;
            let later = Instant::now() + wait;
            restart(&*host, machine, later).await.context("starting the version that was there")?;
            alive(client, &node, later).await.context("starting the version that was there")?;
            drain::cordon(client, &node, was).await?;
            return Err(error
                .within(format!(
                    "{} did not come up with the new version and has the old one again",
                    machine.name
                ))
                .hint("machines before it keep the new version; `cluster upgrade` goes on with the rest"));
        }
        drain::cordon(client, &node, was).await?;
        ui.done_timed(&machine.name, "runs the new version");
    }
    Ok(replaced)
}

/// Starts every unit of a machine that runs this executable anew and waits until all are ready. Members of etcd, which
/// do not, go on: the loss of one at a time is for failures.
async fn restart(host: &dyn Host, machine: &Machine, deadline: Instant) -> Result<()> {
    let own: Vec<Unit> =
        machine.units.iter().filter(|unit| !machine.programs.contains(&unit.name)).cloned().collect();
    host.set_units(&own, true).await?;
    ready::units(host, machine, deadline).await
}

/// Waits until a node has said twice that it is alive: once may have been its agent's life before.
async fn alive(client: &Client, node: &str, deadline: Instant) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let stream = watcher(leases, config);
    futures::pin_mut!(stream);
    let mut versions = std::collections::BTreeSet::new();
    let watching = async {
        while versions.len() < 2 {
            // Errors pass: the API of the only master was away a moment ago.
            if let Ok(Some(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease))) =
                stream.try_next().await
            {
                versions.insert(lease.resource_version());
            }
        }
    };
    let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    tokio::time::timeout(patience, watching)
        .await
        .map_err(|_| Error::user(format!("the node {node} does not renew its lease")))
}
