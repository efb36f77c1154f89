//! The program: arguments, configuration, the order in which the parts start and end.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use apiserver::ApiServer;
use clap::Parser;
use futures::future::BoxFuture;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::Backoff;
use machinery::tasks::Tasks;
use machinery::tls::{self, Identity};
use machinery::{clock, service};
use network::shared::SharedAddress;
use sha2::{Digest, Sha256};
use store::{EmbeddedStore, EtcdOptions, EtcdStore, EtcdTls, Options, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::leading::Leading;
use crate::{Config, StoreConfig, shared};

/// Run the control plane of a cluster: API server, controllers, scheduler and store
#[derive(Debug, Parser)]
#[command(name = "control-plane", version)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/kubernetes/control-plane.yaml")]
    config: PathBuf,
}

/// Runs the program with `arguments`, the first of which is its name, until it is asked to end.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let Arguments { config } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go here, too. Nobody is left to tell when the terminal is gone.
            let _closed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    machinery::log::init("info");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build();
    let ended =
        runtime.context("starting the async runtime").and_then(|runtime| runtime.block_on(run(&config)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(path: &Path) -> anyhow::Result<()> {
    let text = fs_err::read_to_string(path)?;
    let config: Config = serde_yaml::from_str(&text)
        .with_context(|| format!("reading the configuration {}", path.display()))?;
    let (clock, random) = (clock::system(), Random::from_os());
    let tasks = Tasks::new(CancellationToken::new());

    let store = open_store(&config, &clock, &random).await?;
    let server =
        ApiServer::open(api_config(&config)?, store.clone(), clock.clone(), random.clone(), tasks.clone())
            .await?;
    listen(&config, &server).await?;
    if let Some(address) = config.shared_address {
        share(&config, address, store, &clock, &random, &tasks)?;
    }

    let identity = format!("{}_{}", config.advertise_address, random.uid());
    let leading =
        Leading { server: server.clone(), controllers: controllers_config(&config)?, clock, random };
    match config.store {
        StoreConfig::Embedded => leading.alone(&tasks),
        StoreConfig::Etcd(_) => leading.among_several(&identity, &tasks),
    }

    service::notify_ready().context("telling the init that the control plane is ready")?;
    tracing::info!(address = %config.advertise_address, port = config.port, "ready");
    let stopped = tasks.token();
    let ended = tokio::select! {
        signal = service::asked_to_end() => signal.map(|signal| tracing::info!(signal, "ending")).map_err(Into::into),
        () = stopped.cancelled() => Err(anyhow::anyhow!("a part of the control plane has failed; see the lines above")),
    };
    server.leave().await;
    tasks.stop().await;
    ended
}

/// Takes part in who of the masters has their shared address.
fn share(
    config: &Config,
    address: Ipv4Addr,
    store: Arc<dyn Store>,
    clock: &SharedClock,
    random: &Random,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let IpAddr::V4(own) = config.advertise_address else {
        bail!("sharedAddress {address} is of IPv4, and advertiseAddress {} is not", config.advertise_address);
    };
    let (port, clock, random) = (config.port, clock.clone(), random.clone());
    tasks.spawn("shared address", async move {
        let works = move || -> BoxFuture<'static, bool> {
            let store = store.clone();
            Box::pin(async move { store.get("/health").await.is_ok() })
        };
        for failures in 0.. {
            let taking_part = async {
                let shared = SharedAddress::open(own, address, port).await?;
                shared::run(&shared, &works, &clock, &random).await
            };
            // A link that is down may come back.
            let Err(error) = taking_part.await;
            tracing::warn!(%address, %error, "taking part in the masters' shared address");
            clock.after(Backoff::QUICK.delay(failures, &random)).await;
        }
    });
    Ok(())
}

async fn open_store(config: &Config, clock: &SharedClock, random: &Random) -> anyhow::Result<Arc<dyn Store>> {
    let etcd = match &config.store {
        StoreConfig::Embedded => {
            let store = EmbeddedStore::open(&config.data_directory, Options::default(), clock.clone())?;
            return Ok(Arc::new(store));
        }
        StoreConfig::Etcd(etcd) => etcd,
    };
    let options = EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        tls: Some(EtcdTls { ca: etcd.ca.clone(), cert: etcd.cert.clone(), key: etcd.key.clone() }),
        prefix: etcd.prefix.clone(),
        owner: owner(config)?,
        memory: Some(config.data_directory.join("etcd-cluster")),
    };
    Ok(Arc::new(EtcdStore::open(options, clock.clone(), random.clone()).await?))
}

