//! The local provider: a machine is a set of namespaces of this Linux machine, on a bridge.
//!
//! What it makes on the host, all of it in the journal before it is there: one bridge, one cable for each
//! node, one control group for each node in every hierarchy. Namespaces and mounts live as long as the node's
//! first process. The host's firewall and forwarding are left alone: nodes reach each other and the host, and
//! what is behind the host only where the host forwards and masquerades by itself.

mod cgroup;
mod exec;
mod host;
mod init;
mod launch;
pub(super) mod net;
mod root;
mod wait;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::artifacts::File;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Unit, bridge_name, cable_name};
use crate::provider::Status;
use crate::state::{Made, State};
use cgroup::Hierarchy;
use exec::ExecConfig;
use init::{Request, SOCKET, UNITS};
use launch::{GO, LaunchConfig, Reply};
pub(crate) use net::{Network, Occupied};

/// The PATH within a node.
const NODE_PATH: &str = "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a node's first process may take to be gone after it was told to end.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Runs a hidden subcommand if `arguments` name one. Called before any thread is there.
pub(crate) fn helper(arguments: &[OsString]) -> Option<ExitCode> {
    let word = |index: usize| arguments.get(index).and_then(|argument| argument.to_str());
    match word(1) {
        Some("node-launch") => Some(launch::main()),
        Some("node-exec") => Some(exec::main(word(2).unwrap_or_default())),
        _ => None,
    }
}

/// The machines of one cluster.
pub(crate) struct Local<'a> {
    plan: &'a Plan,
    state: &'a State,
    /// The machines that this command has started.
    started: RefCell<Vec<String>>,
    /// This command has brought another executable than was there.
    new_executable: Cell<bool>,
    /// Other programs of which that is so.
    new_programs: RefCell<BTreeSet<String>>,
}

/// The first process of a machine, told from another one that has the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Process {
    pid: i32,
    /// Clock ticks after the boot.
    started: u64,
    boot: String,
    groups: Vec<PathBuf>,
}

impl Process {
    fn find(pid: i32, groups: Vec<PathBuf>) -> Result<Self> {
        let started = start_time(pid).context(format!("process {pid} is gone"))?;
        Ok(Self { pid, started, boot: boot_id()?, groups })
    }

    fn alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot) && start_time(self.pid) == Some(self.started)
    }
}

fn boot_id() -> Result<String> {
    Ok(fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Returns when a process began; `None` when there is none, or only what is left of one.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    (fields.first() != Some(&"Z")).then_some(())?;
    fields.get(19)?.parse().ok()
}

/// A node on its way up.
struct Launch<'a> {
    machine: &'a Machine,
    child: Child,
    replies: BufReader<std::process::ChildStdout>,
    groups: Vec<PathBuf>,
}

impl<'a> Local<'a> {
    /// Returns the machines of `plan`, kept in `state`.
    pub(crate) fn new(plan: &'a Plan, state: &'a State) -> Self {
        Self {
            plan,
            state,
            started: RefCell::default(),
            new_executable: Cell::new(false),
            new_programs: RefCell::default(),
        }
    }

    fn node_directory(&self, machine: &str) -> PathBuf {
        self.state.path(&format!("nodes/{machine}"))
    }

    fn process(&self, machine: &str) -> Result<Option<Process>> {
        let process: Option<Process> = self.state.read_json(&format!("nodes/{machine}/machine.json"))?;
        Ok(process.filter(Process::alive))
    }

    /// Returns whether the machine runs.
    fn running(&self, machine: &Machine) -> Result<bool> {
        Ok(self.process(&machine.name)?.is_some())
    }

