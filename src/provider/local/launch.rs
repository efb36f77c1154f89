//! Starts a node: enters its control groups, unshares every namespace and becomes its init.
//!
//! Runs in a process of its own (the hidden subcommand `node-launch`) with a single thread, since namespaces
//! and forks are a matter of threads. It speaks with `cluster up` over its standard streams, a JSON line each:
//! it is given a [`LaunchConfig`], answers with [`Reply::Forked`], is told `go` once the cable is there, and
//! answers with [`Reply::Started`]. When `up` dies before `go`, the node dies with it.

#![expect(unsafe_code, reason = "fork has no safe interface")]

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, sethostname, setsid};
use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchy;
use super::net::Network;
use super::{init, root};
use crate::error::{Context, Error, Result};

/// What a node is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LaunchConfig {
    /// Its host name.
    pub(crate) hostname: String,
    /// The node's directory on the host, with etc, var, tmp and root in it.
    pub(crate) directory: PathBuf,
    /// The directory that becomes /opt/bin.
    pub(crate) programs: PathBuf,
    /// The directory that becomes /var/lib/images.
    pub(crate) images: PathBuf,
    /// The hierarchies to mount.
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// The node's own group in each of them.
    pub(crate) groups: Vec<PathBuf>,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The network that the address is in.
    pub(crate) network: Ipv4Net,
    /// Where packets to elsewhere go.
    pub(crate) gateway: Ipv4Addr,
}

/// What the launcher answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// The node's first process exists; this is its id on the host.
    Forked(i32),
    /// The node is up, and runs its units.
    Started,
    /// It failed, from the outside in.
    Failed(Vec<String>),
}

/// What `up` says once the cable is there.
pub(crate) const GO: &str = "go";

/// Runs the launcher.
pub(crate) fn main() -> ExitCode {
    let mut input = std::io::stdin().lock();
    match launch(&mut input) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // When nobody listens any more, nobody is left to be told.
            reply(&Reply::Failed(error.messages)).unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn reply(reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_string(reply).context("writing a reply")?;
    line.push('\n');
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes()).context("answering cluster up")?;
    output.flush().context("answering cluster up")
}

fn launch(input: &mut dyn BufRead) -> Result<()> {
    let mut line = String::new();
    input.read_line(&mut line).context("reading what to launch")?;
    let config: LaunchConfig = serde_json::from_str(&line).context("reading what to launch")?;
    for group in &config.groups {
        join(group)?;
    }
    // The cgroup namespace begins at the group that the process is in: the node's. Then it steps aside.
    let namespaces = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID;
    unshare(namespaces).context("making the node's namespaces")?;
    for group in &config.groups {
        join(&group.join("init"))?;
    }
    // SAFETY: this process has one thread, so the child's copy of it is whole.
    match unsafe { fork() }.context("forking the node's first process")? {
        ForkResult::Parent { child } => reply(&Reply::Forked(child.as_raw())),
        ForkResult::Child => begin(&config, input),
    }
}

fn join(group: &std::path::Path) -> Result<()> {
    fs_err::write(group.join("cgroup.procs"), "0").context("entering the node's control group")
}

/// Continues as the node's first process.
fn begin(config: &LaunchConfig, input: &mut dyn BufRead) -> Result<()> {
    setsid().context("leaving the terminal")?;
    let console =
        fs_err::OpenOptions::new().create(true).append(true).open(config.directory.join("console.log"))?;
    sethostname(&config.hostname).context("naming the node")?;
    root::enter(config)?;
    let mut line = String::new();
    input.read_line(&mut line).context("waiting for the cable")?;
    if line.trim() != GO {
        return Err(Error::user("cluster up ended before the node had its network"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting")?;
    runtime.block_on(async {
        let network = Network::open()?;
        network.configure_node(config.address, config.network, config.gateway).await
    })?;
    drop(runtime);
    let init = init::Init::begin()?;
    reply(&Reply::Started)?;
    let null = fs_err::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd()).context("closing standard input")?;
    dup2_stdout(console.as_fd()).context("moving output to the console's log")?;
    dup2_stderr(console.as_fd()).context("moving output to the console's log")?;
    drop((null, console));
    init.run()
}
