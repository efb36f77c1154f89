//! Who makes the machines, and what the steps of `up` do to one that runs.
//!
//! To add a provider: a module here with its [`Provider`], an arm in [`of`], and an entry of the journal
//! ([`crate::state::Made`]) with its arm in [`destroy`] for each thing that it makes outside the state directory.
//! Nothing else in the tool knows which provider is at work.

#[cfg(target_os = "linux")]
pub(crate) mod local;
#[cfg(target_os = "linux")]
mod qemu;
mod ssh;
mod systemd;
mod units;
mod vagrant;

use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;

use crate::artifacts::File;
use crate::artifacts::vm::Given;
use crate::error::Result;
use crate::plan::{Machine, Plan, Unit};
use crate::spec::ProviderKind;
use crate::state::{Home, Made, State};
use crate::ui::Ui;
pub(crate) use units::{Status, UnitState, UnitStatus};

/// Where the executable is on every machine.
pub(crate) const EXECUTABLE: &str = "/opt/bin/cluster";

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// It runs.
    Running,
    /// It was stopped where it stood, and goes on when it is told to.
    Paused,
    /// It does not run; its disk may be there.
    Stopped,
}

impl Power {
    /// Returns the word that `status` shows.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// Makes, starts and stops the machines of one cluster. What it makes is in the journal before it is there.
#[async_trait(?Send)]
pub(crate) trait Provider {
    /// Checks that this host can have the machines. Changes nothing.
    ///
    /// # Errors
    /// The first thing that would keep them from coming up, with what to do about it.
    async fn check(&self, home: &Home, ui: &Ui) -> Result<()>;

    /// Starts every machine that does not run, and makes it first if it is not there; returns the names of those
    /// it started. It need not wait until they can be reached.
    async fn boot(&self, with: &Boot<'_>) -> Result<Vec<String>>;

    /// Returns whether a machine runs.
    async fn power(&self, machine: &Machine) -> Result<Power>;

    /// Returns the way to work on a machine, once it answers.
    ///
    /// # Errors
    /// After `deadline`, with the last thing that was seen of it.
    async fn reach<'s>(
        &'s self,
        machine: &'s Machine,
        deadline: Instant,
        ui: &Ui,
    ) -> Result<Box<dyn Host + 's>>;

    /// Takes one machine away for good, whether it runs or not, and strikes what was its own from the journal.
    async fn remove(&self, machine: &Machine) -> Result<()>;

    /// Stops every machine in order; what is on their disks stays.
    async fn halt(&self, ui: &Ui) -> Result<()>;

    /// Returns the file of this host that has what a machine itself said.
    fn console(&self, machine: &Machine) -> PathBuf;

    /// Returns the image store that all machines share; `None` where each has its own.
    fn shared_images(&self) -> Option<PathBuf>;
}

/// What is told of a machine's units; returns whether it wants to know more.
pub(crate) type Seen<'a> = dyn for<'s> FnMut(&'s Status) -> bool + 'a;

/// What machines are started with.
pub(crate) struct Boot<'a> {
    /// What virtual machines are given; of these alone.
    pub(crate) given: Option<&'a Given>,
    /// The executable that machines run.
    pub(crate) executable: &'a Path,
    /// Where to say how far it is.
    pub(crate) ui: &'a Ui,
}

/// A machine that runs: the same on every provider.
#[async_trait(?Send)]
pub(crate) trait Host {
    /// Brings the executable to the machine under its names; returns whether its units run an older one.
    async fn install_executable(&self, executable: &Path, ui: &Ui) -> Result<bool>;

    /// Replaces the executable and keeps the one that was there, for [`restore_executable`](Self::restore_executable);
    /// returns whether they differ. Units are left alone.
    async fn replace_executable(&self, executable: &Path, ui: &Ui) -> Result<bool>;

    /// Brings another program than the cluster's own executable to the machine, as `name` beside it; returns whether
    /// it differs from what was there.
    async fn install_program(&self, name: &str, source: &Path, ui: &Ui) -> Result<bool>;

    /// Puts the executable back that was there before the last replacement.
    async fn restore_executable(&self) -> Result<()>;

    /// Writes files; returns whether any of them changed.
    async fn write(&self, files: &[File]) -> Result<bool>;

    /// Makes the machine run `units`, and starts them anew when `restart`; returns whether any is new.
    async fn set_units(&self, units: &[Unit], restart: bool) -> Result<bool>;

    /// Returns how the units are.
    async fn status(&self, units: &[Unit]) -> Result<Status>;

    /// Calls `seen` with the status of the units now and after each change, until it returns false.
    /// Gives up at `deadline`, and then returns false.
    async fn watch(&self, units: &[Unit], deadline: Instant, seen: &mut Seen<'_>) -> Result<bool>;

    /// Returns the log of a unit: its last `lines`, or all of it.
    async fn log(&self, unit: &str, lines: Option<usize>) -> Result<String>;

    /// Brings a file to the machine, readable for root alone.
    async fn upload(&self, source: &Path, target: &str, ui: &Ui) -> Result<()>;

    /// Runs a command as root to its end, without input.
    async fn run(&self, command: &[String]) -> Result<Output>;

    /// Runs a command, or a login shell where none is given, with this process's own streams, and returns its
    /// exit code. May become the command and never return.
    async fn enter(&self, command: &[String], terminal: bool) -> Result<u8>;
}

/// How a command on a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its exit code; 128 + n for signal n.
    pub(crate) code: i32,
    /// What it wrote.
    pub(crate) stdout: String,
    /// What it complained.
    pub(crate) stderr: String,
}

/// Returns the provider of a plan.
///
/// # Errors
/// When this host's operating system has none of the kind.
pub(crate) fn of<'a>(plan: &'a Plan, state: &'a State) -> Result<Box<dyn Provider + 'a>> {
    match plan.spec.provider {
        #[cfg(target_os = "linux")]
        ProviderKind::Local => Ok(Box::new(local::Local::new(plan, state))),
        #[cfg(not(target_os = "linux"))]
        ProviderKind::Local => Err(crate::error::Error::user("the local provider needs Linux")
            .because("its machines are namespaces of the Linux kernel")
            .hint("use provider vagrant or qemu")),
        ProviderKind::Qemu => Ok(Box::new(qemu::Qemu::new(plan, state))),
        ProviderKind::Vagrant => Ok(Box::new(vagrant::Vagrant::new(plan, state))),
    }
}

/// Takes away what the journal of a cluster says was made, whether or not its machines still run. `others` are
/// the clusters that stay: what they need, too, becomes theirs.
pub(crate) async fn destroy(journal: &[Made], others: &[State]) -> Result<()> {
    // Machines first: an interface that one holds cannot go.
    for made in journal {
        match made {
            Made::Virtual(description) => qemu::destroy(description).await?,
            Made::Vagrant(directory) => vagrant::destroy(directory).await?,
            Made::Link(_) | Made::Table(_) | Made::Forwarding(_) | Made::Cgroup(_) | Made::Context(_) => {}
        }
    }
    local::destroy(journal).await?;
    local::restore_forwarding(journal, others)
}

/// Returns the last `lines` of a text.
pub(crate) fn last_lines(text: &str, lines: usize) -> &str {
    if lines == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    match body.rmatch_indices('\n').nth(lines - 1) {
        Some((index, _)) => &text[index + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_ones() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb", 1), "b");
        assert_eq!(last_lines("a\n", 9), "a\n");
        assert_eq!(last_lines("a\n", 0), "");
    }
}
