//! The Vagrant provider: drives the `vagrant` of this host on the Vagrantfile that `generate` writes, too.
//!
//! Everything that Vagrant makes is named by the Vagrantfile in the state directory, which is in the journal before
//! it is used; `vagrant destroy` takes it away.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ::qemu::Acceleration;
use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::{Boot, Host, Power, Provider, ssh};
use crate::artifacts::{vm, write_files};
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan};
use crate::state::{Home, Made, State};
use crate::ui::Ui;

/// The program that is driven.
const PROGRAM: &str = "vagrant";
/// Tells the Vagrantfile how libvirt runs machines: by the kernel or by software emulation.
const DRIVER: &str = "CLUSTER_VIRT_DRIVER";
/// How long a machine that runs may take to greet on this host's own network; one that is slower is asked for.
const ANSWER: Duration = Duration::from_millis(500);
/// How many of the last lines that Vagrant said go into an error.
const LINES: usize = 15;

/// The machines of one cluster.
pub(super) struct Vagrant<'a> {
    plan: &'a Plan,
    state: &'a State,
    /// What `vagrant status` said, which takes seconds: asked once a command.
    told: RefCell<Option<BTreeMap<String, String>>>,
}

impl<'a> Vagrant<'a> {
    /// Returns the machines of `plan`, kept in `state`.
    pub(super) fn new(plan: &'a Plan, state: &'a State) -> Self {
        Self { plan, state, told: RefCell::default() }
    }

    /// Returns the state of every machine in Vagrant's words, such as `running` and `not_created`.
    async fn states(&self) -> Result<BTreeMap<String, String>> {
        if let Some(told) = self.told.borrow().clone() {
            return Ok(told);
        }
        if !self.state.path(vm::VAGRANTFILE).exists() {
            return Ok(BTreeMap::new());
        }
        let output = run(self.state.directory(), &["status", "--machine-readable"], &[], &|_| {}).await?;
        let states = parse_states(&output);
        self.told.replace(Some(states.clone()));
        Ok(states)
    }

    /// Whether an SSH daemon speaks where the machine has its own. A connection alone says nothing: where the
    /// machine's network is not there, a gateway may take it for every address.
    async fn answers(&self, machine: &Machine) -> bool {
        let address = SocketAddr::new(machine.address.into(), ssh::PORT);
        let speaks = async {
            let mut greeting = [0; 4];
            let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
            stream.read_exact(&mut greeting).await.ok()?;
            (greeting == *b"SSH-").then_some(())
        };
        matches!(tokio::time::timeout(ANSWER, speaks).await, Ok(Some(())))
    }
}

#[async_trait(?Send)]
impl Provider for Vagrant<'_> {
    async fn check(&self, home: &Home, ui: &Ui) -> Result<()> {
        let version = run(Path::new("/"), &["--version"], &[], &|_| {}).await?;
        tracing::debug!(version = version.trim(), "Vagrant is there");
        crate::preflight::vagrant(self.plan, self.state, home, ui).await
    }

    async fn boot(&self, with: &Boot<'_>) -> Result<Vec<String>> {
        let Boot { given, executable: _, ui } = *with;
        self.state.record(&[Made::Vagrant(self.state.directory().to_owned())])?;
        let mut missing = Vec::new();
        for machine in &self.plan.machines {
            if self.power(machine).await? != Power::Running {
                missing.push(machine.name.clone());
            }
        }
        if missing.is_empty() {
            return Ok(missing);
        }
        let given = given.context("the machines are given no keys")?;
        write_files(self.state.directory(), &vm::files(self.plan, given)?)?;
        let driver = match ::qemu::probe().await {
            // Without QEMU it is another of Vagrant's providers, which does not ask.
            Ok(Acceleration::Kvm) | Err(_) => "kvm",
            Ok(Acceleration::Emulation { reason }) => {
                ui.warn(&format!(
                    "libvirt's machines run by software emulation, many times slower: {reason}"
                ));
                "qemu"
            }
        };
        let mut words = vec!["up", "--no-tty"];
        words.extend(missing.iter().map(String::as_str));
        let said = |line: &str| {
            if let Some((machine, what)) = machine_line(line)
                && self.plan.machine(machine).is_some()
            {
                ui.phase(machine, what);
            }
        };
        self.told.take();
        run(self.state.directory(), &words, &[(DRIVER, driver)], &said).await.map_err(|error| {
            error.hint("`cluster up` goes on where it stopped; `cluster down` takes everything away")
        })?;
        Ok(missing)
    }

    async fn power(&self, machine: &Machine) -> Result<Power> {
        if self.answers(machine).await {
            return Ok(Power::Running);
        }
        let states = self.states().await?;
        Ok(match states.get(&machine.name).map(String::as_str) {
            Some("running") => Power::Running,
            Some("paused" | "suspended") => Power::Paused,
            _ => Power::Stopped,
        })
    }

    async fn reach<'s>(
        &'s self,
        machine: &'s Machine,
        deadline: Instant,
        ui: &Ui,
    ) -> Result<Box<dyn Host + 's>> {
        let console = self.console(machine);
        Ok(Box::new(ssh::reach(self.plan, self.state, machine, &console, deadline, ui).await?))
    }

    async fn remove(&self, machine: &Machine) -> Result<()> {
        let words = ["destroy", "--force", "--no-tty", machine.name.as_str()];
        run(self.state.directory(), &words, &[], &|_| {}).await.map(drop)
    }

    async fn halt(&self, ui: &Ui) -> Result<()> {
        let said = |line: &str| {
            if let Some((machine, what)) = machine_line(line) {
                ui.phase(machine, what);
            }
        };
        run(self.state.directory(), &["halt", "--no-tty"], &[], &said).await.map(drop)
    }

    fn console(&self, machine: &Machine) -> PathBuf {
        self.state.path(&format!("machines/{}.console", machine.name))
    }

    fn shared_images(&self) -> Option<PathBuf> {
        None
    }
}

