//! The wiring of the agent, from its configuration to its end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use client::{Informers, Recorder};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use runtime::{Runtime, builtin, cri};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::collect;
use crate::config::{Config, RuntimeChoice};
use crate::end;
use crate::kubelet;
use crate::node::{self, Health, Machine};
use crate::objects::Objects;
use crate::pods::{self, Images, Pods};
use crate::rotate;
use crate::wiring::{self, Feeds, NodeNetwork};

/// Runs pods on this node
#[derive(Debug, Parser)]
#[command(name = "node-agent", version)]
struct Arguments {
    /// The configuration file
    #[arg(long, default_value = "/etc/kubernetes/node-agent.yaml", env = "NODE_AGENT_CONFIG")]
    config: PathBuf,
    /// Ends every container of this node and returns: for a machine that shuts down
    #[arg(long)]
    end_pods: bool,
}

/// The program: reads its arguments and configuration, and runs until it is told to end.
#[must_use]
pub fn main<I>(arguments: I) -> ExitCode
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let Arguments { config, end_pods } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nobody is left to tell when this cannot be printed.
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    // The client library calls each refused connection an error; whoever asked says so better.
    machinery::log::init("info");
    match start(&config, end_pods) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(path: &Path, end_pods: bool) -> anyhow::Result<()> {
    let text = fs_err::read_to_string(path).context("reading the configuration")?;
    let config: Config = serde_yaml::from_str(&text)
        .with_context(|| format!("reading the configuration {}", path.display()))?;
    // Pods wait for input and output far more than they compute: two threads are enough, and each has a price.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("starting the threads")?;
    let (clock, random) = (machinery::clock::system(), Random::from_os());
    runtime.block_on(async {
        if end_pods {
            return end::end_pods(&config, &clock, &random).await;
        }
        let ended = machinery::service::asked_to_end();
        tokio::select! {
            outcome = run(config, clock, random) => outcome,
            signal = ended => {
                let signal = signal.context("waiting for a signal")?;
                tracing::info!(signal, "ending; pods keep running");
                Ok(())
            }
        }
    })
}

/// Runs the agent until something it cannot do without fails. Dropping the future ends it; pods keep running.
///
/// # Errors
/// What failed.
pub async fn run(config: Config, clock: SharedClock, random: Random) -> anyhow::Result<()> {
    let tasks = Tasks::new(CancellationToken::new());
    let _end = tasks.token().drop_guard();
    let (sandbox_network, opened) = NodeNetwork::new();
    let machine = Machine::read(&config.data_directory);
    let listener = kubelet::listen(&config).await.context("opening the kubelet API")?;
    let (client, runtime) = tokio::try_join!(
        async {
            client::connect::from_kubeconfig(&config.kubeconfig, &config.servers)
                .await
                .context("connecting to the API")
        },
        open_runtime(&config, sandbox_network, &clock, &random)
    )?;
    let version = node::runtime_version(runtime.as_ref()).await.context("asking the container runtime")?;
    let informers = Informers::new(client.clone(), clock.clone(), random.clone(), tasks.clone());
    let recorder = Recorder::start(client.clone(), "kubelet", Some(&config.node_name), clock.clone(), &tasks);
    let registered = node::register(&client, &config, &machine, &version, &clock, &random)
        .await
        .context("registering the node")?;
    tracing::info!(node = config.node_name, "registered");
    let feeds = Feeds::start(&informers);
    let own_pods = pods::informer(&informers, &config.node_name);
    let agent = Arc::new(Agent {
        services: informers.of(),
        objects: Objects::new(informers),
        images: Images::default(),
        pods: Pods::default(),
        client,
        runtime,
        clock,
        random,
        recorder,
        machine,
        config,
        tasks: tasks.clone(),
    });
    let (health, healthy) =
        watch::channel(Health { not_ready: Some(node::NO_NETWORK.into()), ..Health::default() });
    tasks.spawn("pod network", wiring::pod_network(agent.clone(), feeds.clone(), opened, health));
    tasks.spawn("lease", node::keep_lease(agent.clone(), registered.clone()));
    let nodes = feeds.nodes();
    tasks.spawn("node status", node::keep_status(agent.clone(), registered, version, nodes, healthy));
    tasks.spawn("service proxy", wiring::proxy(agent.clone(), feeds.clone()));
    tasks.spawn("cluster DNS", wiring::dns(agent.clone(), feeds.clone()));
    tasks.spawn("load balancer", wiring::load_balancer(agent.clone(), feeds));
    tasks.spawn("log rotation", rotate::run(agent.clone()));
    tasks.spawn("image collection", collect::run(agent.clone()));
    tasks.spawn("kubelet API", kubelet::serve(agent.clone(), listener));
    machinery::service::notify_ready().context("telling the init that the node is ready")?;
    tokio::select! {
        outcome = pods::run(agent, own_pods) => outcome.context("running pods"),
        () = tasks.token().cancelled_owned() => bail!("a part of the agent has failed; its reason is above"),
    }
}

/// Opens the engine that the configuration names.
pub(crate) async fn open_runtime(
    config: &Config,
    network: NodeNetwork,
    clock: &SharedClock,
    random: &Random,
) -> anyhow::Result<Arc<dyn Runtime>> {
    match config.runtime {
        RuntimeChoice::Builtin => {
            let engine = builtin::Engine::open(builtin::EngineConfig {
                data_directory: config.data_directory.join("engine"),
                run_directory: config.run_directory.clone(),
                image_directory: config.image_directory.clone(),
                cgroup_root: config.cgroup_root.clone(),
                registry_mirrors: config.registry_mirrors.clone(),
                shim_executable: "/proc/self/exe".into(),
                network: Arc::new(network),
                clock: clock.clone(),
                random: random.clone(),
            })
            .await
            .context("opening the container engine")?;
            Ok(Arc::new(engine))
        }
        RuntimeChoice::Cri => {
            let engine = cri::Engine::open(cri::EngineConfig {
                socket: config.runtime_endpoint.clone(),
                data_directory: config.data_directory.join("engine"),
                run_directory: config.run_directory.clone(),
                cgroup_root: config.cgroup_root.clone(),
                registry_mirrors: config.registry_mirrors.clone(),
                executable: std::env::current_exe().context("finding this executable")?,
                network: Arc::new(network),
                clock: clock.clone(),
                random: random.clone(),
            })
            .await
            .context("opening the node's container runtime")?;
            Ok(Arc::new(engine))
        }
    }
}