/// Returns what all masters of this cluster have and no other cluster has: its name and the fingerprint of its
/// authority.
fn owner(config: &Config) -> anyhow::Result<String> {
    let authorities = tls::certificates(&config.pki.ca_certificate)?;
    let first = authorities.first().context("the certificate authority is missing")?;
    let digest: String = Sha256::digest(first).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} {digest}", config.cluster_name))
}

fn api_config(config: &Config) -> anyhow::Result<apiserver::Config> {
    let pki = &config.pki;
    let kubelet_client = apiserver::KubeletClient {
        authorities: tls::certificates(&pki.ca_certificate)?,
        identity: Identity::read(&pki.kubelet_client_certificate, &pki.kubelet_client_key)?,
    };
    Ok(apiserver::Config {
        advertise_address: config.advertise_address,
        port: config.port,
        service_network: config.service_network,
        dns_address: config.dns_address,
        cluster_domain: config.cluster_domain.clone(),
        node_ports: config.node_port_range.0..=config.node_port_range.1,
        several_masters: config.store != StoreConfig::Embedded,
        pki: apiserver::Pki {
            ca_certificate: fs_err::read_to_string(&pki.ca_certificate)?,
            service_account_key: fs_err::read_to_string(&pki.service_account_key)?,
            kubelet_client: Some(kubelet_client),
            front_proxy: pki.front_proxy.as_ref().map(front_proxy).transpose()?,
        },
        audit: config.audit.as_ref().map(audit_settings).transpose()?,
        static_tokens: match &config.token_file {
            None => apiserver::access::StaticTokens::default(),
            Some(path) => apiserver::access::StaticTokens::parse(&fs_err::read_to_string(path)?)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?,
        },
    })
}

fn front_proxy(files: &crate::FrontProxy) -> anyhow::Result<apiserver::FrontProxy> {
    Ok(apiserver::FrontProxy {
        authority: fs_err::read_to_string(&files.ca_certificate)?,
        identity: Identity::read(&files.certificate, &files.key)?,
    })
}

fn audit_settings(audit: &crate::config::Audit) -> anyhow::Result<apiserver::audit::Settings> {
    let policy = match &audit.policy_file {
        None => apiserver::audit::Policy::default(),
        Some(path) => apiserver::audit::Policy::parse(&fs_err::read_to_string(path)?)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?,
    };
    Ok(apiserver::audit::Settings {
        policy,
        log: apiserver::audit::LogFile {
            path: audit.log_path.clone(),
            max_bytes: audit.max_megabytes << 20,
            max_backups: audit.max_backups,
        },
    })
}

async fn listen(config: &Config, server: &Arc<ApiServer>) -> anyhow::Result<()> {
    let address = (config.advertise_address, config.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {}:{}", config.advertise_address, config.port))?;
    let identity = Identity::read(&config.pki.serving_certificate, &config.pki.serving_key)?;
    let tls = tls::server(identity, &tls::certificates(&config.pki.ca_certificate)?)?;
    // The sender may go: whoever accepts connections reads the last value.
    let (_sender, tls) = watch::channel(Arc::new(tls));
    server.serve(listener, tls);
    Ok(())
}

fn controllers_config(config: &Config) -> anyhow::Result<controllers::Config> {
    Ok(controllers::Config {
        pod_network: config.pod_network,
        node_prefix: config.node_prefix,
        dns_address: config.dns_address,
        load_balancer_range: config.load_balancer_range,
        ca_certificate: fs_err::read_to_string(&config.pki.ca_certificate)?,
        ca_key: Some(config.pki.ca_key.clone()),
    })
}
