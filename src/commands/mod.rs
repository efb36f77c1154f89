//! The commands, a file each, and what they share.

mod down;
mod drain;
mod etcd;
mod executable;
mod generate;
pub(crate) mod image;
mod install;
mod kubeconfig;
mod logs;
mod master;
mod node;
mod ready;
mod ssh;
mod status;
mod up;
mod upgrade;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use ready::readiness;

use crate::cli::{Cli, Command, Global};
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, plan};
use crate::spec::{ClusterSpec, Document, Overrides, check, overlay, parse, refuse};
use crate::state::{Home, State};
use crate::ui::Ui;

/// How long a machine that runs may take to answer a command about it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The spec that is read when none is named.
const DEFAULT_FILE: &str = "cluster.yaml";

/// What every command works with.
pub(crate) struct Session<'a> {
    pub(crate) global: &'a Global,
    pub(crate) home: Home,
    pub(crate) ui: &'a Ui,
}

/// Runs a command. Returns the exit code.
pub(crate) async fn run(cli: &Cli, ui: &Ui) -> Result<u8> {
    let Cli { global, command } = cli;
    let session = Session { global, home: Home::resolve(global.state_dir.as_deref())?, ui };
    match command {
        Command::Up(arguments) => up::run(&session, arguments).await?,
        Command::Down { keep } => down::run(&session, *keep).await?,
        Command::Upgrade(arguments) => upgrade::run(&session, arguments).await?,
        Command::Master { action } => master::run(&session, action).await?,
        Command::Node { action } => node::run(&session, action).await?,
        Command::Status => status::run(&session).await?,
        Command::Ssh { machine, command } => return ssh::run(&session, machine, command).await,
        Command::Kubeconfig { action } => kubeconfig::run(&session, *action)?,
        Command::Plan { overrides } => generate::show_plan(&session, overrides)?,
        Command::Generate { directory, overrides } => generate::run(&session, directory, overrides)?,
        Command::Verify(arguments) => return crate::verify::run(&session, arguments).await,
        Command::List => status::list(&session).await?,
        Command::Logs { machine, unit, console, tail } => {
            logs::run(&session, machine, unit.as_deref(), *console, *tail).await?;
        }
        Command::Image { action } => image::run(&session, action).await?,
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            ui.answer(&format!("cluster {version}"), &serde_json::json!({ "version": version }));
        }
    }
    Ok(0)
}

impl Session<'_> {
    /// Returns the spec's file: the one that was named, or `cluster.yaml` where it exists.
    fn file(&self) -> Option<PathBuf> {
        self.global.file.clone().or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()))
    }

    fn document(&self) -> Result<(Document, String)> {
        let Some(path) = self.file() else { return Ok((Document::default(), DEFAULT_FILE.into())) };
        let source = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::usage(format!("reading {source}: {error}")).hint("give the spec's path to -f")
        })?;
        Ok((parse(&text).map_err(|problem| refuse(&source, &[problem]))?, source))
    }

    /// Returns the cluster's name.
    pub(crate) fn name(&self) -> Result<String> {
        if let Some(name) = &self.global.name {
            return Ok(name.clone());
        }
        let (document, source) = self.document()?;
        Ok(check(&document).map_err(|problems| refuse(&source, &problems))?.name)
    }

    /// Returns the spec from file, flags and defaults, without regard to what exists.
    pub(crate) fn asked(&self, overrides: &Overrides) -> Result<ClusterSpec> {
        let (mut document, source) = self.document()?;
        overlay(&mut document, self.global.name.as_deref(), overrides);
        let mut spec = check(&document).map_err(|problems| refuse(&source, &problems))?;
        let file = std::path::absolute(&source).context("making the spec's path absolute")?;
        spec.anchor(file.parent().unwrap_or(&file));
        Ok(spec)
    }

    /// Returns the spec to bring up: what is asked for, laid over what exists when no file is given.
    pub(crate) fn wanted(&self, overrides: &Overrides) -> Result<(ClusterSpec, State)> {
        let asked = self.asked(overrides)?;
        let state = self.home.cluster(&asked.name);
        let Some(saved) = state.spec()? else { return Ok((asked, state)) };
        let mut wanted = if self.file().is_some() { asked } else { overridden(&saved, &asked, overrides) };
        // What `node remove` took out stays out: no file says it.
        wanted.workers.absent.clone_from(&saved.workers.absent);
        wanted.masters.absent.clone_from(&saved.masters.absent);
        if let (Some(wanted), Some(saved)) = (&mut wanted.etcd, &saved.etcd) {
            wanted.joined.clone_from(&saved.joined);
        }
        crate::commands::up::compatible(&saved, &wanted)?;
        Ok((wanted, state))
    }

    /// Returns a cluster that exists, with its plan.
    pub(crate) fn existing(&self) -> Result<(Plan, State)> {
        let name = self.name()?;
        let state = self.home.cluster(&name);
        match state.spec()? {
            Some(spec) => Ok((plan(&spec), state)),
            None => Err(no_cluster(&name, &self.home)?),
        }
    }
}

fn overridden(saved: &ClusterSpec, asked: &ClusterSpec, overrides: &Overrides) -> ClusterSpec {
    let mut spec = saved.clone();
    if overrides.provider.is_some() {
        spec.provider = asked.provider;
    }
    if overrides.masters.is_some() {
        spec.masters.count = asked.masters.count;
        // Several masters share a store: whether that is possible is seen by comparing.
        spec.etcd = saved.etcd.clone().or_else(|| asked.etcd.clone());
    }
    if overrides.workers.is_some() {
        spec.workers.count = asked.workers.count;
    }
    if overrides.node_network.is_some()
        || overrides.pod_network.is_some()
        || overrides.service_network.is_some()
    {
        spec.network = asked.network.clone();
        spec.network.api = asked.network.api.or(saved.network.api);
    }
    spec
}

fn no_cluster(name: &str, home: &Home) -> Result<Error> {
    let known = home.list()?;
    let error = Error::user(format!("there is no cluster {name}"));
    Ok(if known.is_empty() {
        error.hint("run `cluster up`")
    } else {
        error.hint(format!("clusters here: {}; choose one by --name", known.join(", ")))
    })
}

/// Returns the machine of that name or address.
fn find_machine<'p>(plan: &'p Plan, name: &str) -> Result<&'p Machine> {
    plan.machine(name).ok_or_else(|| {
        let names: Vec<&str> = plan.machines.iter().map(|machine| machine.name.as_str()).collect();
        Error::user(format!("{} has no machine {name:?}", plan.spec.name))
            .hint(format!("its machines: {}", names.join(", ")))
    })
}

/// Returns a client for the cluster of a kubeconfig's text.
pub(crate) async fn client(kubeconfig: &str, context: Option<&str>) -> Result<kube::Client> {
    let parsed: kube::config::Kubeconfig =
        serde_yaml::from_str(kubeconfig).map_err(|error| Error::user(error.without_snippet().to_string()))?;
    let options =
        kube::config::KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
    let config =
        kube::Config::from_custom_kubeconfig(parsed, &options).await.context("reading the kubeconfig")?;
    kube::Client::try_from(config).context("setting up the client")
}