    /// Starts every machine that does not run; returns the names of those it started.
    async fn start(&self) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for machine in &self.plan.machines {
            if self.process(&machine.name)?.is_none() {
                missing.push(machine);
            }
        }
        let network = &self.plan.spec.network;
        let bridge = bridge_name(&self.plan.spec.name);
        let hierarchies = cgroup::hierarchies()?;
        let groups = cgroup::cluster_groups(&hierarchies, &self.plan.spec.name);
        let cables = self.plan.machines.iter().map(|machine| cable_name(&self.plan.spec.name, &machine.name));
        let made: Vec<Made> = cables
            .map(Made::Link)
            .chain([Made::Link(bridge.clone()), Made::Table(bridge.clone())])
            .chain(groups.iter().cloned().map(Made::Cgroup))
            .collect();
        self.state.record(&made)?;
        let kernel = Network::open()?;
        let mac = crate::plan::mac(self.plan.spec.provider, network.host);
        let name = bridge;
        let (bridge, _) = kernel.ensure_bridge(&name, network.host, network.nodes, &mac).await?;
        self.open_outside(&kernel, &name).await?;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        // All at once: a node spends most of its start in the kernel.
        let mut launches = Vec::new();
        for machine in missing {
            launches.push(self.launch(machine, &hierarchies, &groups).await?);
        }
        let mut started = Vec::new();
        let mut processes = Vec::new();
        for launch in &mut launches {
            let pid = launch.forked()?;
            let cable = cable_name(&self.plan.spec.name, &launch.machine.name);
            kernel.cable(&cable, bridge, pid, &launch.machine.mac).await?;
            launch.go()?;
            processes.push((launch.machine, pid));
        }
        for (launch, (machine, pid)) in launches.iter_mut().zip(processes) {
            launch.started()?;
            let process = Process::find(pid, launch.groups.clone())?;
            self.state.write_json(&format!("nodes/{}/machine.json", machine.name), &process)?;
            started.push(machine.name.clone());
        }
        Ok(started)
    }

    /// Lets the machines reach what is behind the host: it forwards for them, and lends them its address.
    async fn open_outside(&self, kernel: &Network, bridge: &str) -> Result<()> {
        network::gateway::open(bridge, self.plan.spec.network.nodes)
            .context("opening the way to the outside")?;
        network::gateway::forward(bridge).context("opening the way to the outside")?;
        for uplink in kernel.uplinks().await? {
            // A second cluster finds it done, and must not undo it: only who changed it has it in the journal.
            if !network::gateway::forwards(&uplink).context("opening the way to the outside")? {
                self.state.record(&[Made::Forwarding(uplink.clone())])?;
                network::gateway::forward(&uplink).context("opening the way to the outside")?;
            }
        }
        Ok(())
    }

    async fn launch<'m>(
        &self,
        machine: &'m Machine,
        hierarchies: &[Hierarchy],
        groups: &[PathBuf],
    ) -> Result<Launch<'m>> {
        let directory = self.node_directory(&machine.name);
        // What an `up` that was killed has left half done.
        let nodes: Vec<PathBuf> = groups.iter().map(|group| group.join(&machine.name)).collect();
        cgroup::destroy(&nodes).await?;
        let groups = cgroup::create(hierarchies, groups, &machine.name, machine.milli_cpus, machine.memory)?;
        self.furnish(machine, &directory)?;
        let config = LaunchConfig {
            hostname: machine.name.clone(),
            directory,
            programs: self.state.path("bin"),
            images: self.state.path("images"),
            hierarchies: hierarchies.to_vec(),
            groups: groups.clone(),
            address: machine.address,
            network: self.plan.spec.network.nodes,
            gateway: self.plan.spec.network.host,
        };
        let mut child = Command::new("/proc/self/exe")
            .arg0("cluster")
            .arg("node-launch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context(format!("starting {}", machine.name))?;
        let mut line = serde_json::to_string(&config).context("writing the launch configuration")?;
        line.push('\n');
        let input = child.stdin.as_mut().context("the launcher has no input")?;
        input.write_all(line.as_bytes()).context(format!("starting {}", machine.name))?;
        let replies = BufReader::new(child.stdout.take().context("the launcher has no output")?);
        Ok(Launch { machine, child, replies, groups })
    }

    /// Makes the node's directory: what it calls its own.
    fn furnish(&self, machine: &Machine, directory: &Path) -> Result<()> {
        let temporary = directory.join("tmp");
        if temporary.exists() {
            fs_err::remove_dir_all(&temporary)?;
        }
        for name in ["etc", "var/lib", "var/log", "var/cache", "var/spool", "var/tmp", "tmp", "root"] {
            fs_err::create_dir_all(directory.join(name))?;
        }
        for open in ["tmp", "var/tmp"] {
            fs_err::set_permissions(directory.join(open), std::fs::Permissions::from_mode(0o1777))?;
        }
        for (link, target) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
            if std::fs::symlink_metadata(directory.join(link)).is_err() {
                std::os::unix::fs::symlink(target, directory.join(link))
                    .context(format!("linking {link}"))?;
            }
        }
        for file in self.own_etc(machine) {
            put(&directory.join("etc").join(&file.path), &file)?;
        }
        let id = directory.join("etc/machine-id");
        if !id.exists() {
            let id = machinery::names::Random::from_os().uid().replace('-', "");
            let file = File { path: "machine-id".into(), contents: format!("{id}\n").into(), mode: 0o444 };
            put(&directory.join("etc/machine-id"), &file)?;
        }
        Ok(())
    }

    /// Returns the files of a node's own /etc that do not depend on the cluster.
    fn own_etc(&self, machine: &Machine) -> Vec<File> {
        let file = |path: &str, contents: Vec<u8>, mode: u32| File { path: path.into(), contents, mode };
        let mut files: Vec<File> = [
            "passwd",
            "group",
            "nsswitch.conf",
            "host.conf",
            "gai.conf",
            "services",
            "protocols",
            "rpc",
            "shells",
            "profile",
            "bash.bashrc",
            "inputrc",
            "environment",
            "ld.so.cache",
            "ld.so.conf",
            "localtime",
            "os-release",
        ]
        .into_iter()
        .filter_map(|name| Some(file(name, std::fs::read(Path::new("/etc").join(name)).ok()?, 0o644)))
        .collect();
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        for other in &self.plan.machines {
            hosts.push_str(&format!("{} {}\n", other.address, other.name));
        }
        files.push(file("hosts", hosts.into(), 0o644));
        files.push(file("hostname", format!("{}\n", machine.name).into(), 0o644));
        files.push(file("resolv.conf", resolv_conf().into(), 0o644));
        files
    }

    /// Writes files into a machine; returns whether any of them changed.
    fn write(&self, machine: &Machine, files: &[File]) -> Result<bool> {
        let directory = self.node_directory(&machine.name);
        let mut changed = false;
        for file in files {
            let relative = file.path.strip_prefix('/').unwrap_or(&file.path);
            if !relative.starts_with("etc/") {
                return Err(Error::internal(format!("{} is not a place for a node's files", file.path)));
            }
            changed |= put(&directory.join(relative), file)?;
        }
        Ok(changed)
    }

    /// Describes the units to a machine, and restarts them when `restart`; returns whether any is new.
    fn set_units(&self, machine: &Machine, units: &[Unit], restart: bool) -> Result<bool> {
        let mut changed = false;
        for unit in units {
            let contents = serde_json::to_vec_pretty(unit).context("describing a unit")?;
            let path = format!("{UNITS}/{}.json", unit.name);
            changed |= self.write(machine, &[File { path, contents, mode: 0o644 }])?;
        }
        let names = if restart { units.iter().map(|unit| unit.name.clone()).collect() } else { Vec::new() };
        if changed || restart {
            let mut stream = self.ask(machine, &Request::Reload(names))?;
            next_status(&mut stream)?;
        }
        Ok(changed)
    }

    fn ask(&self, machine: &Machine, request: &Request) -> Result<BufReader<UnixStream>> {
        let process = self.process(&machine.name)?.ok_or_else(|| not_running(machine))?;
        // The path through /proc leads into the node's own mounts.
        let path = format!("/proc/{}/root{SOCKET}", process.pid);
        let mut stream =
            UnixStream::connect(&path).context(format!("asking the init of {}", machine.name))?;
        let mut line = serde_json::to_string(request).context("asking init")?;
        line.push('\n');
        stream.write_all(line.as_bytes()).context(format!("asking the init of {}", machine.name))?;
        Ok(BufReader::new(stream))
    }

    /// Returns how a machine's units are.
    fn status(&self, machine: &Machine) -> Result<Status> {
        next_status(&mut self.ask(machine, &Request::Watch)?)
    }

    /// Calls `seen` with the status of a machine's units now and after each change, until it returns false.
    /// Gives up at `deadline`, and then returns false.
    fn watch(
        &self,
        machine: &Machine,
        deadline: Instant,
        seen: &mut crate::provider::Seen<'_>,
    ) -> Result<bool> {
        let mut stream = self.ask(machine, &Request::Watch)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            stream.get_ref().set_read_timeout(Some(left))?;
            match next_status(&mut stream) {
                Ok(status) if !seen(&status) => return Ok(true),
                Ok(_) => {}
                Err(_) if Instant::now() >= deadline => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a process that runs `command` in a machine once it is spawned or exec'ed.
    fn command(&self, machine: &Machine, command: &[String], terminal: bool) -> Result<Command> {
        let process = self.process(&machine.name)?.ok_or_else(|| not_running(machine))?;
        let mut environment: BTreeMap<String, String> = [
            ("PATH", NODE_PATH),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("KUBECONFIG", "/etc/kubernetes/node-agent.kubeconfig"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for inherited in ["TERM", "LANG", "COLORTERM"] {
            if let Ok(value) = std::env::var(inherited) {
                environment.insert(inherited.into(), value);
            }
        }
        let config = ExecConfig {
            pid: process.pid,
            groups: process.groups,
            command: command.to_vec(),
            environment,
            terminal,
        };
        let argument = serde_json::to_string(&config).context("describing the command")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cluster").arg("node-exec").arg(argument);
        Ok(command)
    }

    /// Returns the path on this host of a machine's file.
    fn host_path(&self, machine: &Machine, path: &str) -> PathBuf {
        self.node_directory(&machine.name).join(path.strip_prefix('/').unwrap_or(path))
    }

    /// Ends one machine, and its control groups with it.
    async fn end(&self, machine: &Machine) -> Result<()> {
        if let Some(process) = self.process(&machine.name)? {
            kill(Pid::from_raw(process.pid), Signal::SIGTERM).context(format!("ending {}", machine.name))?;
            wait::until_gone(process.pid, SHUTDOWN)?;
        }
        let groups = cgroup::cluster_groups(&cgroup::hierarchies()?, &self.plan.spec.name);
        let own: Vec<PathBuf> = groups.iter().map(|group| group.join(&machine.name)).collect();
        cgroup::destroy(&own).await
    }

    /// Ends every machine in order, so that nothing is lost but what was not written yet.
    fn stop(&self) -> Result<()> {
        let mut processes = Vec::new();
        for machine in &self.plan.machines {
            if let Some(process) = self.process(&machine.name)? {
                kill(Pid::from_raw(process.pid), Signal::SIGTERM)
                    .context(format!("ending {}", machine.name))?;
                processes.push(process);
            }
        }
        for process in processes {
            wait::until_gone(process.pid, SHUTDOWN)?;
        }
        Ok(())
    }
}

impl Launch<'_> {
    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.replies.read_line(&mut line).context(format!("starting {}", self.machine.name))?;
        if line.is_empty() {
            return Err(Error::user(format!("starting {}", self.machine.name))
                .because("its first process ended without a word")
                .hint("look into console.log in the node's state directory, and at the kernel's log"));
        }
        match serde_json::from_str(&line).context("reading the launcher's answer")? {
            Reply::Failed(messages) => {
                let mut error = Error::user(format!("starting {}", self.machine.name));
                error.messages.extend(messages);
                Err(error)
            }
            reply => Ok(reply),
        }
    }

    fn forked(&mut self) -> Result<i32> {
        match self.reply()? {
            Reply::Forked(pid) => Ok(pid),
            other => Err(Error::internal(format!("the launcher answered {other:?} out of turn"))),
        }
    }

    fn go(&mut self) -> Result<()> {
        let input = self.child.stdin.as_mut().context("the launcher has no input")?;
        writeln!(input, "{GO}").context(format!("starting {}", self.machine.name))
    }

    fn started(&mut self) -> Result<()> {
        let reply = self.reply()?;
        // The launcher itself has ended; the node is its child.
        self.child.wait().context(format!("starting {}", self.machine.name))?;
        match reply {
            Reply::Started => Ok(()),
            other => Err(Error::internal(format!("the launcher answered {other:?} out of turn"))),
        }
    }
}

fn not_running(machine: &Machine) -> Error {
    Error::user(format!("{} ({}) does not run", machine.name, machine.address)).hint("run `cluster up`")
}

fn next_status(stream: &mut BufReader<UnixStream>) -> Result<Status> {
    let mut line = String::new();
    stream.read_line(&mut line).context("listening to the node's init")?;
    if line.is_empty() {
        return Err(Error::user("the node's init has ended").hint("run `cluster up`"));
    }
    serde_json::from_str(&line).context("listening to the node's init")
}

/// Writes a file unless it has these contents and mode already; returns whether it did.
fn put(path: &Path, file: &File) -> Result<bool> {
    if let (Ok(contents), Ok(metadata)) = (std::fs::read(path), std::fs::metadata(path))
        && contents == file.contents
        && metadata.permissions().mode() & 0o7777 == file.mode
    {
        return Ok(false);
    }
    machinery::files::replace(path, &file.contents, file.mode)
        .context(format!("writing {}", path.display()))?;
    Ok(true)
}

/// Copies the executable `own` into `directory` under its names, unless it is there already.
///
/// It is copied and not linked, so that a build or an upgrade of the original never meets a running node.
fn install_executable(own: &Path, directory: &Path) -> Result<bool> {
    fs_err::create_dir_all(directory)?;
    let changed = copy_program(own, directory, "cluster")?;
    for name in ["control-plane", "node-agent"] {
        let link = directory.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("cluster", &link).context(format!("linking {name}"))?;
        }
    }
    Ok(changed)
}

