//! Sandboxes: made, stopped, removed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use super::Inner;
use super::namespaces::{self, Wanted};
use super::state::{self, Sandbox, SandboxRecord};
use crate::cgroup;
use crate::helper::MARK;
use crate::{Error, Result, SandboxConfig, SandboxStatus};

/// The pod's name server file, in its run directory.
const RESOLV_CONF: &str = "resolv.conf";
/// The pod's host name file, in its run directory.
const HOSTNAME: &str = "hostname";

impl Inner {
    pub(super) async fn run_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxStatus> {
        self.warm_up();
        let id = self.new_id();
        let data = self.config.data_directory.join("sandboxes").join(&id);
        let run = self.config.run_directory.join("sandboxes").join(&id);
        for path in [&data, &run] {
            std::fs::create_dir_all(path)
                .map_err(|error| Error::system(format!("making {}", path.display()), error))?;
        }
        let record = SandboxRecord {
            config,
            created_at: self.config.clock.now(),
            ips: Vec::new(),
            ready: false,
            pause: None,
        };
        let sandbox = Arc::new(Sandbox::new(id.clone(), data, run, record));
        // On disk before there is anything to clean up, so that a crash leaves nothing that nobody knows.
        sandbox.change(|_| {})?;
        self.sandboxes.lock().insert(id.clone(), Arc::clone(&sandbox));
        match self.make_sandbox(&sandbox).await {
            Ok(ips) => {
                sandbox.change(|record| {
                    record.ips = ips;
                    record.ready = true;
                })?;
                Ok(sandbox.status())
            }
            Err(error) => {
                if let Err(cleanup) = self.remove_sandbox(&id).await {
                    tracing::warn!(sandbox = %id, error = %cleanup, "a failed sandbox stays behind for now");
                }
                Err(error)
            }
        }
    }

    async fn make_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<Vec<IpAddr>> {
        let config = sandbox.record().config;
        if !config.cgroup_parent.is_empty() {
            self.cgroups.create(&config.cgroup_parent, &config.resources)?;
        }
        let hostname = if config.hostname.is_empty() || config.host.network {
            nix::unistd::gethostname()
                .map_err(|error| Error::system("reading the host name", error))?
                .to_string_lossy()
                .into_owned()
        } else {
            config.hostname.clone()
        };
        let wanted =
            Wanted { host: config.host, hostname: hostname.clone(), sysctls: config.sysctls.clone() };
        namespaces::make(sandbox.run.clone(), wanted).await?;
        if config.share_processes && !config.host.pid {
            let pid = self.start_pause(&config.cgroup_parent).await?;
            // On disk before the pin, which is what tells that it is there.
            sandbox.change(|record| record.pause = Some(pid))?;
            namespaces::pin_process_table(&sandbox.run, pid)?;
        }
        write(&sandbox.run.join(HOSTNAME), &format!("{hostname}\n"))?;
        if let Some(dns) = &config.dns {
            let mut text = String::new();
            for server in &dns.servers {
                text.push_str(&format!("nameserver {server}\n"));
            }
            if !dns.searches.is_empty() {
                text.push_str(&format!("search {}\n", dns.searches.join(" ")));
            }
            if !dns.options.is_empty() {
                text.push_str(&format!("options {}\n", dns.options.join(" ")));
            }
            write(&sandbox.run.join(RESOLV_CONF), &text)?;
        }
        if !config.log_directory.as_os_str().is_empty() {
            std::fs::create_dir_all(&config.log_directory).map_err(|error| {
                Error::system(format!("making {}", config.log_directory.display()), error)
            })?;
        }
        if config.host.network {
            return Ok(Vec::new());
        }
        self.config.network.attach(&sandbox.id, &sandbox.run.join("net"), &config).await
    }

    /// Starts the first process of a shared process table and returns its id.
    async fn start_pause(&self, _cgroup: &str) -> Result<i32> {
        let output = Command::new(&self.config.shim_executable)
            .args([MARK, "pause"])
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .map_err(|error| Error::system("starting the helper", error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().map_err(|_| {
            Error::system("sharing a process table", String::from_utf8_lossy(&output.stderr).into_owned())
        })
    }

    /// Returns the files that every container of the sandbox gets: `(source, destination)`.
    pub(super) fn pod_files(sandbox: &Sandbox) -> Vec<(PathBuf, PathBuf)> {
        let record = sandbox.record();
        let resolv_conf = if record.config.dns.is_some() {
            sandbox.run.join(RESOLV_CONF)
        } else {
            PathBuf::from("/etc/resolv.conf")
        };
        let shm = if record.config.host.ipc {
            PathBuf::from("/dev/shm")
        } else {
            sandbox.run.join(namespaces::SHM)
        };
        [(resolv_conf, "/etc/resolv.conf"), (sandbox.run.join(HOSTNAME), "/etc/hostname"), (shm, "/dev/shm")]
            .into_iter()
            .filter(|(source, _)| source.exists())
            .map(|(source, destination)| (source, PathBuf::from(destination)))
            .collect()
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let containers = self.containers_of(id);
        let stops = containers.iter().map(|container| self.stop_container(container, Duration::ZERO));
        futures::future::try_join_all(stops).await?;
        let record = sandbox.record();
        if !record.config.host.network {
            self.config.network.detach(id).await?;
        }
        if let Some(pid) = record.pause {
            stop_pause(&sandbox, pid)?;
        }
        namespaces::unpin(&sandbox.run)?;
        if record.ready || record.pause.is_some() {
            sandbox.change(|record| {
                record.ready = false;
                record.pause = None;
            })?;
        }
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.remove_container(&container.id).await?;
        }
        let parent = sandbox.record().config.cgroup_parent;
        // Another sandbox of the same pod may still be in it; whoever is last removes it.
        if cgroup::belongs_to_one_pod(&parent) {
            self.cgroups.remove(&parent);
        }
        state::remove_directory(&sandbox.run)?;
        state::remove_directory(&sandbox.data)?;
        self.sandboxes.lock().remove(id);
        Ok(())
    }
}

/// Kills the first process of the shared table, if it still is that process.
fn stop_pause(sandbox: &Sandbox, pid: i32) -> Result<()> {
    let inode =
        |path: &Path| std::fs::metadata(path).map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata));
    let theirs = inode(Path::new(&format!("/proc/{pid}/ns/pid")));
    let pinned = inode(&sandbox.run.join(namespaces::PID));
    match (theirs, pinned) {
        // The number may have gone to another process after a reboot.
        (Ok(theirs), Ok(pinned)) if theirs == pinned => {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)
                .map_err(|error| Error::system(format!("ending process {pid}"), error))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::system(format!("writing {}", path.display()), error))
}
