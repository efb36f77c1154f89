//! The long steps of a pod's life, each run beside the pod's task: making its sandbox, starting a container,
//! stopping one, taking everything away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::Pod;
use machinery::files;
use nix::mount::{MntFlags, umount2};
use runtime::{ContainerStatus, DnsConfig, SandboxStatus};
use tokio_util::sync::CancellationToken;

use super::model::{Waiting, find_container, spec};
use super::plan::Start;
use super::{container, env, hooks, images, labels, sandbox};
use crate::agent::Agent;
use crate::volumes;

/// The least a container is given to end after its preStop hook used up the grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Makes the sandbox of a pod.
///
/// # Errors
/// What the runtime said.
pub(super) async fn make_sandbox(agent: &Agent, pod: &Pod, attempt: u32) -> Result<SandboxStatus, String> {
    let node_dns = node_dns();
    let config = sandbox::config(&agent.config, pod, attempt, &node_dns);
    if let Some(uid) = pod.metadata.uid.as_deref() {
        tracing::debug!(uid, attempt, "making a sandbox");
    }
    agent.runtime.run_sandbox(config).await.map_err(|error| {
        agent.pod_event(
            pod,
            EventType::Warning,
            "FailedCreatePodSandBox",
            format!("Failed to create pod sandbox: {error}"),
        );
        error.to_string()
    })
}

fn node_dns() -> DnsConfig {
    match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => sandbox::parse_resolv_conf(&text),
        Err(error) => {
            tracing::debug!(%error, "the node has no resolver configuration");
            DnsConfig::default()
        }
    }
}

/// What a start needs beside the pod.
pub(super) struct Place {
    /// The sandbox.
    pub(super) sandbox: SandboxStatus,
    /// The pod's addresses.
    pub(super) ips: Vec<String>,
    /// The pod's volumes.
    pub(super) volumes: Arc<volumes::SetUp>,
}

/// Starts a container: image, configuration, creation, start, postStart hook. Returns its id.
///
/// # Errors
/// Why the container waits.
pub(super) async fn start(
    agent: &Agent,
    pod: &Pod,
    what: &Start,
    place: &Place,
    cancel: &CancellationToken,
) -> Result<String, Waiting> {
    let waiting = |reason: &str, message: String| Waiting { reason: reason.into(), message };
    let cancelled = || waiting("ContainerCreating", String::new());
    let Some(container) = find_container(pod, &what.name) else {
        return Err(waiting(
            "CreateContainerConfigError",
            format!("container {} is not in the pod", what.name),
        ));
    };
    let failed = |reason: &str, message: String| {
        agent.container_event(pod, &what.name, EventType::Warning, "Failed", format!("Error: {message}"));
        waiting(reason, message)
    };
    let image = tokio::select! {
        () = cancel.cancelled() => return Err(cancelled()),
        image = images::ensure(agent, pod, &container) => image?,
    };
    let config_error = |message: String| failed("CreateContainerConfigError", message);
    let env = environment(agent, pod, &container, &place.ips).await.map_err(config_error)?;
    let directory = agent.pod_directory(pod.metadata.uid.as_deref().unwrap_or_default());
    let hosts = directory.join("etc-hosts");
    let termination_file = directory.join("containers").join(&what.name).join(what.attempt.to_string());
    let sub_paths = sub_paths(&directory, &container, &place.volumes, &env).map_err(config_error)?;
    write_own_files(agent, pod, place, &hosts, &termination_file)
        .map_err(|error| failed("CreateContainerError", error.to_string()))?;
    let config = container::config(
        pod,
        &container,
        container::Parts {
            attempt: what.attempt,
            image: &image,
            env,
            volumes: &place.volumes.volumes,
            sub_paths: &sub_paths,
            hosts,
            termination_file,
            machine_memory: agent.machine.memory,
        },
    )
    .map_err(config_error)?;
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    let id = agent
        .runtime
        .create_container(&place.sandbox.id, config)
        .await
        .map_err(|error| failed("CreateContainerError", error.to_string()))?;
    agent.container_event(pod, &what.name, EventType::Normal, "Created", "Container created");
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    agent
        .runtime
        .start_container(&id)
        .await
        .map_err(|error| failed("RunContainerError", error.to_string()))?;
    agent.container_event(pod, &what.name, EventType::Normal, "Started", "Container started");
    link_log(pod, &what.name, &id, what.attempt);
    if let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        let ip = place.ips.first().map_or("", String::as_str);
        if let Err(error) = hooks::run(agent, handler, &container, &id, ip).await {
            tracing::debug!(container = what.name, %error, "postStart hook");
            agent.container_event(
                pod,
                &what.name,
                EventType::Warning,
                "FailedPostStartHook",
                format!("PostStartHook failed: {error}"),
            );
            agent.container_event(pod, &what.name, EventType::Normal, "Killing", "FailedPostStartHook");
            if let Err(error) = agent.runtime.stop_container(&id, grace_period(pod)).await {
                tracing::warn!(container = what.name, %error, "stopping a container whose postStart hook failed");
            }
            return Err(waiting("PostStartHookError", format!("PostStartHook failed: {error}")));
        }
    }
    Ok(id)
}

