//! `cluster up`: a list of steps, each of which does only what is missing.

use std::path::Path;
use std::time::{Duration, Instant};

use super::install::{self, Programs, Target};
use super::{Session, kubeconfig, ready};
use crate::artifacts::vm::Given;
use crate::artifacts::{admin_kubeconfig, all_files, pki};
use crate::cli::{Completion, Up};
use crate::error::{Error, Result};
use crate::plan::{Authority, Plan, count, plan};
use crate::provider::{self, Boot};
use crate::spec::{ClusterSpec, ProviderKind, masters_warning};
use crate::state::State;

/// This very executable.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";

/// How long the cluster may take to be ready, and how long where machines have to boot: under software emulation
/// that takes minutes.
const WAIT: Duration = Duration::from_secs(120);
const BOOT_WAIT: Duration = Duration::from_secs(1200);

/// Runs `cluster up`.
pub(super) async fn run(session: &Session<'_>, arguments: &Up) -> Result<()> {
    let Up { overrides, completion } = arguments;
    let (spec, state) = session.wanted(overrides)?;
    bring(session, &spec, &state, completion).await
}

/// Brings a cluster to what `spec` says.
pub(super) async fn bring(
    session: &Session<'_>,
    spec: &ClusterSpec,
    state: &State,
    completion: &Completion,
) -> Result<()> {
    let Completion { no_kubeconfig, wait, node_executable } = completion;
    let ui = session.ui;
    let plan = plan(spec);
    let patience = if spec.provider == ProviderKind::Local { WAIT } else { BOOT_WAIT };
    let deadline = Instant::now() + wait.map_or(patience, Duration::from_secs);
    ui.done("plan", &plan.summary());
    if let Some(warning) = masters_warning(spec.masters.count) {
        ui.warn(&warning);
    }
    let provider = provider::of(&plan, state)?;
    provider.check(&session.home, ui).await?;
    let executable = node_executable.as_deref().unwrap_or(Path::new(EXECUTABLE));
    if !cfg!(target_os = "linux") && node_executable.is_none() {
        return Err(Error::user("machines need an executable for Linux, and this one is not")
            .hint("give one by --node-executable FILE"));
    }
    let programs = Programs::find(&plan, executable)?;
    let _lock = state.lock()?;
    state.record(&[])?;
    state.save_spec(spec)?;

    let (pki, issued) = certificates(&plan, state)?;
    let given = match spec.provider {
        ProviderKind::Local => None,
        ProviderKind::Vagrant | ProviderKind::Qemu => Some(Given::ensure(&plan, state.directory())?),
    };
    ui.done("certificates", &certificate_line(&plan, issued));

    let unfinished = state.begin_change()?;
    ui.begin("machines", "starting");
    let started = provider.boot(&Boot { given: given.as_ref(), executable, ui }).await?;
    let machines: Vec<String> =
        plan.machines.iter().map(|machine| format!("{} {}", machine.name, machine.address)).collect();
    ui.done("machines", &machines.join("  "));

    ui.begin("install", "reaching machines");
    let provider = &*provider;
    let reached = plan.machines.iter().map(async |machine| {
        let files = all_files(&plan, machine, &pki, given.as_ref())?;
        let host = provider.reach(machine, deadline, ui).await?;
        Ok::<_, Error>(Target { machine, host, started: started.contains(&machine.name), files })
    });
    let targets: Vec<Target<'_>> =
        futures::future::join_all(reached).await.into_iter().collect::<Result<_>>()?;
    let installed = install::all(&targets, &programs, unfinished, deadline, ui).await?;
    let hosts: Vec<_> = targets.into_iter().map(|target| (target.machine, target.host)).collect();
    state.end_change()?;
    let nodes = count(u32::try_from(plan.machines.len()).unwrap_or(u32::MAX), "node");
    let etcd = if plan.own_etcd() { "etcd, control-plane" } else { "control-plane" };
    ui.done("install", &format!("{etcd} and node-agent on {nodes}"));

    ui.begin("ready", "waiting for units");
    let own = admin_kubeconfig(&plan, &pki)?;
    machinery::files::replace(&state.path(kubeconfig::OWN), own.as_bytes(), machinery::files::PRIVATE)?;
    ready::wait(&hosts, &plan, &own, deadline, ui).await?;
    ui.done_timed("ready", &format!("{nodes} Ready, DNS answers"));

    if !no_kubeconfig {
        let (file, _) = kubeconfig::put(state, &own)?;
        ui.note(&format!(
            "kubectl is configured: context \"{}\" in {}",
            spec.name,
            kubeconfig::display(&file)
        ));
    }
    if started.is_empty() && installed == 0 && issued == 0 {
        ui.note(&format!("nothing to do: {} was up already", spec.name));
    }
    Ok(())
}

