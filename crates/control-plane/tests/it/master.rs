//! Control planes in processes of their own: the test starts itself again as one.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use control_plane::{Config, Etcd, Pki, StoreConfig};
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use store::EtcdOptions;

const CONFIG: &str = "CONTROL_PLANE_TEST_CONFIG";

/// Not a test: what the test starts in processes of their own.
#[test]
fn run_as_control_plane() {
    if let Some(config) = std::env::var_os(CONFIG) {
        let arguments = ["control-plane".into(), "--config".into(), config];
        let ended = control_plane::main(arguments.into());
        // The status is for whoever reads the log.
        assert_eq!(format!("{ended:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
    }
}

/// One master of a cluster.
pub(crate) struct Master {
    pub(crate) address: Ipv4Addr,
    directory: PathBuf,
    process: Option<Child>,
}

impl Master {
    /// Starts a master that listens on `address`; `pki` is the directory that [`write_pki`] filled.
    pub(crate) fn start(directory: PathBuf, pki: &Path, address: Ipv4Addr, etcd: &EtcdOptions) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let tls = etcd.tls.clone().unwrap();
        let file = |name: &str| pki.join(name);
        let config = Config {
            cluster_name: "tests".into(),
            advertise_address: IpAddr::V4(address),
            port: 6443,
            shared_address: None,
            service_network: "10.3.0.0/24".parse().unwrap(),
            dns_address: Ipv4Addr::new(10, 3, 0, 10),
            cluster_domain: "cluster.local".into(),
            pod_network: "10.107.0.0/16".parse().unwrap(),
            node_prefix: 24,
            load_balancer_range: (Ipv4Addr::new(172, 37, 4, 240), Ipv4Addr::new(172, 37, 4, 250)),
            node_port_range: (30000, 32767),
            data_directory: directory.join("data"),
            store: StoreConfig::Etcd(Etcd {
                endpoints: etcd.endpoints.clone(),
                ca: tls.ca,
                cert: tls.cert,
                key: tls.key,
                prefix: etcd.prefix.clone(),
            }),
            pki: Pki {
                ca_certificate: file("ca.crt"),
                ca_key: file("ca.key"),
                serving_certificate: file("server.crt"),
                serving_key: file("server.key"),
                kubelet_client_certificate: file("admin.crt"),
                kubelet_client_key: file("admin.key"),
                service_account_key: file("sa.key"),
                front_proxy: None,
            },
            audit: None,
            token_file: None,
        };
        std::fs::write(directory.join("config.yaml"), serde_yaml::to_string(&config).unwrap()).unwrap();
        let mut master = Self { address, directory, process: None };
        master.run();
        master
    }

    /// Starts it again.
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe().unwrap())
            .args(["master::run_as_control_plane", "--exact", "--nocapture"])
            .env(CONFIG, self.directory.join("config.yaml"))
            .env("NO_COLOR", "1")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a client of the API at `address` with every right.
pub(crate) async fn client(pki: &Path, address: Ipv4Addr) -> kube::Client {
    let file = |name: &str| Some(pki.join(name).display().to_string());
    let cluster = Cluster {
        server: Some(format!("https://{address}:6443")),
        certificate_authority: file("ca.crt"),
        ..Cluster::default()
    };
    let user = AuthInfo {
        client_certificate: file("admin.crt"),
        client_key: file("admin.key"),
        ..AuthInfo::default()
    };
    let context = Context { cluster: "c".into(), user: Some("u".into()), ..Context::default() };
    let kubeconfig = Kubeconfig {
        clusters: vec![NamedCluster { name: "c".into(), cluster: Some(cluster), ..Default::default() }],
        auth_infos: vec![NamedAuthInfo { name: "u".into(), auth_info: Some(user), ..Default::default() }],
        contexts: vec![NamedContext { name: "x".into(), context: Some(context), ..Default::default() }],
        current_context: Some("x".into()),
        ..Kubeconfig::default()
    };
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.connect_timeout = Some(std::time::Duration::from_secs(1));
    config.read_timeout = Some(std::time::Duration::from_secs(3));
    kube::Client::try_from(config).unwrap()
}

/// Writes an authority and what it has signed: a server at `addresses` and an administrator.
pub(crate) fn write_pki(directory: &Path, addresses: &[Ipv4Addr]) {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).unwrap();
    write("ca.crt", authority.pem());
    write("ca.key", authority.key().serialize_pem());
    write("sa.key", KeyPair::generate().unwrap().serialize_pem());
    for (name, user, groups, usage) in [
        ("server", "kube-apiserver", vec![], ExtendedKeyUsagePurpose::ServerAuth),
        ("admin", "kubernetes-admin", vec!["system:masters"], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            leaf.distinguished_name.push(DnType::OrganizationName, group);
        }
        leaf.extended_key_usages = vec![usage];
        leaf.subject_alt_names =
            addresses.iter().map(|address| SanType::IpAddress((*address).into())).collect();
        write(&format!("{name}.crt"), leaf.signed_by(&key, &authority).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
