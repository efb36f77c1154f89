//! The executable that the tests' engines run as shim. With other arguments it is an agent that a test kills.

mod bench;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use runtime::builtin::{Engine, EngineConfig};
use runtime::{ContainerConfig, Mount, Runtime, SandboxConfig, SandboxNetwork};

struct NoNetwork;

#[async_trait::async_trait]
impl SandboxNetwork for NoNetwork {
    async fn attach(&self, _: &str, _: &Path, _: &SandboxConfig) -> runtime::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }

    async fn detach(&self, _: &str) -> runtime::Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    if let Some(code) = runtime::helper_main(std::env::args_os()) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["agent", directory, cgroup_root, ready] => {
            runtime.block_on(agent(Path::new(directory), cgroup_root, Path::new(ready)));
        }
        ["bench", directory, pods] => {
            runtime.block_on(bench::run(Path::new(directory), pods.parse().expect("a number of pods")));
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

async fn open(directory: &Path, cgroup_root: &str) -> Engine {
    Engine::open(EngineConfig {
        data_directory: directory.join("data"),
        run_directory: directory.join("run"),
        image_directory: directory.join("images"),
        cgroup_root: cgroup_root.to_owned(),
        registry_mirrors: BTreeMap::new(),
        shim_executable: PathBuf::from("/proc/self/exe"),
        network: Arc::new(NoNetwork),
        clock: machinery::clock::system(),
        random: machinery::names::Random::from_os(),
    })
    .await
    .expect("the engine opens")
}

/// Runs one container, says so by making the file `ready`, and stays until it is killed.
async fn agent(directory: &Path, cgroup_root: &str, ready: &Path) {
    let engine = open(directory, cgroup_root).await;
    let sandbox = SandboxConfig {
        name: "pod".into(),
        hostname: "pod".into(),
        log_directory: directory.join("logs"),
        cgroup_parent: "/kubepods/podx".into(),
        ..SandboxConfig::default()
    };
    let sandbox = engine.run_sandbox(sandbox).await.expect("a sandbox can be made").id;
    let script = "echo begun; while [ ! -e /signals/go ]; do sleep 0.05; done; echo done; exit 7";
    let config = ContainerConfig {
        name: "c".into(),
        image: "busybox".into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: "c.log".into(),
        mounts: vec![Mount {
            host_path: directory.join("signals"),
            container_path: "/signals".into(),
            ..Mount::default()
        }],
        ..ContainerConfig::default()
    };
    let id = engine.create_container(&sandbox, config).await.expect("a container can be made");
    engine.start_container(&id).await.expect("it starts");
    std::fs::write(ready, id).expect("the file can be written");
    std::future::pending::<()>().await;
}
