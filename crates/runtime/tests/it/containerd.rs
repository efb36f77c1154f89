//! Debian's containerd, started by hand in a directory of its own: no systemd, no network but the test's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::kit::processes_naming;

/// A containerd that runs. What is left of it is killed when it is dropped.
pub(crate) struct Containerd {
    directory: PathBuf,
    child: Option<Child>,
}

impl Containerd {
    /// Starts it with its socket at `containerd.sock` below `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        let here = directory.display();
        // restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE runs no sandbox without it.
        let config = format!(
            r#"
            version = 2
            root = "{here}/containerd/root"
            state = "{here}/containerd/state"
            disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
                "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
                "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
            [grpc]
            address = "{here}/containerd.sock"
            [ttrpc]
            address = "{here}/containerd.sock.ttrpc"
            [plugins."io.containerd.internal.v1.opt"]
            path = "{here}/containerd/opt"
            [plugins."io.containerd.grpc.v1.cri"]
            restrict_oom_score_adj = true
            stats_collect_period = 1
            [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "{here}/cni/bin"
            conf_dir = "{here}/cni/conf"
            [plugins."io.containerd.grpc.v1.cri".registry]
            config_path = "{here}/certs.d"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = false
            "#
        );
        std::fs::write(directory.join("containerd.toml"), config).unwrap();
        let mut containerd = Self { directory: directory.to_owned(), child: None };
        containerd.run();
        containerd
    }

    /// Starts it, for the first time or again.
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("containerd.log"))
            .unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(self.directory.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("these tests run pods on containerd, too: apt-get install containerd runc ({error})")
            });
        self.child = Some(child);
    }

    /// Kills it as a crash would; its shims stay.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it when all of its pods have gone.
    pub(crate) fn stop(mut self) {
        self.kill();
        // Of the tree only what the snapshotter keeps for reuse may still be there; no process and no mount.
        let left = processes_naming(self.directory.to_str().unwrap());
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        for (pid, _) in processes_naming(self.directory.to_str().unwrap_or("/no/such")) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid)
                && pid != rustix::process::getpid()
            {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }
}
