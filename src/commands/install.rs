//! Brings machines to what the plan says of them: programs, files, units. Machines that are new, and those that nobody
//! would miss, all at once; masters that serve already one after the other, so that the API stays.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{executable, ready};
use crate::artifacts::File;
use crate::error::{Error, Result};
use crate::plan::{ETCD, Machine, Plan, Role};
use crate::provider::Host;
use crate::ui::Ui;

/// What machines run.
pub(super) struct Programs {
    /// The cluster's own executable.
    pub(super) own: PathBuf,
    /// etcd's, where members are set up.
    etcd: Option<PathBuf>,
}

impl Programs {
    /// Finds and checks the executables that a plan needs, before anything is made.
    ///
    /// # Errors
    /// One that is not there, or cannot run on the machines.
    pub(super) fn find(plan: &Plan, own: &Path) -> Result<Self> {
        executable::check(own)?;
        let etcd = match &plan.spec.etcd {
            Some(etcd) if plan.own_etcd() => Some(find_etcd(etcd.executable.as_deref())?),
            _ => None,
        };
        Ok(Self { own: own.to_owned(), etcd })
    }

    fn other(&self, name: &str) -> Result<&Path> {
        self.etcd
            .as_deref()
            .filter(|_| name == ETCD)
            .ok_or_else(|| Error::internal(format!("nobody knows where {name} comes from")))
    }
}

fn find_etcd(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .map(|directory| directory.join(ETCD))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                Error::user("the masters share an etcd, and there is no executable of that name in PATH")
                    .hint("install etcd on this host (Debian: etcd-server), or give etcd.executable in the spec")
            })?,
    };
    executable::check(&path).map_err(|error| error.within("etcd cannot be set up on the masters"))?;
    Ok(path)
}

/// A machine with the way to work on it, and whether this command has started it.
pub(super) struct Target<'a> {
    pub(super) machine: &'a Machine,
    pub(super) host: Box<dyn Host + 'a>,
    pub(super) started: bool,
    pub(super) files: Vec<File>,
}

/// Brings all machines to what the plan says; returns how many of them that changed. An `unfinished` change may have
/// left units that run what was there before.
pub(super) async fn all(
    targets: &[Target<'_>],
    programs: &Programs,
    unfinished: bool,
    deadline: Instant,
    ui: &Ui,
) -> Result<u32> {
    let serving = serving(targets).await;
    let firsts = targets.iter().map(async |target| {
        let restart = put(target, programs, ui).await.map_err(|error| within(error, target))? || unfinished;
        if restart && serving && is_master(target) && !target.started {
            return Ok((true, true));
        }
        let new = target.host.set_units(&target.machine.units, restart).await;
        Ok::<_, Error>((new.map_err(|error| within(error, target))? || restart, false))
    });
    let mut changed = 0;
    let mut later = Vec::new();
    for (target, outcome) in targets.iter().zip(futures::future::join_all(firsts).await) {
        let (differs, waits) = outcome?;
        changed += u32::from(differs);
        if waits {
            later.push(target);
        }
    }
    for target in later {
        ui.begin("install", &format!("starting {} anew", target.machine.name));
        let host = &*target.host;
        host.set_units(&target.machine.units, true).await.map_err(|error| within(error, target))?;
        ready::units(host, target.machine, deadline).await?;
    }
    Ok(changed)
}

fn within(error: Error, target: &Target<'_>) -> Error {
    error.within(format!("installing {} ({})", target.machine.name, target.machine.address))
}

fn is_master(target: &Target<'_>) -> bool {
    target.machine.role == Role::Master
}

/// Brings programs and files to a machine; returns whether its units have to be started anew for them.
async fn put(target: &Target<'_>, programs: &Programs, ui: &Ui) -> Result<bool> {
    let host = &*target.host;
    let mut outdated = host.install_executable(&programs.own, ui).await?;
    for name in &target.machine.programs {
        // A machine that has just started runs the new one by itself.
        outdated |= host.install_program(name, programs.other(name)?, ui).await? && !target.started;
    }
    Ok(host.write(&target.files).await? || outdated)
}

/// Returns whether several masters serve at present, whom nobody would want to lose all at once. Where one of them
/// does not, waiting for each in turn could wait for the ones behind it.
async fn serving(targets: &[Target<'_>]) -> bool {
    let masters: Vec<&Target<'_>> = targets.iter().filter(|target| is_master(target)).collect();
    let statuses = masters.iter().filter(|target| !target.started).map(async |target| {
        let units = &target.machine.units;
        target.host.status(units).await.is_ok_and(|status| ready::all_ready(&status, target.machine))
    });
    let ready = futures::future::join_all(statuses).await;
    masters.len() > 1 && ready.len() > 1 && ready.into_iter().all(|ready| ready)
}