async fn environment(
    agent: &Agent,
    pod: &Pod,
    container: &k8s_openapi::api::core::v1::Container,
    ips: &[String],
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (map_names, secret_names) = env::references(container);
    let mut config_maps = BTreeMap::new();
    for name in map_names {
        let found = agent.objects.config_map(namespace, &name).await?;
        config_maps.insert(name, found);
    }
    let mut secrets = BTreeMap::new();
    for name in secret_names {
        let found = agent.objects.secret(namespace, &name).await?;
        secrets.insert(name, found);
    }
    // A pod that starts before the services are known would miss its variables for good.
    agent.services.wait_synced().await;
    let mut services = agent.services.in_namespace(namespace);
    if namespace != "default" {
        services.extend(agent.services.find("default", "kubernetes"));
    }
    env::make(
        container,
        &env::Sources {
            pod,
            pod_ips: ips,
            host_ip: &agent.config.node_ip.to_string(),
            allocatable: &agent.machine.allocatable,
            config_maps: &config_maps,
            secrets: &secrets,
            services: &services,
        },
    )
}

fn sub_paths(
    directory: &std::path::Path,
    container: &k8s_openapi::api::core::v1::Container,
    volumes: &volumes::SetUp,
    env: &[(String, String)],
) -> Result<BTreeMap<usize, PathBuf>, String> {
    let mut out = BTreeMap::new();
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(sub) = container::sub_path(mount, env)? else { continue };
        let Some(volume) = volumes.volumes.get(&mount.name) else { continue };
        let target =
            directory.join("volume-subpaths").join(&mount.name).join(&container.name).join(at.to_string());
        // An earlier attempt of this container may have bound something there.
        if target.exists() {
            match umount2(&target, MntFlags::MNT_DETACH) {
                Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
                Err(error) => return Err(format!("unmounting {}: {error}", target.display())),
            }
        }
        out.insert(at, volumes::prepare_subpath(&volume.path, &sub, &target)?);
    }
    Ok(out)
}

fn write_own_files(
    agent: &Agent,
    pod: &Pod,
    place: &Place,
    hosts: &std::path::Path,
    termination_file: &std::path::Path,
) -> std::io::Result<()> {
    let node_hosts = if spec(pod).host_network == Some(true) {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        String::new()
    };
    let text = sandbox::hosts(pod, &place.ips, &agent.config.cluster_domain, &node_hosts);
    // Written in place when it is there: it may be mounted into containers that run.
    if std::fs::read(hosts).is_ok_and(|known| known == text.as_bytes()) {
    } else if hosts.exists() {
        fs_err::write(hosts, text)?;
    } else {
        files::replace(hosts, text.as_bytes(), files::PUBLIC)?;
    }
    // Whoever the container runs as must be able to write it.
    files::replace(termination_file, b"", 0o666)
}

/// Leaves the log where log collectors look for it.
fn link_log(pod: &Pod, container: &str, id: &str, attempt: u32) {
    let link = log_link(pod, container, id);
    let target = sandbox::log_directory(pod).join(container).join(format!("{attempt}.log"));
    if !target.parent().is_some_and(std::path::Path::exists) {
        return;
    }
    let made = fs_err::create_dir_all("/var/log/containers")
        .and_then(|()| std::os::unix::fs::symlink(target, &link));
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            tracing::debug!(link = %link.display(), %error, "linking a log");
        }
        _ => {}
    }
}

