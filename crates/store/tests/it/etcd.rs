//! Real etcd members for the tests of this crate and of `control-plane`, each on a loopback address of its own, with certificates of an authority of their own.

#![allow(dead_code, reason = "each of the two test binaries uses a part of this")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use store::{EtcdOptions, EtcdTls};

/// An etcd cluster that ends with the test.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    members: Vec<Member>,
}

struct Member {
    name: String,
    address: Ipv4Addr,
    process: Option<Child>,
}

/// Returns the etcd executable: `$ETCD`, or the one in the path.
pub(crate) fn executable() -> PathBuf {
    let named = std::env::var_os("ETCD").map(PathBuf::from);
    let in_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|dir| dir.join("etcd"))
            .find(|file| file.exists())
    };
    named.or_else(in_path).filter(|file| file.exists()).expect(
        "these tests run real etcd members: set ETCD to an etcd executable (tests/run unpacks Debian's etcd-server)",
    )
}

impl Cluster {
    /// Starts a cluster of so many members.
    pub(crate) fn start(size: u8) -> Self {
        // Of each process and each cluster in it its own addresses: nothing to collide with, no port to choose.
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let first = NEXT.fetch_add(size, Ordering::Relaxed);
        let members = (0..size)
            .map(|number| Member {
                name: format!("m{number}"),
                address: Ipv4Addr::new(127, high.max(1), low, first + number),
                process: None,
            })
            .collect();
        let directory = tempfile::tempdir().unwrap();
        write_certificates(directory.path());
        let mut cluster = Self { directory, members };
        for number in 0..usize::from(size) {
            cluster.run(number);
        }
        cluster
    }

    /// Starts a member that does not run; it goes on with its data.
    pub(crate) fn run(&mut self, number: usize) {
        let url = |address: Ipv4Addr, port: u16| format!("https://{address}:{port}");
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}={}", member.name, url(member.address, 2380)))
            .collect();
        let files = |name: &str| self.directory.path().join(name);
        let member = &self.members[number];
        let log =
            std::fs::File::options().create(true).append(true).open(files(&format!("{}.log", member.name)));
        let process = Command::new("setpriv")
            // A member must not outlive the test, however that ends.
            .args(["--pdeathsig", "KILL"])
            .arg(executable())
            .args(["--name", &member.name, "--data-dir"])
            .arg(files(&member.name))
            .args(["--listen-client-urls", &url(member.address, 2379)])
            .args(["--advertise-client-urls", &url(member.address, 2379)])
            .args(["--listen-peer-urls", &url(member.address, 2380)])
            .args(["--initial-advertise-peer-urls", &url(member.address, 2380)])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-token", "tests"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--client-cert-auth"])
            .arg("--cert-file")
            .arg(files("tls.crt"))
            .arg("--key-file")
            .arg(files("tls.key"))
            .arg("--trusted-ca-file")
            .arg(files("ca.crt"))
            .arg("--peer-cert-file")
            .arg(files("tls.crt"))
            .arg("--peer-key-file")
            .arg(files("tls.key"))
            .arg("--peer-trusted-ca-file")
            .arg(files("ca.crt"))
            .arg("--peer-client-cert-auth")
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.members[number].process = Some(process);
    }

    /// Kills a member as a power cut does.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.members[number].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Returns how to reach this cluster.
    pub(crate) fn options(&self, prefix: &str) -> EtcdOptions {
        let file = |name: &str| self.directory.path().join(name);
        EtcdOptions {
            endpoints: self.members.iter().map(|member| format!("https://{}:2379", member.address)).collect(),
            tls: Some(EtcdTls { ca: file("ca.crt"), cert: file("tls.crt"), key: file("tls.key") }),
            prefix: prefix.into(),
            owner: "the tests".into(),
            memory: None,
        }
    }

    /// Returns the members' addresses; every port but etcd's is free there.
    pub(crate) fn addresses(&self) -> Vec<Ipv4Addr> {
        self.members.iter().map(|member| member.address).collect()
    }

    /// Returns a directory for files of the test.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}

/// Writes `ca.crt` and a certificate for every loopback address of a cluster, for servers, peers and clients.
pub(crate) fn write_certificates(directory: &Path) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let [.., high, low] = std::process::id().to_be_bytes();
    let mut leaf = CertificateParams::default();
    // Members call each other from 127.0.0.1, and each looks for that in the other's certificate.
    leaf.subject_alt_names = (1..=255)
        .map(|last| Ipv4Addr::new(127, high.max(1), low, last))
        .chain([Ipv4Addr::LOCALHOST])
        .map(|address| SanType::IpAddress(address.into()))
        .collect();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    std::fs::write(directory.join("ca.crt"), authority.pem()).unwrap();
    std::fs::write(directory.join("tls.crt"), leaf.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
}
