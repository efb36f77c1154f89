//! An API server on loopback with certificates of its own: for trials and for the benchmark.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use apiserver::{ApiServer, Config, Pki, testing};
use machinery::clock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use machinery::tls::{self, Identity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use store::Store;
use tokio_util::sync::CancellationToken;

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Writes a certificate authority and what it issued for the server and for an administrator.
pub(crate) fn certificates(directory: &Path) -> Outcome {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "trial");
    let authority_key = KeyPair::generate()?;
    std::fs::write(directory.join("ca.pem"), authority.self_signed(&authority_key)?.pem())?;
    let issuer = Issuer::new(authority, authority_key);
    let issue = |file: &str, name: &str, group: Option<&str>, host: Option<&str>| -> Outcome {
        let mut params = CertificateParams::new(host.into_iter().map(str::to_owned).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate()?;
        std::fs::write(directory.join(format!("{file}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        Ok(std::fs::write(directory.join(format!("{file}.key")), key.serialize_pem())?)
    };
    issue("serving", "kube-apiserver", None, Some("127.0.0.1"))?;
    issue("admin", "kubernetes-admin", Some("system:masters"), None)
}

/// Serves a store with the certificates in `directory`, until the process ends. `ready` is called when the
/// server answers.
pub(crate) async fn serve(
    port: u16,
    directory: &Path,
    store: Arc<dyn Store>,
    ready: impl FnOnce() -> Outcome,
) -> Outcome {
    let tasks = Tasks::new(CancellationToken::new());
    let config = Config {
        advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        pki: Pki {
            ca_certificate: std::fs::read_to_string(directory.join("ca.pem"))?,
            kubelet_client: None,
            front_proxy: None,
            ..testing::config().pki
        },
        ..testing::config()
    };
    let server = ApiServer::open(config, store, clock::system(), Random::from_os(), tasks.clone()).await?;
    let identity = Identity::read(&directory.join("serving.pem"), &directory.join("serving.key"))?;
    let authorities = tls::certificates(&directory.join("ca.pem"))?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let (_sender, tls) = tokio::sync::watch::channel(Arc::new(tls::server(identity, &authorities)?));
    server.serve(listener, tls);
    ready()?;
    tasks.token().cancelled().await;
    Ok(())
}
