//! `cluster down`: takes away what the journal says, whatever state `up` has left.

use super::{Session, kubeconfig};
use crate::error::Result;
use crate::plan::plan;
use crate::provider;
use crate::state::{Made, State};

/// Runs `cluster down`.
pub(super) async fn run(session: &Session<'_>, keep: bool) -> Result<()> {
    let name = session.name()?;
    let state = session.home.cluster(&name);
    let ui = session.ui;
    if !state.directory().exists() {
        ui.note(&format!("nothing to do: there is no cluster {name}"));
        return Ok(());
    }
    let lock = state.lock()?;
    let journal = state.journal()?;
    if keep && let Some(spec) = state.spec()? {
        let plan = plan(&spec);
        ui.begin("machines", "stopping");
        provider::of(&plan, &state)?.halt(ui).await?;
    }
    // Disks of virtual machines are what is kept; namespaces have nothing that could be.
    let stays = |made: &Made| {
        matches!(made, Made::Context(_)) || keep && matches!(made, Made::Virtual(_) | Made::Vagrant(_))
    };
    let (kept, gone): (Vec<Made>, Vec<Made>) = journal.into_iter().partition(stays);
    ui.begin("machines", "removing");
    let others: Vec<State> = session
        .home
        .list()?
        .into_iter()
        .filter(|other| *other != name)
        .map(|other| session.home.cluster(&other))
        .collect();
    provider::destroy(&gone, &others).await?;
    let verb = if keep { "stopped, their data is kept" } else { "removed" };
    ui.done("machines", verb);
    if keep {
        state.write_json("journal.json", &kept)?;
        ui.note(&format!("cluster {name} is stopped; `cluster up --name {name}` starts it again"));
        return Ok(());
    }
    for made in &kept {
        if let Made::Context(file) = made {
            kubeconfig::take(file, &name)?;
        }
    }
    state.remove(lock)?;
    ui.done_timed("state", &format!("cluster {name} is gone"));
    Ok(())
}