/// Copies an executable into `directory` as `name`, unless it is there already.
fn copy_program(source: &Path, directory: &Path, name: &str) -> Result<bool> {
    let target = directory.join(name);
    if same_executable(source, &target) {
        return Ok(false);
    }
    let temporary = directory.join(format!(".{name}-new"));
    std::fs::copy(source, &temporary).context(format!("copying the executable of {name}"))?;
    fs_err::set_permissions(&temporary, std::fs::Permissions::from_mode(0o755))?;
    let modified = fs_err::metadata(source)?.modified()?;
    fs_err::OpenOptions::new().write(true).open(&temporary)?.file().set_modified(modified)?;
    fs_err::rename(&temporary, &target)?;
    Ok(true)
}

/// Compares size and time, as make and rsync do: the copy is given the time of its original.
fn same_executable(own: &Path, target: &Path) -> bool {
    match (std::fs::metadata(own), std::fs::metadata(target)) {
        (Ok(own), Ok(there)) => own.len() == there.len() && own.modified().ok() == there.modified().ok(),
        _ => false,
    }
}

/// Returns the host's resolver configuration without the name servers that only the host itself can reach.
fn resolv_conf() -> String {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| {
                let server = line.strip_prefix("nameserver").map(str::trim);
                server.is_none_or(|server| !server.starts_with("127.") && server != "::1")
            })
            .collect();
        if lines.iter().any(|line| line.starts_with("nameserver")) {
            return lines.join("\n") + "\n";
        }
    }
    String::new()
}

