//! Containers begin and end as they should.

use std::time::Duration;

use runtime::{ContainerConfig, ContainerEventKind, ContainerState, SandboxState};

use crate::kit::{Kit, on_both_engines, shell};

on_both_engines! {
    a_container_runs_and_its_end_and_output_are_kept
    a_container_that_cannot_start_says_why_in_upstreams_words
    stopping_asks_first_and_kills_after_the_grace
    containers_of_a_sandbox_share_its_names_and_nothing_survives_it
}

async fn a_container_runs_and_its_end_and_output_are_kept(kit: Kit) {
    let mut events = kit.engine.events();
    let sandbox = kit.sandbox("web").await;
    let (status, log) = kit.run(&sandbox, shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(log.contains("o: out\n") && log.contains("e: err\n"), "{log}");
    assert!(status.started_at >= Some(status.created_at) && status.finished_at >= status.started_at);
    assert_eq!(events.recv().await.unwrap().kind, ContainerEventKind::Started);
    let stopped = events.recv().await.unwrap();
    assert_eq!((stopped.id, stopped.kind), (status.id, ContainerEventKind::Stopped));
    let (status, _) = kit.run(&sandbox, shell("true")).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    let (status, _) = kit.run(&sandbox, shell("kill -9 $$")).await;
    // The shell is the first process of its table, which cannot kill itself.
    assert_eq!(status.exit_code, 0);
    kit.finish().await;
}

async fn a_container_that_cannot_start_says_why_in_upstreams_words(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    for (command, expect) in [
        ("nothing", "exec: \"nothing\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let config = ContainerConfig { command: vec![command.into()], ..shell("") };
        let id = kit.engine.create_container(&sandbox, config).await.unwrap();
        let error = kit.engine.start_container(&id).await.unwrap_err().to_string();
        assert!(error.ends_with(&format!("unable to start container process: {expect}")), "{error}");
        let status = kit.engine.container_status(&id).await.unwrap();
        assert_eq!(status.state, ContainerState::Exited);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert_eq!(status.message, error);
    }
    kit.finish().await;
}

async fn stopping_asks_first_and_kills_after_the_grace(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let polite = shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.02; done");
    let id = kit.start(&sandbox, polite).await;
    kit.said(&id, "ready").await;
    kit.engine.stop_container(&id, Duration::from_secs(10)).await.unwrap();
    assert_eq!(kit.engine.container_status(&id).await.unwrap().exit_code, 5);
    kit.engine.stop_container(&id, Duration::from_secs(10)).await.unwrap();

    let deaf = shell("trap '' TERM; echo ready; while :; do sleep 1; done");
    let id = kit.start(&sandbox, deaf).await;
    kit.said(&id, "ready").await;
    kit.engine.stop_container(&id, Duration::from_millis(200)).await.unwrap();
    assert_eq!(kit.engine.container_status(&id).await.unwrap().exit_code, 137);
    kit.finish().await;
}

async fn containers_of_a_sandbox_share_its_names_and_nothing_survives_it(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    assert_eq!(kit.engine.list_sandboxes().await.unwrap()[0].ips[0].to_string(), "10.2.0.7");
    let (_, log) = kit.run(&sandbox, shell("hostname; echo $HOSTNAME $FROM; cat /etc/hostname")).await;
    assert_eq!(log, "o: web\no: web image\no: web\n");
    let server = kit.start(&sandbox, shell("touch /dev/shm/shared; nc -l -p 80 -e /bin/echo hello")).await;
    let (_, log) =
        kit.run(&sandbox, shell("until nc 127.0.0.1 80; do sleep 0.05; done; ls /dev/shm; echo $$")).await;
    assert_eq!(log, "o: hello\no: shared\no: 1\n", "one loopback, one shared memory, process tables apart");
    kit.ended(&server).await;
    let id = kit.start(&sandbox, shell("sleep 1000")).await;
    kit.engine.stop_sandbox(&sandbox).await.unwrap();
    kit.engine.stop_sandbox(&sandbox).await.unwrap();
    assert_eq!(kit.engine.container_status(&id).await.unwrap().exit_code, 137);
    assert_eq!(kit.engine.list_sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
    kit.engine.create_container(&sandbox, shell("true")).await.unwrap_err();
    kit.engine.remove_sandbox(&sandbox).await.unwrap();
    kit.engine.remove_sandbox(&sandbox).await.unwrap();
    kit.finish().await;
}
