//! Commands in containers, attaching, ports.

use std::time::Duration;

use runtime::{ContainerConfig, Error, ExecConfig, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{Kit, log_text, on_both_engines, read_to_end, shell};

on_both_engines! {
    a_command_runs_inside_the_container_as_its_user_and_in_its_limits
    a_port_is_reached_inside_the_sandbox
    a_commands_streams_are_separate_and_its_input_ends
    a_command_with_a_terminal_has_its_size_and_ends_with_its_code
    attaching_gives_input_and_output_and_the_end
    a_container_with_a_terminal_can_be_attached_to
    much_output_reaches_the_log_and_a_slow_reader_without_a_gap
    a_log_that_was_moved_away_is_begun_anew
}

fn command(script: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), script.into()]
}

async fn a_command_runs_inside_the_container_as_its_user_and_in_its_limits(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let mut config = shell("sleep 1000");
    config.env = vec![("COLOUR".into(), "blue".into())];
    config.working_directory = "/srv/work".into();
    config.security.run_as_user = Some(33);
    let id = kit.start(&sandbox, config).await;
    let script = "id; pwd; echo $COLOUR $HOME $HOSTNAME; grep CapEff /proc/self/status; ps | grep -c ' [s]leep 1000'; exit 4";
    let output = kit.engine.exec_sync(&id, &command(script), None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "uid=33(web) gid=34(web) groups=34(web),44(logs)\n/srv/work\nblue /srv web\n\
         CapEff:\t0000000000000000\n1\n"
    );
    assert_eq!(output.exit_code, 4);
    for (program, code, message) in [
        ("nothing", 127, "exec: \"nothing\": executable file not found in $PATH"),
        ("/etc/passwd", 126, "exec: \"/etc/passwd\": permission denied"),
    ] {
        let output = kit.engine.exec_sync(&id, &[program.into()], None).await.unwrap();
        assert_eq!(output.exit_code, code);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(message) && error.starts_with("OCI runtime exec failed"), "{error}");
    }
    let late = kit.engine.exec_sync(&id, &command("sleep 100"), Some(Duration::from_millis(300))).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    let output = kit
        .engine
        .exec_sync(&id, &command("until ! ps | grep -q '[s]leep 100$'; do sleep 0.02; done"), None)
        .await
        .unwrap();
    assert_eq!(output.exit_code, 0, "the command that took too long was killed");
    kit.finish().await;
}

async fn a_commands_streams_are_separate_and_its_input_ends(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let id = kit.start(&sandbox, shell("sleep 1000")).await;
    let config = ExecConfig { command: command("cat; echo bad >&2; exit 9"), tty: false, stdin: true };
    let mut session = kit.engine.exec(&id, config).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = "x".repeat(300_000);
    let (_, out, err, code) = tokio::join!(
        async {
            stdin.write_all(big.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
            drop(stdin);
        },
        read_to_end(session.stdout.take()),
        read_to_end(session.stderr.take()),
        session.exit
    );
    assert_eq!((out.len(), err.as_str(), code.unwrap()), (big.len(), "bad\n", 9));
    kit.finish().await;
}

async fn a_command_with_a_terminal_has_its_size_and_ends_with_its_code(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let id = kit.start(&sandbox, shell("sleep 1000")).await;
    // The size crosses a stream of its own and may arrive after the input.
    let config = ExecConfig {
        command: command("tty; read x; until stty size | grep 132; do sleep 0.02; done; echo got $x; exit 3"),
        tty: true,
        stdin: true,
    };
    let mut session = kit.engine.exec(&id, config).await.unwrap();
    assert!(session.stderr.is_none());
    session.resize.take().unwrap().send(TerminalSize { width: 132, height: 43 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
    let out = read_to_end(session.stdout.take()).await;
    assert!(out.contains("43 132") && out.contains("got it"), "{out:?}");
    assert!(out.contains("/dev/pts/0\r\n"), "the terminal has a name in the container: {out:?}");
    assert_eq!(session.exit.await.unwrap(), 3);
    kit.finish().await;
}

async fn attaching_gives_input_and_output_and_the_end(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let config = ContainerConfig { stdin: true, stdin_once: true, ..shell("cat; echo end >&2; exit 6") };
    let id = kit.start(&sandbox, config).await;
    let mut session = kit.engine.attach(&id).await.unwrap();
    let mut watcher = kit.engine.attach(&id).await.unwrap();
    // With `stdin_once` the first attach whose input ends would end the input for all.
    let _silent = watcher.stdin.take();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let mut first = [0u8; 6];
    session.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"hello\n");
    drop(stdin);
    let (out, err, code) =
        tokio::join!(read_to_end(session.stdout.take()), read_to_end(session.stderr.take()), session.exit);
    assert_eq!((out.as_str(), err.as_str(), code.unwrap()), ("", "end\n", 6));
    let status = kit.ended(&id).await;
    assert_eq!(log_text(&status.log_path), "o: hello\ne: end\n");
    kit.engine.attach(&id).await.err().unwrap();
    kit.finish().await;
}

async fn a_container_with_a_terminal_can_be_attached_to(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let config = ContainerConfig {
        stdin: true,
        tty: true,
        ..shell("while read x; do stty size; echo got $x $TERM; [ $x = end ] && exit 2; done")
    };
    let id = kit.start(&sandbox, config).await;
    let mut session = kit.engine.attach(&id).await.unwrap();
    session.resize.take().unwrap().send(TerminalSize { width: 100, height: 30 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"end\n").await.unwrap();
    let out = read_to_end(session.stdout.take()).await;
    assert!(out.contains("got end xterm"), "{out:?}");
    assert_eq!(session.exit.await.unwrap(), 2);
    let status = kit.ended(&id).await;
    assert!(log_text(&status.log_path).contains("got end xterm"));
    kit.finish().await;
}

async fn much_output_reaches_the_log_and_a_slow_reader_without_a_gap(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let config =
        ContainerConfig { stdin: true, ..shell("read x; head -c 3000000 /dev/zero | tr '\\0' x; exit 0") };
    let id = kit.start(&sandbox, config).await;
    let mut session = kit.engine.attach(&id).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let out = read_to_end(session.stdout.take()).await;
    assert_eq!(out.len(), 3_000_000);
    let status = kit.ended(&id).await;
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    assert_eq!(log.bytes().filter(|byte| *byte == b'x').count(), 3_000_000);
    kit.finish().await;
}

async fn a_port_is_reached_inside_the_sandbox(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let id = kit.start(&sandbox, shell("nc -l -p 8080 -e /bin/echo hello")).await;
    let mut stream = loop {
        match kit.engine.port_forward(&sandbox, 8080).await {
            Ok(stream) => break stream,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("failed to connect to localhost:8080 inside namespace"), "{text}");
                tokio::task::yield_now().await;
            }
        }
    };
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello\n");
    kit.ended(&id).await;
    kit.finish().await;
}

async fn a_log_that_was_moved_away_is_begun_anew(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let config = ContainerConfig { stdin: true, ..shell("echo one; read x; echo two") };
    let id = kit.start(&sandbox, config).await;
    let path = kit.engine.container_status(&id).await.unwrap().log_path;
    while std::fs::metadata(&path).unwrap().len() == 0 {
        tokio::task::yield_now().await;
    }
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    kit.engine.reopen_log(&id).await.unwrap();
    let mut session = kit.engine.attach(&id).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    kit.ended(&id).await;
    assert_eq!(log_text(&path.with_extension("old")), "o: one\n");
    assert_eq!(log_text(&path), "o: two\n");
    kit.finish().await;
}