/// Takes away what the journal says was made on this host, whether or not the machines still run.
pub(crate) async fn destroy(made: &[Made]) -> Result<()> {
    let groups: Vec<PathBuf> = made
        .iter()
        .filter_map(|made| if let Made::Cgroup(path) = made { Some(path.clone()) } else { None })
        .collect();
    cgroup::destroy(&groups).await?;
    let kernel = Network::open()?;
    for made in made {
        match made {
            Made::Link(name) => kernel.remove(name).await?,
            Made::Table(name) => {
                network::gateway::close(name).context(format!("removing the table {name}"))?;
            }
            Made::Forwarding(_) | Made::Cgroup(_) => {}
            Made::Virtual(_) | Made::Vagrant(_) | Made::Context(_) => {}
        }
    }
    Ok(())
}

/// Takes back what was changed on interfaces of the host, or leaves that to a cluster that still needs it.
pub(crate) fn restore_forwarding(made: &[Made], others: &[State]) -> Result<()> {
    let changed: Vec<Made> =
        made.iter().filter(|made| matches!(made, Made::Forwarding(_))).cloned().collect();
    for other in others {
        let uses_it = other.journal()?.iter().any(|made| matches!(made, Made::Table(_)));
        // A cluster that is being changed at this moment cannot take it over; the next one may.
        if uses_it && let Ok(_lock) = other.lock() {
            return other.record(&changed);
        }
    }
    for made in changed {
        if let Made::Forwarding(name) = made {
            network::gateway::forward_no_more(&name)
                .context(format!("restoring the forwarding of {name}"))?;
        }
    }
    Ok(())
}
