//! Starts an API server on loopback, for trials with real clients: no nodes, no controllers.
//!
//!     cargo run -p apiserver --example serve -- PORT KUBECONFIG [DATA_DIRECTORY]

#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use apiserver::{ApiServer, Config, Pki, testing};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::clock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use machinery::tls::{self, Identity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use store::{EmbeddedStore, MemoryStore, Options, Store};
use tokio_util::sync::CancellationToken;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome {
    machinery::log::init("info");
    let arguments: Vec<String> = std::env::args().collect();
    let [_, port, kubeconfig, data @ ..] = arguments.as_slice() else {
        return Err("usage: serve PORT KUBECONFIG [DATA_DIRECTORY]".into());
    };
    let port: u16 = port.parse()?;

    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "trial");
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    let issue = |name: &str, group: Option<&str>, host: Option<&str>| -> Outcome<(String, String)> {
        let mut params = CertificateParams::new(host.into_iter().map(str::to_owned).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let (serving, serving_key) = issue("kube-apiserver", None, Some("127.0.0.1"))?;
    let (admin, admin_key) = issue("kubernetes-admin", Some("system:masters"), None)?;

    let directory = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Outcome<std::path::PathBuf> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let identity = Identity::read(&write("serving.pem", &serving)?, &write("serving.key", &serving_key)?)?;
    let authorities = tls::certificates(&write("ca.pem", &authority_certificate.pem())?)?;

    let store: Arc<dyn Store> = match data {
        [directory] => {
            Arc::new(EmbeddedStore::open(Path::new(directory), Options::default(), clock::system())?)
        }
        _ => Arc::new(MemoryStore::new()),
    };
    let tasks = Tasks::new(CancellationToken::new());
    let config = Config {
        advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        pki: Pki {
            ca_certificate: authority_certificate.pem(),
            kubelet_client: None,
            ..testing::config().pki
        },
        ..testing::config()
    };
    let server = ApiServer::open(config, store, clock::system(), Random::from_os(), tasks.clone()).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let (_sender, tls) = tokio::sync::watch::channel(Arc::new(tls::server(identity, &authorities)?));
    server.serve(listener, tls);

    let encode = |text: &str| STANDARD.encode(text);
    std::fs::write(
        kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: trial\ncontexts:\n- name: trial\n  context: {{cluster: \
             trial, user: admin}}\nclusters:\n- name: trial\n  cluster: {{server: 'https://127.0.0.1:{port}', \
             certificate-authority-data: {}}}\nusers:\n- name: admin\n  user: {{client-certificate-data: {}, \
             client-key-data: {}}}\n",
            encode(&authority_certificate.pem()),
            encode(&admin),
            encode(&admin_key)
        ),
    )?;
    println!("KUBECONFIG={kubeconfig} kubectl version");
    tasks.token().cancelled().await;
    Ok(())
}
