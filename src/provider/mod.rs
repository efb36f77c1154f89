//! Who makes the machines, and what the steps of `up` do to one that runs.
//!
//! To add a provider: a module here with its [`Provider`], an arm in [`of`], and an entry of the journal
//! ([`crate::state::Made`]) with its arm in [`destroy`] for each thing that it makes outside the state directory.
//! Nothing else in the tool knows which provider is at work.

#[cfg(target_os = "linux")]
pub(crate) mod local;
mod units;

use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;

use crate::artifacts::File;
use crate::error::{Error, Result};
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
    #[expect(dead_code, reason = "of machines that QEMU runs")]
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
    async fn boot(&self, ui: &Ui) -> Result<Vec<String>>;

    /// Returns whether a machine runs.
    fn power(&self, machine: &Machine) -> Result<Power>;

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

    /// Stops every machine in order; what is on their disks stays.
    async fn halt(&self, ui: &Ui) -> Result<()>;

    /// Returns the file of this host that has what a machine itself said.
    fn console(&self, machine: &Machine) -> PathBuf;

    /// Returns the image store that all machines share; `None` where each has its own.
    fn shared_images(&self) -> Option<PathBuf>;
}

/// What is told of a machine's units; returns whether it wants to know more.
pub(crate) type Seen<'a> = dyn for<'s> FnMut(&'s Status) -> bool + 'a;

/// A machine that runs: the same on every provider.
#[async_trait(?Send)]
pub(crate) trait Host {
    /// Brings this executable to the machine under its names; returns whether its units run an older one.
    async fn install_executable(&self, ui: &Ui) -> Result<bool>;

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
        ProviderKind::Local => Err(Error::user("the local provider needs Linux")
            .because("its machines are namespaces of the Linux kernel")
            .hint("use provider vagrant or qemu")),
        ProviderKind::Vagrant | ProviderKind::Qemu => {
            Err(Error::user(format!("the provider {} is not built yet", plan.spec.provider.name()))
                .hint("`cluster generate DIR` writes the files for it; `--provider local` makes a cluster on this machine"))
        }
    }
}

/// Takes away what the journal of a cluster says was made, whether or not its machines still run. `others` are
/// the clusters that stay: what they need, too, becomes theirs.
pub(crate) async fn destroy(journal: &[Made], others: &[State]) -> Result<()> {
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
