//! Who is let in, who is believed, and how long is waited.

use std::time::Duration;

use remote::{Command, Error, HostKey, KeyPair, Remote, Target, Timing};

use crate::sshd::{Sshd, eventually, ssh};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn only_the_pinned_host_key_is_believed() {
    let sshd = Sshd::start();
    let real = sshd.host_key.public().clone();
    let other = KeyPair::generate("").unwrap().public().clone();
    for pinned in [
        vec![HostKey::Key(real.clone())],
        vec![HostKey::Fingerprint(real.fingerprint())],
        vec![HostKey::Key(other.clone()), HostKey::Key(real.clone())],
    ] {
        ssh(Target { host_keys: pinned, ..sshd.target("root") }).connect(SOON).await.unwrap();
    }
    for pinned in [vec![HostKey::Key(other.clone())], vec![HostKey::Fingerprint(other.fingerprint())], vec![]]
    {
        let named = !pinned.is_empty();
        let error = ssh(Target { host_keys: pinned, ..sshd.target("root") }).connect(SOON).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::HostKey { .. }), "{text}");
        for part in ["w1", &sshd.address.to_string(), &format!("shows ssh-ed25519 {}", real.fingerprint())] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!named || text.contains(&other.fingerprint().to_string()), "{text}");
    }
    // Nothing was tried to log in with.
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 3);
}

#[tokio::test]
async fn a_host_key_of_another_kind_is_named() {
    let sshd = Sshd::prepare();
    let path = sshd.path("ecdsa");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ecdsa", "-N", "", "-f", path.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(made.success());
    let mut sshd = sshd;
    let config = std::fs::read_to_string(sshd.path("config")).unwrap();
    std::fs::write(sshd.path("config"), config.replace("host_key", "ecdsa")).unwrap();
    sshd.launch();
    let error = sshd.root().connect(SOON).await.unwrap_err().to_string();
    assert!(error.contains("it shows ecdsa-sha2-nistp256 SHA256:"), "{error}");
}

#[tokio::test]
async fn a_refused_key_is_told_at_once_without_grace_and_tried_again_with_it() {
    let sshd = Sshd::start();
    let line = std::fs::read_to_string(sshd.path("authorized_keys")).unwrap();
    std::fs::write(sshd.path("authorized_keys"), "").unwrap();
    let error = sshd.root().connect(SOON).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Authentication { .. }), "{text}");
    for part in ["w1", "root", &sshd.user_key.public().fingerprint().to_string()] {
        assert!(text.contains(part), "{text}");
    }
    let timing = Timing { grace: Duration::from_secs(60), ..Timing::default() };
    let patient = ssh(Target { timing, ..sshd.target("root") });
    let connecting = tokio::spawn(async move { patient.connect(Duration::from_secs(120)).await });
    // It is refused at least once more before the key is there.
    let before = sshd.log().matches("Connection from").count();
    eventually("another attempt", || match sshd.log().matches("Connection from").count() {
        count if count > before + 1 => Ok(()),
        count => Err(format!("{count} connections")),
    })
    .await;
    std::fs::write(sshd.path("authorized_keys"), line).unwrap();
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_machine_that_comes_up_later_is_waited_for() {
    let mut sshd = Sshd::prepare();
    let machine = sshd.root();
    let running = tokio::spawn(async move { machine.run(Command::new(&["echo", "up"])).await });
    let error = sshd.root().connect(Duration::from_secs(1)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable { last, .. } if last.contains("Connection refused")),
        "{error}"
    );
    assert!(!running.is_finished());
    sshd.launch();
    assert_eq!(running.await.unwrap().unwrap().stdout.text(), "up\n");
}

#[tokio::test]
async fn something_that_is_no_ssh_daemon_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sshd = Sshd::prepare();
    let target = Target { address: listener.local_addr().unwrap(), ..sshd.target("root") };
    // As the port forward of a machine that is still booting: it takes the connection and drops it.
    let serving = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let error = ssh(target).connect(Duration::from_secs(1)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable { last, .. } if last.contains("the SSH handshake")),
        "{error}"
    );
    serving.abort();
}

#[tokio::test]
async fn eight_machines_are_served_side_by_side() {
    let machines: Vec<Sshd> = (0..8).map(|_| Sshd::start()).collect();
    let work = machines.iter().map(|sshd| {
        let (machine, path) = (sshd.root(), sshd.at("file"));
        tokio::spawn(async move {
            machine.upload(remote::File::new(path.as_str(), crate::sshd::noise(2 << 20))).await.unwrap();
            let command = Command::new(&["wc", "-c", &path]);
            machine.run(command).await.unwrap().check().unwrap().stdout.text()
        })
    });
    for done in work.collect::<Vec<_>>() {
        assert!(done.await.unwrap().starts_with("2097152 "));
    }
}
