//! libvirt's daemons, run by hand: no systemd is needed, and the host's own configuration stays as it is.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a daemon that this host runs by itself listens.
const SOCKET: &str = "/run/libvirt/libvirt-sock";
/// How long a daemon may take to listen.
const DEADLINE: Duration = Duration::from_secs(60);
/// QEMU as this user, who owns the disks and may read the Ignition files; nothing else that a host in a container
/// lacks: no security driver, no namespaces, no cgroups.
const QEMU: &str = r#"user = "root"
group = "root"
security_driver = "none"
remember_owner = 0
namespaces = []
cgroup_controllers = []
"#;

/// Daemons that run. Dropping it stops those that it started.
pub(super) struct Libvirt {
    daemons: Vec<Child>,
    _directory: tempfile::TempDir,
}

impl Libvirt {
    /// Starts what does not run: D-Bus, virtlogd, libvirtd.
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut libvirt = Self { daemons: Vec::new(), _directory: directory };
        let qemu = libvirt._directory.path().join("qemu.conf");
        std::fs::write(&qemu, QEMU).unwrap();
        std::fs::create_dir_all("/run/dbus").unwrap();
        libvirt.daemon(
            "/run/dbus/system_bus_socket",
            "exec dbus-daemon --system --nofork --nopidfile",
            &qemu,
        );
        libvirt.daemon("/run/libvirt/virtlogd-sock", "exec virtlogd", &qemu);
        // Its own mount namespace: the file in /etc is another one for this daemon only.
        libvirt.daemon(SOCKET, "mount --bind \"$1\" /etc/libvirt/qemu.conf && exec libvirtd", &qemu);
        libvirt
    }

    fn daemon(&mut self, socket: &str, line: &str, qemu: &Path) {
        if UnixStream::connect(socket).is_ok() {
            return;
        }
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", line, "sh"])
            .arg(qemu)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.daemons.push(child);
        let started = Instant::now();
        while UnixStream::connect(socket).is_err() {
            let ended = self.daemons.last_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "`{line}` ended with {ended:?}");
            assert!(started.elapsed() < DEADLINE, "`{line}` does not listen on {socket}");
            wait(Duration::from_millis(50));
        }
    }

    /// Everything that a cluster could leave in libvirt, as lines of text.
    pub(super) fn inventory(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for words in [
            &["list", "--all", "--name"][..],
            &["net-list", "--all", "--name"],
            &["pool-list", "--all", "--name"],
        ] {
            found.extend(
                virsh(words)
                    .lines()
                    .filter(|line| !line.trim().is_empty())
                    .map(|line| format!("{}: {}", words[0], line.trim())),
            );
        }
        for pool in virsh(&["pool-list", "--name"]).lines().filter(|line| !line.trim().is_empty()) {
            found.extend(
                virsh(&["vol-list", pool.trim()])
                    .lines()
                    .skip(2)
                    .filter_map(|line| line.split_whitespace().next())
                    .map(|name| format!("volume: {name}")),
            );
        }
        found
    }
}

fn virsh(words: &[&str]) -> String {
    let output = Command::new("virsh").args(["--connect", "qemu:///system"]).args(words).output().unwrap();
    assert!(output.status.success(), "virsh {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[expect(clippy::disallowed_methods, reason = "a daemon says by its socket alone that it listens")]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        while let Some(mut daemon) = self.daemons.pop() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            daemon.wait().unwrap();
        }
    }
}
