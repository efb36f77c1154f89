//! Commands: words, streams, exit codes, root, deadlines.

use std::time::Duration;

use remote::{Command, Error, Remote, Status};

use crate::sshd::{Sshd, noise};

#[tokio::test]
async fn words_arrive_as_they_are_and_both_streams_come_back() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    let words = ["printf", "%s|", "it's", "$HOME", "a  b", "\n", "*", "é"];
    let output = ssh.run(Command::new(&words)).await.unwrap().check().unwrap();
    assert_eq!(output.stdout.text(), "it's|$HOME|a  b|\n|*|é|");
    let output = ssh.run(Command::shell("echo out; echo err >&2; exit 3")).await.unwrap();
    assert_eq!(
        (output.status.clone(), output.stdout.bytes(), output.stderr.bytes()),
        (Status::Exited(3), &b"out\n"[..], &b"err\n"[..])
    );
    let error = output.check().unwrap_err().to_string();
    assert!(
        error.starts_with("w1: `sh -c 'echo out; echo err >&2; exit 3'` ended with exit code 3"),
        "{error}"
    );
    assert!(error.ends_with("\n  stdout: out\n  stderr: err"), "{error}");
}

#[tokio::test]
async fn a_signal_is_told_by_its_name() {
    let sshd = Sshd::start();
    let output = sshd.root().run(Command::shell("kill -KILL $$")).await.unwrap();
    // The far shell may be the command's parent, and then tells it as a shell does.
    assert!(matches!(output.status, Status::Signaled(_) | Status::Exited(137)), "{:?}", output.status);
    assert_eq!(output.status.code(), 137);
}

#[tokio::test]
async fn standard_input_arrives_whole_and_its_end_too() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    let bytes = noise(3_000_001);
    let output = ssh.run(Command::new(&["cat"]).stdin(bytes.clone()).keep(4_000_000)).await.unwrap();
    assert!(output.stdout.bytes() == bytes, "{} bytes came back", output.stdout.bytes().len());
    let output = ssh.run(Command::new(&["cat"])).await.unwrap();
    assert!(output.status.success() && output.stdout.bytes().is_empty());
    // A command that does not read its input ends all the same.
    let output = ssh.run(Command::new(&["true"]).stdin(noise(9_000_000))).await.unwrap();
    assert!(output.status.success());
}

#[tokio::test]
async fn of_much_output_the_end_is_kept() {
    let sshd = Sshd::start();
    let command = Command::shell("seq 1 2000000; seq 1 1000000 >&2").keep(1000);
    let output = sshd.root().run(command).await.unwrap().check().unwrap();
    assert_eq!(output.stdout.bytes().len(), 1000);
    assert!(output.stdout.text().ends_with("1999999\n2000000\n"));
    assert_eq!(output.stdout.dropped(), 14_888_896 - 1000);
    assert!(output.stderr.text().ends_with("999999\n1000000\n"));
}

#[tokio::test]
async fn output_goes_on_after_standard_output_is_closed() {
    let sshd = Sshd::start();
    let command = Command::shell("exec >&- 2>&-; sleep 0.3; exit 5");
    assert_eq!(sshd.root().run(command).await.unwrap().status, Status::Exited(5));
}

#[tokio::test]
async fn root_is_had_with_sudo_without_it_and_not_at_all() {
    let sshd = Sshd::start();
    for (user, plain) in [("root", "0"), ("core", "61234")] {
        let ssh = sshd.user(user);
        let who = ssh.run(Command::new(&["id", "-u"])).await.unwrap().check().unwrap();
        assert_eq!(who.stdout.text().trim(), plain);
        let who = ssh.run(Command::new(&["id", "-u"]).root()).await.unwrap().check().unwrap();
        assert_eq!(who.stdout.text().trim(), "0");
    }
    let output =
        sshd.user("core").run(Command::shell("cat; exit 4").root().stdin("through sudo")).await.unwrap();
    assert_eq!((output.status, output.stdout.text()), (Status::Exited(4), "through sudo".into()));
    let error = sshd.user("plain").run(Command::new(&["id"]).root()).await.unwrap().check().unwrap_err();
    assert!(matches!(&error, Error::Root { machine, .. } if machine == "w1"), "{error}");
}

#[tokio::test]
async fn a_deadline_tells_what_was_last_said() {
    let sshd = Sshd::start();
    let command = Command::shell("echo half of it; exec sleep 600").deadline(Duration::from_secs(2));
    let error = sshd.root().run(command).await.unwrap_err();
    assert!(matches!(&error, Error::Deadline { last, .. } if last == "half of it"), "{error}");
}

#[tokio::test]
async fn many_commands_share_one_connection() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    ssh.connect(Duration::from_secs(20)).await.unwrap();
    let runs = (0..6).map(|number| {
        let ssh = ssh.clone();
        tokio::spawn(async move {
            let command = Command::shell(format!("seq 1 {number}00000 | tail -n 1")).stdin(noise(500_000));
            ssh.run(command).await.unwrap().check().unwrap().stdout.text()
        })
    });
    for (number, run) in runs.enumerate() {
        assert_eq!(
            run.await.unwrap().trim(),
            if number == 0 { String::new() } else { format!("{number}00000") }
        );
    }
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1, "{}", sshd.log());
}

#[tokio::test]
async fn what_cannot_be_a_command_is_refused_here() {
    let sshd = Sshd::prepare();
    let ssh = sshd.root();
    for command in [Command::new::<&str>(&[]), Command::new(&["echo", "a\0b"])] {
        assert!(matches!(ssh.run(command).await, Err(Error::Invalid(_))));
    }
}
