//! Connections that break, and callers that go away.

use std::sync::Arc;
use std::time::Duration;

use remote::{Command, Error, File, Remote, Target, Timing};

use crate::sshd::{Sshd, eventually, noise, ssh};

/// A line that leaves a trace, and waits for ever the first time.
fn first_time_for_ever(trace: &str) -> String {
    format!("if [ -e {trace} ]; then echo again; else : >{trace}; exec sleep 600; fi")
}

#[tokio::test]
async fn a_command_that_may_be_repeated_is_and_another_is_not() {
    let sshd = Sshd::start();
    for repeatable in [true, false] {
        let trace = sshd.at(&format!("trace-{repeatable}"));
        let mut command = Command::shell(first_time_for_ever(&trace));
        if repeatable {
            command = command.repeatable();
        }
        let machine = sshd.root();
        let running = tokio::spawn(async move { machine.run(command).await });
        eventually("the command's trace", || {
            if std::path::Path::new(&trace).exists() { Ok(()) } else { Err("no trace".into()) }
        })
        .await;
        assert!(sshd.cut() > 0);
        let outcome = running.await.unwrap();
        if repeatable {
            assert_eq!(outcome.unwrap().check().unwrap().stdout.text(), "again\n");
        } else {
            let error = outcome.unwrap_err();
            assert!(
                matches!(&error, Error::Lost { doing, .. } if doing.contains("running `sh -c")),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_made_anew_for_any_command() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    for _ in 0..3 {
        assert!(ssh.run(Command::new(&["true"])).await.unwrap().status.success());
        assert!(sshd.cut() > 0);
    }
}

#[tokio::test]
async fn a_machine_that_falls_silent_is_noticed() {
    let sshd = Sshd::start();
    // Between us and the daemon, something that stops carrying without saying so.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let real = sshd.address;
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let Ok(mut far) = tokio::net::TcpStream::connect(real).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    // Both ends stay open, and nothing goes over them any more.
                    () = async { drop(is_cut.wait_for(|cut| *cut).await) } => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    let timing = Timing {
        keepalive: Duration::from_secs(2),
        silence: Duration::from_secs(5),
        ..sshd.target("root").timing
    };
    let machine = ssh(Target { address, timing, ..sshd.target("root") });
    machine.connect(Duration::from_secs(20)).await.unwrap();
    // Silence of a command is not silence of the machine.
    let command = Command::shell("sleep 8; echo there");
    assert_eq!(machine.run(command).await.unwrap().stdout.text(), "there\n");
    let trace = sshd.at("trace");
    let running = tokio::spawn({
        let (machine, line) = (machine.clone(), first_time_for_ever(&trace));
        async move { machine.run(Command::shell(line)).await }
    });
    eventually("the command's trace", || {
        std::path::Path::new(&trace).exists().then_some(()).ok_or_else(|| "no trace".into())
    })
    .await;
    cut.send(true).unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Lost { why, .. } if why.contains("silent")), "{error}");
}

/// How many threads of this process serve the machine of this name.
fn threads(name: &str) -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.trim() == format!("ssh {name}"))
        .count()
}

#[tokio::test]
async fn dropping_a_call_ends_all_that_was_done_for_it() {
    let sshd = Sshd::start();
    let machine = ssh(Target { name: "dropped".into(), ..sshd.target("root") });
    let (told, mut progress) = tokio::sync::watch::channel(0);
    let bytes = noise(64 << 20);
    let file = File::new(sshd.at("big"), bytes.clone()).progress(move |done, _| {
        told.send_replace(done);
    });
    tokio::select! {
        done = machine.upload(file) => panic!("it was to be dropped, and ended: {done:?}"),
        _ = progress.wait_for(|done| *done > 8 << 20) => {}
    }
    assert!(!sshd.path("big").exists());
    // The connection itself is of use still.
    assert!(machine.run(Command::new(&["true"])).await.unwrap().status.success());
    assert_eq!(threads("dropped"), 1);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1);
    // What was there by then is taken up by the next one.
    let uploaded = machine.upload(File::new(sshd.at("big"), bytes)).await.unwrap();
    assert!(uploaded.resumed > 0, "{uploaded:?}");
    drop(machine);
    eventually("the connection's thread to end", || match threads("dropped") {
        0 => Ok(()),
        count => Err(format!("{count} threads")),
    })
    .await;
}

#[tokio::test]
async fn dropping_a_connection_that_is_being_made_ends_its_thread() {
    // It takes the connection and never says a word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sshd = Sshd::prepare();
    let target =
        Target { name: "mute".into(), address: listener.local_addr().unwrap(), ..sshd.target("root") };
    let connecting = tokio::spawn(async move { ssh(target).connect(Duration::from_secs(600)).await });
    let _held = listener.accept().await.unwrap();
    eventually("the connection's thread", || {
        (threads("mute") == 1).then_some(()).ok_or_else(|| "none".into())
    })
    .await;
    connecting.abort();
    eventually("the thread to end", || (threads("mute") == 0).then_some(()).ok_or_else(|| "it runs".into()))
        .await;
}

#[tokio::test]
async fn a_daemon_that_stops_in_the_middle_of_an_upload_is_waited_for() {
    let sshd = Arc::new(parking_lot::Mutex::new(Sshd::start()));
    let machine = sshd.lock().root();
    let path = sshd.lock().at("big");
    let bytes = noise(32 << 20);
    let (told, mut progress) = tokio::sync::watch::channel(0);
    let file = File::new(path.as_str(), bytes.clone()).progress(move |done, _| {
        told.send_replace(done);
    });
    let uploading = tokio::spawn(async move { machine.upload(file).await });
    progress.wait_for(|done| *done > 4 << 20).await.unwrap();
    sshd.lock().stop();
    // While nobody listens, connections are refused: the upload goes on trying.
    let address = sshd.lock().address;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(!uploading.is_finished());
    sshd.lock().launch();
    let uploaded = uploading.await.unwrap().unwrap();
    assert!(uploaded.changed);
    assert!(std::fs::read(&path).unwrap() == bytes);
}
