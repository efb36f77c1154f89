//! What is found again after an engine has gone.

use std::process::{Child, Command};
use std::time::Duration;

use machinery::retry::{Attempt, Backoff, until};
use runtime::{ContainerState, SandboxState};

use crate::kit::{Kit, log_text, processes_naming, shell};

async fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    until::<_, String, _>(
        what,
        Duration::from_secs(30),
        Backoff::QUICK,
        &machinery::clock::SystemClock,
        &machinery::names::Random::seeded(1),
        async || if there() { Attempt::Done(()) } else { Attempt::Again("not yet".into()) },
    )
    .await
    .unwrap();
}

async fn agent(kit: &Kit) -> (Child, String) {
    let ready = kit.directory.path().join("ready");
    let child = Command::new(env!("CARGO_BIN_EXE_runtime-test-helper"))
        .arg("agent")
        .arg(kit.directory.path())
        .arg(&kit.cgroup_root)
        .arg(&ready)
        .spawn()
        .unwrap();
    wait_for("the agent's container", || std::fs::read_to_string(&ready).is_ok_and(|text| text.len() == 64))
        .await;
    (child, std::fs::read_to_string(&ready).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_on_when_its_agent_is_killed_and_the_next_one_finds_it() {
    let mut kit = Kit::new().await;
    let (mut agent, id) = agent(&kit).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    kit.reopen().await;
    let status = kit.engine.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.name.as_str()), (ContainerState::Running, "c"));
    let sandboxes = kit.engine.list_sandboxes().await.unwrap();
    assert_eq!((sandboxes.len(), sandboxes[0].state), (1, SandboxState::Ready));
    let mut events = kit.engine.events();
    let touched = kit.engine.exec_sync(&id, &["touch".into(), "/signals/go".into()], None).await.unwrap();
    assert_eq!(touched.exit_code, 0);
    assert_eq!(events.recv().await.unwrap().id, id);
    let status = kit.ended(&id).await;
    assert_eq!(status.exit_code, 7);
    assert_eq!(log_text(&status.log_path), "o: begun\no: done\n");
    kit.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_saw_is_found_later() {
    let mut kit = Kit::new().await;
    let (mut agent, id) = agent(&kit).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    std::fs::write(kit.directory.path().join("signals/go"), "").unwrap();
    let exit = kit.directory.path().join("data/containers").join(&id).join("exit.json");
    wait_for("the exit file", || exit.exists()).await;
    // The rest of removals that were cut short goes, too.
    for left in ["containers", "sandboxes"] {
        std::fs::create_dir(kit.directory.path().join("run").join(left).join("left-behind")).unwrap();
    }
    kit.reopen().await;
    let status = kit.engine.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 7));
    kit.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_shim_was_killed_is_ended_and_leaves_nothing() {
    let kit = Kit::new().await;
    let sandbox = kit.sandbox("web").await;
    let id = kit.start(&sandbox, shell("sleep 1000")).await;
    let pid = kit.engine.container_status(&id).await.unwrap().pid.unwrap();
    for shim in processes_naming(&format!("runtime-helper shim {}", kit.directory.path().display())) {
        let shim = rustix::process::Pid::from_raw(shim.0).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    }
    let status = kit.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    kit.engine.remove_container(&id).await.unwrap();
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the process has gone with its shim: {state}");
    kit.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_everything_is_found_as_ended() {
    let mut kit = Kit::new().await;
    let sandbox = kit.sandbox("web").await;
    let id = kit.start(&sandbox, shell("sleep 1000")).await;
    let never_started = kit.engine.create_container(&sandbox, shell("true")).await.unwrap();
    // What a reboot does: no process is left, and the run directory is empty.
    kit.close().await;
    let pid = kit.engine.container_status(&id).await.unwrap().pid.unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let data = kit.directory.path().join("data/containers").join(&id).join("exit.json");
    wait_for("the shim's end", || data.exists()).await;
    std::fs::remove_file(data).unwrap();
    let run = kit.directory.path().join("run");
    for mount in ["net", "ipc", "uts", "shm"] {
        let path = run.join("sandboxes").join(&sandbox).join(mount);
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    std::fs::remove_dir_all(&run).unwrap();
    kit.reopen().await;
    let status = kit.engine.container_status(&id).await.unwrap();
    assert_eq!(
        (status.state, status.exit_code, status.reason.as_str()),
        (ContainerState::Exited, 255, "Unknown")
    );
    assert_eq!(kit.engine.list_sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
    assert!(kit.engine.start_container(&never_started).await.is_err());
    kit.finish().await;
}