/// Takes away all that the Vagrantfile of a directory names. What is not there is no error.
pub(super) async fn destroy(directory: &Path) -> Result<()> {
    if !directory.join(vm::VAGRANTFILE).exists() {
        // The journal is written first: nothing was made yet.
        return Ok(());
    }
    run(directory, &["destroy", "--force", "--no-tty"], &[], &|_| {}).await.map(drop)
}

/// Runs Vagrant in a directory to its end; `said` is told each line of its output, which is returned.
async fn run(
    directory: &Path,
    words: &[&str],
    environment: &[(&str, &str)],
    said: &dyn Fn(&str),
) -> Result<String> {
    let doing = format!("vagrant {}", words.first().unwrap_or(&""));
    let mut child = Command::new(PROGRAM)
        .args(words)
        .current_dir(directory)
        .env("VAGRANT_CWD", directory)
        .env("VAGRANT_CHECKPOINT_DISABLE", "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::user("there is no vagrant on this host's PATH")
                .hint("install Vagrant with one of its providers: Debian has the packages vagrant and vagrant-libvirt")
                .hint("or use `provider: qemu`, which needs QEMU alone"),
            _ => Error::from(error).within(&doing),
        })?;
    let (out, err) = (child.stdout.take().context(&doing)?, child.stderr.take().context(&doing)?);
    let (out, err) = tokio::join!(lines(out, said), lines(err, said));
    let status = child.wait().await.context(&doing)?;
    if status.success() {
        return Ok(out);
    }
    let all = format!("{out}{err}");
    Err(Error::user(format!("{doing} failed"))
        .because(format!("it ended with {status}"))
        .because(super::last_lines(all.trim_end(), LINES)))
}

async fn lines(stream: impl AsyncRead + Unpin, said: &dyn Fn(&str)) -> String {
    let mut all = String::new();
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        said(&line);
        all.push_str(&line);
        all.push('\n');
    }
    all
}

/// Takes apart what Vagrant says of a machine: `==> m1: Booting…` and `    m1: …`.
fn machine_line(line: &str) -> Option<(&str, &str)> {
    let (machine, what) = line.trim_start_matches("==>").trim_start().split_once(": ")?;
    let word = !machine.is_empty() && machine.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    word.then(|| (machine, what.trim()))
}

/// Reads Vagrant's lines for machines: time, machine, kind, value.
fn parse_states(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(',').skip(1);
            let (machine, kind, value) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "state" && !machine.is_empty()).then(|| (machine.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vagrant_says_of_machines_is_understood() {
        assert_eq!(machine_line("==> m1: Starting domain."), Some(("m1", "Starting domain.")));
        assert_eq!(machine_line("    w1: SSH address: 1.2.3.4:22"), Some(("w1", "SSH address: 1.2.3.4:22")));
        assert_eq!(machine_line("Bringing machine 'm1' up with 'libvirt' provider..."), None);
        let states = parse_states(
            "1700000000,m1,metadata,provider,libvirt\n1700000000,m1,state,running\n1700000000,w1,state,shutoff\n\
             1700000000,,ui,info,Current machine states:\\n",
        );
        assert_eq!(states["m1"], "running");
        assert_eq!(states["w1"], "shutoff");
        assert_eq!(states.len(), 2);
    }
}
