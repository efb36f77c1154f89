//! `cluster node`: adds machines to a cluster that runs, and takes them out of it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;

use super::drain::{self, Bare};
use super::{Session, client, find_machine, kubeconfig, up};
use crate::cli;
use crate::error::{Context, Error, Result};
use crate::plan::{Role, count};
use crate::provider;
use crate::state::State;

/// Runs `cluster node`.
pub(super) async fn run(session: &Session<'_>, action: &cli::Node) -> Result<()> {
    match action {
        cli::Node::Add { count, up } => add(session, *count, up).await,
        cli::Node::Remove { leaving, wait } => remove(session, leaving, Duration::from_secs(*wait)).await,
    }
}

async fn add(session: &Session<'_>, more: u32, completion: &cli::Completion) -> Result<()> {
    let (plan, state) = session.existing()?;
    let mut spec = plan.spec;
    spec.workers.count = spec.workers.count.saturating_add(more);
    // The checks of a written spec are those of this one, too: there have to be addresses.
    let last = u32::from(spec.workers.first_address).saturating_add(
        spec.workers.count + u32::try_from(spec.workers.absent.len()).unwrap_or(u32::MAX) - 1,
    );
    let range = spec.network.nodes;
    if last >= u32::from(range.broadcast()) {
        return Err(Error::user(format!("{} workers do not fit into {range}", spec.workers.count))
            .hint("remove others first, or make the cluster with a larger network.nodes"));
    }
    up::bring(session, &spec, &state, completion).await
}

async fn remove(session: &Session<'_>, leaving: &cli::Leaving, patience: Duration) -> Result<()> {
    let (plan, state) = session.existing()?;
    let ui = session.ui;
    let machine = find_machine(&plan, &leaving.machine)?;
    if machine.role == Role::Master {
        return Err(Error::user(format!("{} is a master", machine.name))
            .hint(format!("`cluster master remove {}` where there are several", machine.name)));
    }
    let _lock = state.lock()?;
    let deadline = Instant::now() + patience;
    let node = machine.address.to_string();
    ui.begin("drain", &format!("moving the pods of {}", machine.name));
    let client = admin(&state).await?;
    let bare = if leaving.force { Bare::End } else { Bare::Refuse };
    drain::cordon(&client, &node, true).await?;
    if let Err(error) = drain::evict(&client, &node, bare, deadline).await {
        // Bad luck changes nothing: the node goes on as before.
        drain::cordon(&client, &node, false).await?;
        return Err(error);
    }
    ui.done("drain", &format!("no pods are left on {}", machine.name));
    let nodes: Api<Node> = Api::all(client);
    match nodes.delete(&node, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::from(error).within(format!("deleting the node {node}"))),
    }
    let mut spec = plan.spec.clone();
    spec.workers.count -= 1;
    spec.workers.absent.insert(machine.index);
    state.save_spec(&spec)?;
    provider::of(&plan, &state)?.remove(machine).await.context(format!("removing {}", machine.name))?;
    ui.done("machine", &format!("{} {node} is gone", machine.name));
    ui.note(&format!("{} has {} now", plan.spec.name, count(spec.workers.count, "worker")));
    Ok(())
}

/// Returns a client of the cluster with the rights of its admin.
pub(super) async fn admin(state: &State) -> Result<kube::Client> {
    let path = state.path(kubeconfig::OWN);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::from(error).within(format!("reading {}", path.display())).hint("run `cluster up`")
    })?;
    client(&text, None).await
}