/// Returns how long a pod's containers are given to end.
pub(super) fn grace_period(pod: &Pod) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds))
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// Stops a container: event, preStop hook, SIGTERM, SIGKILL after what is left of `grace`.
pub(super) async fn stop(
    agent: &Agent,
    pod: &Pod,
    status: &ContainerStatus,
    message: String,
    grace: Duration,
    ip: &str,
) -> Result<(), String> {
    agent.container_event(pod, &status.name, EventType::Normal, "Killing", message);
    let began = agent.clock.now();
    if let Some(container) = find_container(pod, &status.name)
        && let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref())
    {
        let outcome = tokio::select! {
            outcome = hooks::run(agent, handler, &container, &status.id, ip) => outcome,
            () = agent.clock.after(grace) => Err("PreStop hook did not complete in grace period".to_owned()),
        };
        if let Err(error) = outcome {
            tracing::debug!(container = status.name, %error, "preStop hook");
            agent.container_event(
                pod,
                &status.name,
                EventType::Warning,
                "FailedPreStopHook",
                format!("PreStopHook failed: {error}"),
            );
        }
        let used = agent.clock.now().duration_since(began).unsigned_abs();
        let left = grace.saturating_sub(used).max(LEAST_GRACE.min(grace.max(LEAST_GRACE)));
        return agent.runtime.stop_container(&status.id, left).await.map_err(|error| error.to_string());
    }
    agent.runtime.stop_container(&status.id, grace).await.map_err(|error| error.to_string())
}

/// Takes a pod's sandbox and volumes away; with `remove` also its containers, logs and files. Repeatable.
pub(super) async fn take_down(
    agent: &Agent,
    pod: &Pod,
    sandboxes: &BTreeSet<String>,
    containers: &[ContainerStatus],
    remove: bool,
) -> Result<(), String> {
    let directory = agent.pod_directory(pod.metadata.uid.as_deref().unwrap_or_default());
    for id in sandboxes {
        let outcome = if remove {
            agent.runtime.remove_sandbox(id).await
        } else {
            agent.runtime.stop_sandbox(id).await
        };
        outcome.map_err(|error| error.to_string())?;
    }
    if !remove {
        volumes::teardown(directory.join("volume-subpaths")).await?;
        return volumes::teardown(directory.join("volumes")).await;
    }
    for one in containers {
        agent.runtime.remove_container(&one.id).await.map_err(|error| error.to_string())?;
    }
    volumes::teardown(directory).await?;
    remove_logs(pod, containers);
    Ok(())
}

/// Removes an old attempt of a container with its log and last words; with `sandbox` also the sandbox that it
/// was the last of.
pub(super) async fn forget(agent: &Agent, pod: &Pod, one: &ContainerStatus, sandbox: bool) {
    if let Err(error) = agent.runtime.remove_container(&one.id).await {
        return tracing::warn!(id = one.id, %error, "removing an old container");
    }
    if sandbox && let Err(error) = agent.runtime.remove_sandbox(&one.sandbox_id).await {
        tracing::warn!(id = one.sandbox_id, %error, "removing an old sandbox");
    }
    gone(&log_link(pod, &one.name, &one.id), |path| std::fs::remove_file(path));
    gone(&one.log_path, |path| std::fs::remove_file(path));
    if let Some(file) = one.annotations.get(labels::TERMINATION_FILE) {
        gone(std::path::Path::new(file), |path| std::fs::remove_file(path));
    }
}

/// Removes something that may be gone already.
fn gone(path: &std::path::Path, remove: fn(&std::path::Path) -> std::io::Result<()>) {
    match remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "removing what a container left");
        }
        _ => {}
    }
}

fn remove_logs(pod: &Pod, containers: &[ContainerStatus]) {
    for one in containers {
        gone(&log_link(pod, &one.name, &one.id), |path| std::fs::remove_file(path));
    }
    gone(&sandbox::log_directory(pod), |path| std::fs::remove_dir_all(path));
}

/// Where log collectors look for a container's log.
fn log_link(pod: &Pod, container: &str, id: &str) -> PathBuf {
    let meta = &pod.metadata;
    PathBuf::from("/var/log/containers").join(format!(
        "{}_{}_{container}-{id}.log",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default()
    ))
}