fn certificates(plan: &Plan, state: &State) -> Result<(pki::Pki, usize)> {
    let directory = state.path("pki");
    fs_err::create_dir_all(&directory)?;
    pki::of_plan(&directory, plan, machinery::clock::system().now())
}

fn certificate_line(plan: &Plan, issued: usize) -> String {
    let all = plan.certificates.len();
    let authorities: std::collections::BTreeSet<Authority> =
        plan.certificates.iter().map(|certificate| certificate.authority).collect();
    match issued {
        0 => format!("CA and {all} certificates, as they were"),
        issued if issued == all + authorities.len() => format!("CA and {all} certificates"),
        issued => format!("CA and {all} certificates, {issued} of them new"),
    }
}

/// Checks that a cluster that exists can become the wanted one.
///
/// # Errors
/// Names every setting that cannot be changed while the cluster exists.
pub(super) fn compatible(saved: &ClusterSpec, wanted: &ClusterSpec) -> Result<()> {
    let mut differences = Vec::new();
    let mut compare = |field: &str, has: String, asked: String| {
        if has != asked {
            differences.push(format!("{field} is {has}, asked for is {asked}"));
        }
    };
    compare("provider", saved.provider.name().into(), wanted.provider.name().into());
    let store = |spec: &ClusterSpec| match &spec.etcd {
        None => "the one in the master".to_owned(),
        Some(etcd) if etcd.endpoints.is_empty() => "etcd on the masters".to_owned(),
        Some(etcd) => format!("etcd at {}", etcd.prefix.as_deref().unwrap_or("the prefix of its name")),
    };
    compare("the store", store(saved), store(wanted));
    compare("masters.count", saved.masters.count.to_string(), wanted.masters.count.to_string());
    let first = |group: &crate::spec::Machines| group.first_address.to_string();
    compare("masters.firstAddress", first(&saved.masters), first(&wanted.masters));
    compare("workers.firstAddress", first(&saved.workers), first(&wanted.workers));
    let (had, asks) = (&saved.network, &wanted.network);
    compare("network.nodes", had.nodes.to_string(), asks.nodes.to_string());
    compare("network.pods", had.pods.to_string(), asks.pods.to_string());
    compare("network.services", had.services.to_string(), asks.services.to_string());
    compare("network.host", had.host.to_string(), asks.host.to_string());
    let api = |network: &crate::spec::Network| network.api.map_or("none".into(), |api| api.to_string());
    if saved.etcd.is_some() && wanted.etcd.is_some() {
        compare("network.api", api(had), api(asks));
    }
    compare("network.dns", had.dns.to_string(), asks.dns.to_string());
    compare("network.domain", had.domain.clone(), asks.domain.clone());
    compare("network.apiPort", had.api_port.to_string(), asks.api_port.to_string());
    if wanted.workers.count < saved.workers.count {
        compare("workers.count", saved.workers.count.to_string(), wanted.workers.count.to_string());
    }
    if differences.is_empty() {
        return Ok(());
    }
    let mut error = Error::user(format!("cluster {} exists with other settings", saved.name))
        .because(differences.join("\n"));
    if saved.etcd.is_some() && saved.masters.count != wanted.masters.count {
        error = error.hint("`cluster master add` and `cluster master remove` change the number of masters");
    }
    Err(error.hint(format!("`cluster down --name {}` first, or give another --name", saved.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{check, parse};

    fn spec(text: &str) -> ClusterSpec {
        check(&parse(text).unwrap()).unwrap()
    }

    #[test]
    fn workers_may_be_added_and_nothing_else_may_change() {
        let saved = spec("workers: { count: 1 }");
        compatible(&saved, &spec("workers: { count: 3 }")).unwrap();
        for other in ["workers: { count: 0 }", "network: { nodes: 172.18.4.0/24 }", "masters: { count: 3 }"] {
            let error = compatible(&saved, &spec(other)).unwrap_err();
            assert!(error.line().contains("exists with other settings"), "{}", error.line());
        }
    }
}
