//! An engine in a directory of its own, with an image made of Debian's static busybox. Each test of pods runs on
//! both engines, see [`on_both_engines`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use machinery::retry::{Attempt, Backoff, until, until_sent};
use runtime::{ContainerConfig, ContainerState, ContainerStatus, Runtime, SandboxConfig, SandboxNetwork};
use runtime::{builtin, cri};
use tokio::io::AsyncReadExt;

use crate::containerd::Containerd;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Makes of each async function `check(kit: Kit)` a module of its name with one test for each engine.
macro_rules! on_both_engines {
    ($($check:ident)*) => {$(
        mod $check {
            #[tokio::test(flavor = "multi_thread")]
            async fn builtin() {
                super::$check(crate::kit::Kit::new().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn containerd() {
                super::$check(crate::kit::Kit::containerd().await).await;
            }
        }
    )*};
}
pub(crate) use on_both_engines;

pub(crate) struct Kit {
    pub(crate) engine: Arc<dyn Runtime>,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cgroup_root: String,
    open: Open,
    pub(crate) containerd: Option<Containerd>,
}

/// An open engine, as what it is.
enum Open {
    Builtin(builtin::Engine),
    Cri(cri::Engine),
}

struct NoNetwork;

#[async_trait::async_trait]
impl SandboxNetwork for NoNetwork {
    async fn attach(&self, _: &str, _: &Path, _: &SandboxConfig) -> runtime::Result<Vec<IpAddr>> {
        Ok(vec!["10.2.0.7".parse().unwrap()])
    }

    async fn detach(&self, _: &str) -> runtime::Result<()> {
        Ok(())
    }
}

impl Kit {
    /// The built-in engine.
    pub(crate) async fn new() -> Self {
        let (directory, cgroup_root) = prepare();
        let engine = open(directory.path(), &cgroup_root).await;
        Self {
            engine: Arc::new(engine.clone()),
            directory,
            cgroup_root,
            open: Open::Builtin(engine),
            containerd: None,
        }
    }

    /// The engine that speaks to a containerd, which is started for it.
    pub(crate) async fn containerd() -> Self {
        let (directory, cgroup_root) = prepare();
        let containerd = Containerd::start(directory.path());
        let engine = open_cri(directory.path(), &cgroup_root).await;
        engine.images().load(&directory.path().join("layout")).await.unwrap();
        Self {
            engine: Arc::new(engine.clone()),
            directory,
            cgroup_root,
            open: Open::Cri(engine),
            containerd: Some(containerd),
        }
    }

    /// Ends what watches; containers run on.
    pub(crate) async fn close(&self) {
        match &self.open {
            Open::Builtin(engine) => engine.close().await,
            Open::Cri(engine) => engine.close().await,
        }
    }

    /// Opens another engine, as an agent that was started again.
    pub(crate) async fn reopen(&mut self) {
        match &self.open {
            Open::Builtin(_) => {
                let engine = open(self.directory.path(), &self.cgroup_root).await;
                self.engine = Arc::new(engine.clone());
                self.open = Open::Builtin(engine);
            }
            Open::Cri(old) => {
                old.close().await;
                let engine = open_cri(self.directory.path(), &self.cgroup_root).await;
                self.engine = Arc::new(engine.clone());
                self.open = Open::Cri(engine);
            }
        }
    }

    pub(crate) fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            name: name.into(),
            hostname: name.into(),
            log_directory: self.directory.path().join("logs").join(name),
            cgroup_parent: format!("/kubepods/pod{name}"),
            ..SandboxConfig::default()
        }
    }

    pub(crate) async fn sandbox(&self, name: &str) -> String {
        self.engine.run_sandbox(self.sandbox_config(name)).await.unwrap().id
    }

    pub(crate) async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.engine.create_container(sandbox, config).await.unwrap();
        self.engine.start_container(&id).await.unwrap();
        id
    }

    /// Waits until the container has ended.
    pub(crate) async fn ended(&self, id: &str) -> ContainerStatus {
        until::<_, String, _>(
            "the container to end",
            Duration::from_secs(30),
            Backoff::QUICK,
            &machinery::clock::SystemClock,
            &machinery::names::Random::seeded(1),
            async || {
                let status = self.engine.container_status(id).await.unwrap();
                match status.state {
                    ContainerState::Exited => Attempt::Done(status),
                    other => Attempt::Again(format!("{other:?}")),
                }
            },
        )
        .await
        .unwrap()
    }

    /// Waits until the container's log has `text` in it.
    pub(crate) async fn said(&self, id: &str, text: &str) {
        let path = self.engine.container_status(id).await.unwrap().log_path;
        until_sent::<_, String, _>(
            "words in the log",
            Duration::from_secs(30),
            Backoff::QUICK,
            &machinery::clock::SystemClock,
            &machinery::names::Random::seeded(1),
            || {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                std::future::ready(if log.contains(text) { Attempt::Done(()) } else { Attempt::Again(log) })
            },
        )
        .await
        .unwrap();
    }

    /// Runs a script to its end; returns the status and what it printed to both streams.
    pub(crate) async fn run(&self, sandbox: &str, config: ContainerConfig) -> (ContainerStatus, String) {
        let id = self.start(sandbox, config).await;
        let status = self.ended(&id).await;
        let log = log_text(&status.log_path);
        self.engine.remove_container(&id).await.unwrap();
        (status, log)
    }

    /// Removes everything and checks that nothing is left, anywhere.
    pub(crate) async fn finish(self) {
        for sandbox in self.engine.list_sandboxes().await.unwrap() {
            self.engine.remove_sandbox(&sandbox.id).await.unwrap();
        }
        self.close().await;
        let here = self.directory.path().canonicalize().unwrap();
        match self.containerd {
            Some(containerd) => containerd.stop(),
            None => {
                for part in ["data/sandboxes", "data/containers", "run/sandboxes", "run/containers"] {
                    let left: Vec<_> = std::fs::read_dir(here.join(part))
                        .unwrap()
                        .map(|entry| entry.unwrap().path())
                        .collect();
                    assert!(left.is_empty(), "{left:?}");
                }
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(here.to_str().unwrap()), "a mount is left:\n{mounts}");
        assert_eq!(processes_naming(here.to_str().unwrap()), Vec::new());
        for hierarchy in cgroup_hierarchies() {
            let root = hierarchy.join(self.cgroup_root.trim_start_matches('/'));
            for path in [root.join("kubepods"), root] {
                if path.exists() {
                    std::fs::remove_dir(&path)
                        .unwrap_or_else(|error| panic!("{} has something left: {error}", path.display()));
                }
            }
        }
    }
}

