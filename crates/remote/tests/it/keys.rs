//! Keys, against OpenSSH's own tools.

use std::process::Command;

use remote::{KeyPair, PrivateKey};

use crate::sshd::Sshd;

/// What `ssh-keygen` says.
fn keygen(arguments: &[&str]) -> String {
    let output = Command::new("ssh-keygen").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn openssh_reads_the_same_key_from_our_file() {
    for comment in ["core@lab", "", "a longer comment, with blanks in it"] {
        let pair = KeyPair::generate(comment).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        machinery::files::write_atomic(&path, pair.private_text().as_bytes(), 0o600).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(keygen(&["-y", "-f", path]).trim(), pair.public().to_string());
        let listed = keygen(&["-l", "-f", path]);
        assert_eq!(listed.split(' ').nth(1).unwrap(), pair.public().fingerprint().to_string());
    }
}

#[test]
fn a_key_with_a_passphrase_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["ed25519", "rsa"] {
        let path = directory.path().join(kind);
        keygen(&["-q", "-t", kind, "-N", "secret", "-f", path.to_str().unwrap()]);
        let error = PrivateKey::from_path(&path).unwrap_err().to_string();
        assert!(error.contains("needs a passphrase") && error.contains(kind), "{error}");
    }
}

#[tokio::test]
async fn keys_that_openssh_made_log_in_too() {
    let sshd = Sshd::start();
    let directory = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("ed25519", vec!["-t", "ed25519"]),
        ("ecdsa", vec!["-t", "ecdsa"]),
        ("rsa", vec!["-t", "rsa", "-b", "2048"]),
        ("pem", vec!["-t", "rsa", "-b", "2048", "-m", "PEM"]),
    ] {
        let path = directory.path().join(name);
        let mut arguments = options;
        arguments.extend(["-q", "-N", "", "-f", path.to_str().unwrap()]);
        keygen(&arguments);
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        std::fs::write(sshd.path("authorized_keys"), public).unwrap();
        let target = remote::Target { key: PrivateKey::from_path(&path).unwrap(), ..sshd.target("root") };
        let ssh = crate::sshd::ssh(target);
        ssh.connect(std::time::Duration::from_secs(20))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
