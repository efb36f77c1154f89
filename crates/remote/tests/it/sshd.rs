//! An sshd of a test's own: its keys, its users, its view of the file system. Nothing of it is left behind.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use machinery::clock::SystemClock;
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, until};
use remote::{HostKey, KeyPair, Ssh, Target, Timing};

/// How many daemons were started by this process.
static STARTED: AtomicU16 = AtomicU16::new(1);

/// An SSH daemon with a mount namespace, in which there is a user `core` with sudo and another, `plain`, without, a
/// small file system at `small/` in its directory, and a read-only /usr.
pub(crate) struct Sshd {
    process: Option<Child>,
    directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) user_key: KeyPair,
    pub(crate) host_key: KeyPair,
}

impl Sshd {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let mut sshd = Self::prepare();
        sshd.launch();
        sshd
    }

    /// Makes all that one needs, without starting it.
    pub(crate) fn prepare() -> Self {
        assert!(Path::new("/usr/sbin/sshd").exists(), "these tests need openssh-server: see tests/run");
        assert!(Path::new("/usr/bin/sudo").exists(), "these tests need sudo: see tests/run");
        assert!(rustix::process::geteuid().is_root(), "these tests need root for namespaces and users");
        let directory = tempfile::Builder::new().prefix("sshd-").tempdir().unwrap();
        // The user core must get through.
        set_mode(directory.path(), 0o755);
        // An address of its own: a free port of one address may be given to another test before sshd has taken it.
        let number = STARTED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let ip = Ipv4Addr::new(127, 91, number[0], number[1]);
        let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let user_key = KeyPair::generate("user").unwrap();
        let host_key = KeyPair::generate("host").unwrap();
        let sshd = Self { process: None, directory, address, user_key, host_key };
        let write = |name: &str, text: &str, mode: u32| {
            let path = sshd.path(name);
            std::fs::write(&path, text).unwrap();
            set_mode(&path, mode);
        };
        write("host_key", sshd.host_key.private_text(), 0o600);
        write("authorized_keys", &format!("{}\n", sshd.user_key.public()), 0o644);
        let at = sshd.directory.path().display();
        write(
            "passwd",
            &format!(
                "root:x:0:0:root:/root:/bin/bash\ncore:x:61234:61234::{at}/home:/bin/bash\n\
                 plain:x:61235:61235::{at}/home:/bin/sh\nsshd:x:61236:61236::/run/sshd:/usr/sbin/nologin\n"
            ),
            0o644,
        );
        write("group", "root:x:0:\ncore:x:61234:\nplain:x:61235:\nsshd:x:61236:\n", 0o644);
        write(
            "shadow",
            "root:*:19000:0:99999:7:::\ncore:*:19000:0:99999:7:::\nplain:*:19000:0:99999:7:::\n",
            0o600,
        );
        write("sudoers", "Defaults !syslog\nroot ALL=(ALL) ALL\ncore ALL=(ALL) NOPASSWD: ALL\n", 0o440);
        write(
            "config",
            &format!(
                "ListenAddress {address}\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\n\
                 PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
                 KbdInteractiveAuthentication no\nMaxStartups 100\nLogLevel VERBOSE\n"
            ),
            0o644,
        );
        std::fs::create_dir(sshd.path("home")).unwrap();
        std::fs::create_dir(sshd.path("small")).unwrap();
        std::fs::create_dir_all("/run/sshd").unwrap();
        std::os::unix::fs::chown(sshd.path("home"), Some(61234), Some(61234)).unwrap();
        sshd
    }

    /// Starts what was prepared, or stopped.
    pub(crate) fn launch(&mut self) {
        let script = r#"set -e
            for name in passwd group shadow sudoers; do mount --bind "$1/$name" "/etc/$name"; done
            mount -t tmpfs -o size=8m,mode=755 small "$1/small"
            mount --bind /usr /usr
            mount -o remount,bind,ro /usr
            exec /usr/sbin/sshd -D -e -f "$1/config" 2>>"$1/log""#;
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is part of util-linux");
        self.process = Some(child);
    }

    /// Ends the daemon and whatever it serves.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let serving = self::children(process.id());
            let _ = process.kill();
            let _ = process.wait();
            for pid in serving {
                kill(pid);
            }
        }
    }

    /// Ends the processes that serve sessions, as when a link is cut; the daemon goes on.
    pub(crate) fn cut(&self) -> usize {
        let serving = self.process.as_ref().map(|process| self::children(process.id())).unwrap_or_default();
        for pid in &serving {
            kill(*pid);
        }
        serving.len()
    }

    /// A path in the daemon's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same path as text.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// What the daemon sees there: its mounts are its own.
    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        let pid = self.process.as_ref().expect("it runs").id();
        PathBuf::from(format!("/proc/{pid}/root{}", self.at(name)))
    }

    pub(crate) fn target(&self, user: &str) -> Target {
        Target {
            name: "w1".into(),
            address: self.address,
            user: user.into(),
            key: self.user_key.private().clone(),
            host_keys: vec![HostKey::Key(self.host_key.public().clone())],
            timing: Timing { grace: Duration::ZERO, ..Timing::default() },
        }
    }

    /// The machine, as root.
    pub(crate) fn root(&self) -> Ssh {
        self.user("root")
    }

    pub(crate) fn user(&self, user: &str) -> Ssh {
        ssh(self.target(user))
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn ssh(target: Target) -> Ssh {
    Ssh::new(target, machinery::clock::system(), Random::from_os())
}

/// Waits until `condition` gives something; the text it gives otherwise is the last state seen.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    until(what, Duration::from_secs(60), Backoff::QUICK, &SystemClock, &Random::from_os(), async || {
        match condition() {
            Ok(done) => Attempt::<T, String>::Done(done),
            Err(seen) => Attempt::Again(seen),
        }
    })
    .await
    .unwrap()
}

/// Bytes that do not compress: a xorshift generator, since the crates' own are slow where nothing is optimized.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
