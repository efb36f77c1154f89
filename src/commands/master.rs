//! `cluster master`: adds masters to a cluster that runs, takes them out of it, and puts new ones in their places.
//!
//! A member of etcd joins without a vote and gets one when it has caught up, and leaves before its machine goes: so
//! that the members that are left always have a majority of those that count.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use machinery::clock;
use machinery::names::Random;
use machinery::retry::{self, Attempt, Backoff};

use super::drain::{self, Bare};
use super::{Session, etcd, find_machine, node, up};
use crate::artifacts::etcd::peer_url;
use crate::cli;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Role, count, plan};
use crate::provider::{self, Power};
use crate::spec::{ClusterSpec, MOST_MASTERS};
use crate::state::State;

/// How long etcd may take until it accepts a change of its members.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Runs `cluster master`.
pub(super) async fn run(session: &Session<'_>, action: &cli::Master) -> Result<()> {
    let (plan, state) = session.existing()?;
    if plan.spec.etcd.is_none() {
        return Err(Error::user(format!("{} keeps its store in its only master", plan.spec.name))
            .because("several masters share an etcd")
            .hint("make the cluster with `etcd: {}` in its spec, or with more masters from the start"));
    }
    match action {
        cli::Master::Add { up } => add(session, &plan, &state, up).await,
        cli::Master::Remove { leaving, up } => remove(session, &plan, &state, leaving, up).await,
        cli::Master::Replace { leaving, up } => {
            // Who is named wrongly must not cost a master more or less.
            find_master(&plan, &leaving.machine)?;
            if plan.spec.masters.count == 1 {
                add(session, &plan, &state, up).await?;
                let (plan, state) = session.existing()?;
                return remove(session, &plan, &state, leaving, up).await;
            }
            // First the one that goes: a member that is lost counts for the majority as long as it belongs.
            remove(session, &plan, &state, leaving, up).await?;
            let (plan, state) = session.existing()?;
            add(session, &plan, &state, up).await
        }
    }
}

async fn add(
    session: &Session<'_>,
    before: &Plan,
    state: &State,
    completion: &cli::Completion,
) -> Result<()> {
    let spec = with_one_more(&before.spec)?;
    let after = plan(&spec);
    let known = |machine: &&Machine| before.machine(&machine.name).is_none();
    let new = after.masters().find(known).context("the plan has no new master")?;
    if after.own_etcd() {
        let members = etcd::members(before, state)?.context("there is no etcd")?;
        session.ui.begin("etcd", &format!("announcing {}", new.name));
        settled("etcd to take a new member", async || members.add_learner(&peer_url(new)).await).await?;
        session.ui.done("etcd", &format!("{} may join", new.name));
    }
    up::bring(session, &spec, state, completion).await?;
    if after.own_etcd() {
        session.ui.begin("etcd", &format!("{} is catching up", new.name));
        let members = etcd::members(before, state)?.context("there is no etcd")?;
        let what = format!("{} to catch up with the other members of etcd", new.name);
        settled(&what, async || members.promote(&peer_url(new)).await).await?;
        session.ui.done("etcd", &format!("{} has a vote", new.name));
    }
    session.ui.note(&format!("{} has {} now", spec.name, count(spec.masters.count, "master")));
    Ok(())
}

/// Changes the members of etcd, which refuses that as long as they have not been connected for some seconds, or one of
/// them has not caught up. Each change finds out by itself what was done already.
async fn settled(what: &str, change: impl AsyncFn() -> store::Result<()>) -> Result<()> {
    let attempt = async || match change().await {
        Ok(()) => Attempt::Done(()),
        Err(error @ store::Error::Unavailable(_)) => Attempt::Again(error.to_string()),
        Err(error) => Attempt::Fatal(error),
    };
    retry::until(what, CATCH_UP, Backoff::QUICK, &*clock::system(), &Random::from_os(), attempt).await?;
    Ok(())
}

/// Returns the spec with one more master, which joins those that are there.
fn with_one_more(before: &ClusterSpec) -> Result<ClusterSpec> {
    let mut spec = before.clone();
    spec.masters.count += 1;
    if i64::from(spec.masters.count) > MOST_MASTERS {
        return Err(Error::user(format!("{} masters are too many", spec.masters.count))
            .because("every write waits for a majority of them")
            .hint(format!("at most {MOST_MASTERS}")));
    }
    let indices =
        |spec: &ClusterSpec| -> Vec<u32> { plan(spec).masters().map(|master| master.index).collect() };
    let there = indices(before);
    let new = indices(&spec).into_iter().find(|index| !there.contains(index));
    if let (Some(etcd), Some(index)) = (&mut spec.etcd, new) {
        etcd.joined.insert(index);
    }
    let planned = plan(&spec);
    let address = planned.masters().last().map(|master| master.address);
    let taken = address.filter(|address| {
        let worker = planned
            .machines
            .iter()
            .any(|machine| machine.role == Role::Worker && machine.address == *address);
        worker || !spec.network.nodes.contains(address) || *address >= spec.network.nodes.broadcast()
    });
    match taken {
        Some(address) => {
            Err(Error::user(format!("there is no address for another master: {address} is taken or outside"))
                .hint("make the cluster with room between masters.firstAddress and workers.firstAddress"))
        }
        None => Ok(spec),
    }
}