/// Makes a directory with the image in it, and the name of a control group.
fn prepare() -> (tempfile::TempDir, String) {
    assert!(rustix::process::geteuid().is_root(), "these tests make namespaces and mounts: run them as root");
    let directory = tempfile::tempdir().unwrap();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let cgroup_root = format!("/runtime-test-{}-{number}", std::process::id());
    make_image(directory.path());
    (directory, cgroup_root)
}

async fn open(directory: &Path, cgroup_root: &str) -> builtin::Engine {
    builtin::Engine::open(builtin::EngineConfig {
        data_directory: directory.join("data"),
        run_directory: directory.join("run"),
        image_directory: directory.join("images"),
        cgroup_root: cgroup_root.to_owned(),
        registry_mirrors: BTreeMap::new(),
        shim_executable: PathBuf::from(env!("CARGO_BIN_EXE_runtime-test-helper")),
        network: Arc::new(NoNetwork),
        clock: machinery::clock::system(),
        random: machinery::names::Random::from_os(),
    })
    .await
    .unwrap()
}

async fn open_cri(directory: &Path, cgroup_root: &str) -> cri::Engine {
    cri::Engine::open(cri::EngineConfig {
        socket: directory.join("containerd.sock"),
        data_directory: directory.join("data"),
        run_directory: directory.join("run"),
        cgroup_root: cgroup_root.to_owned(),
        registry_mirrors: BTreeMap::new(),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_runtime-test-helper")),
        network: Arc::new(NoNetwork),
        clock: machinery::clock::system(),
        random: machinery::names::Random::from_os(),
    })
    .await
    .unwrap_or_else(|error| {
        let log = std::fs::read_to_string(directory.join("containerd.log")).unwrap_or_default();
        panic!("{error}\ncontainerd said:\n{log}")
    })
}

pub(crate) fn shell(script: &str) -> ContainerConfig {
    ContainerConfig {
        name: "c".into(),
        // A sandbox may not hold two of one name and number.
        attempt: NEXT.fetch_add(1, Ordering::Relaxed),
        image: "busybox".into(),
        user_image: "busybox".into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: "c.log".into(),
        ..ContainerConfig::default()
    }
}

/// Returns the lines of a log without times and tags, each with its stream's first letter.
pub(crate) fn log_text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::remove_file(path).unwrap();
    text.lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ').skip(1);
            let stream = parts.next().unwrap();
            format!("{}: {}\n", &stream[3..4], parts.nth(1).unwrap())
        })
        .collect()
}

pub(crate) async fn read_to_end(stream: Option<runtime::Reader>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await.unwrap();
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn processes_naming(text: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push((entry.file_name().to_str().unwrap().parse().unwrap(), line));
        }
    }
    found
}

fn cgroup_hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .map(|line| line.split(' ').nth(4).unwrap().into())
        .collect()
}

/// Loads an image `busybox` into the store below `directory`, from an archive as `docker save` writes it.
fn make_image(directory: &Path) {
    let program = std::fs::read("/bin/busybox")
        .expect("these tests run busybox in containers: apt-get install busybox-static");
    let layout = directory.join("layout");
    std::fs::create_dir_all(&layout).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, contents: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(contents.len() as u64);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        layer.append_data(&mut header, path, contents).unwrap();
    };
    add("tmp/", 0o1777, b"");
    add("bin/busybox", 0o755, &program);
    add("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n");
    add("etc/group", 0o644, b"root:x:0:\nweb:x:34:\nlogs:x:44:web\n");
    for name in [
        "sh", "sleep", "cat", "id", "ls", "echo", "touch", "nc", "mount", "hostname", "stty", "wc", "head",
        "dd", "kill", "ps", "env", "stat", "grep", "mknod", "tail", "true", "unshare", "ping", "tr", "nproc",
        "ln", "tty",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    use sha2::Digest;
    let digest: String = sha2::Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    std::fs::write(layout.join("config.json"), config.to_string()).unwrap();
    std::fs::write(layout.join("layer.tar"), layer).unwrap();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"]}]);
    std::fs::write(layout.join("manifest.json"), manifest.to_string()).unwrap();
    let store = runtime::images::Store::open(&directory.join("images")).unwrap();
    runtime::images::load(&store, &layout).unwrap();
}