/// Returns the master that a name or an address says.
fn find_master<'p>(plan: &'p Plan, name: &str) -> Result<&'p Machine> {
    let machine = find_machine(plan, name)?;
    if machine.role != Role::Master {
        return Err(Error::user(format!("{} is no master", machine.name))
            .hint(format!("`cluster node remove {}`", machine.name)));
    }
    Ok(machine)
}

async fn remove(
    session: &Session<'_>,
    before: &Plan,
    state: &State,
    leaving: &cli::Leaving,
    completion: &cli::Completion,
) -> Result<()> {
    let ui = session.ui;
    let machine = find_master(before, &leaving.machine)?;
    if before.spec.masters.count == 1 {
        return Err(Error::user(format!("{} is the only master", machine.name))
            .hint("`cluster master add` first, or `cluster down` for the whole cluster"));
    }
    let lock = state.lock()?;
    let wait = completion.wait.map_or(Duration::from_secs(120), Duration::from_secs);
    let deadline = Instant::now() + wait;
    let provider = provider::of(before, state)?;
    let address = machine.address.to_string();
    let client = node::admin(state).await?;
    ui.begin("drain", &format!("moving the pods of {}", machine.name));
    if provider.power(machine).await? == Power::Running {
        let was = drain::cordon(&client, &address, true).await?;
        let bare = if leaving.force { Bare::End } else { Bare::Refuse };
        if let Err(error) = drain::evict(&client, &address, bare, deadline).await {
            drain::cordon(&client, &address, was).await?;
            return Err(error);
        }
        ui.done("drain", &format!("no pods are left on {}", machine.name));
    } else {
        ui.done("drain", &format!("{} does not run; its pods are ended with its node", machine.name));
    }
    let mut spec = before.spec.clone();
    spec.masters.count -= 1;
    spec.masters.absent.insert(machine.index);
    if let Some(etcd) = &mut spec.etcd {
        etcd.joined.remove(&machine.index);
    }
    let after = plan(&spec);
    if before.own_etcd() {
        ui.begin("etcd", &format!("taking {} out", machine.name));
        let members = etcd::members(&after, state)?.context("there is no etcd")?;
        settled("etcd to let a member go", async || members.remove(&peer_url(machine)).await).await?;
        ui.done("etcd", &format!("{} is no member any more", machine.name));
    }
    // From here on the rest is found again by whatever comes next, should this be cut short.
    state.save_spec(&spec)?;
    let nodes: Api<Node> = Api::all(client);
    match nodes.delete(&address, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::from(error).within(format!("deleting the node {address}"))),
    }
    provider.remove(machine).await.context(format!("removing {}", machine.name))?;
    ui.done("machine", &format!("{} {address} is gone", machine.name));
    drop(lock);
    // The others are told: certificates, the list of members, the agents' servers.
    up::bring(session, &spec, state, completion).await?;
    ui.note(&format!("{} has {} now", spec.name, count(spec.masters.count, "master")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{check, parse};

    #[test]
    fn only_a_master_is_taken_for_one() {
        let plan = plan(&check(&parse("masters: { count: 3 }").unwrap()).unwrap());
        for name in ["m2", "172.17.4.102"] {
            assert_eq!(find_master(&plan, name).unwrap().name, "m2");
        }
        assert_eq!(find_master(&plan, "w1").unwrap_err().line(), "w1 is no master");
        assert!(find_master(&plan, "m9").is_err());
    }

    #[test]
    fn another_master_has_a_place_of_its_own_and_joins() {
        let spec = check(&parse("masters: { count: 3 }").unwrap()).unwrap();
        let four = with_one_more(&spec).unwrap();
        assert_eq!((four.masters.count, &four.etcd.unwrap().joined), (4, &[3].into()));
        let mut without_second = spec.clone();
        without_second.masters.count = 2;
        without_second.masters.absent.insert(1);
        let again = with_one_more(&without_second).unwrap();
        let names: Vec<String> = plan(&again).masters().map(|master| master.name.clone()).collect();
        assert_eq!(names, ["m1", "m3", "m4"], "a place that was given up stays empty");
        assert_eq!(again.etcd.unwrap().joined, [3].into());
        let full = check(&parse("masters: { count: 7 }").unwrap()).unwrap();
        assert!(with_one_more(&full).is_err());
        let beside = "masters: { count: 3, firstAddress: 172.17.4.198 }";
        let error = with_one_more(&check(&parse(beside).unwrap()).unwrap()).unwrap_err();
        assert!(error.line().contains("172.17.4.201"), "{}", error.line());
    }
}
