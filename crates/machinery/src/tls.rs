//! TLS from PEM files, by rustls with ring. The process default provider is never consulted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What can be wrong with a certificate, a key or a set of roots.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or is not PEM.
    #[error("reading {what} from {path}: {reason}")]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The parts do not fit together.
    #[error("setting up TLS: {0}")]
    Setup(String),
}

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate first, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads a chain and a key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or holds no certificate or key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        Ok(Self { chain: certificates(certificate)?, key: read_key(key)? })
    }

    /// Returns a copy.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Reads every certificate of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let fail = |reason: String| Error::Read { what: "certificates", path: path.into(), reason };
    let found = CertificateDer::pem_file_iter(path)
        .map_err(|error| fail(error.to_string()))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fail(error.to_string()))?;
    if found.is_empty() { Err(fail("no certificate in it".into())) } else { Ok(found) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| Error::Read {
        what: "a private key",
        path: path.into(),
        reason: error.to_string(),
    })
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store.add(authority.clone()).map_err(|error| Error::Setup(error.to_string()))?;
    }
    Ok(store)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns a server's configuration. A client certificate is asked for and, when given, must be signed by
/// one of `client_authorities`; whether one is needed is decided per request, above.
///
/// # Errors
/// When key and chain do not match or an authority is not usable.
pub fn server(
    identity: Identity,
    client_authorities: &[CertificateDer<'static>],
) -> Result<ServerConfig, Error> {
    let setup = |error: &dyn std::fmt::Display| Error::Setup(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let builder = if client_authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_authorities)?), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| setup(&error))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_single_cert(identity.chain, identity.key).map_err(|error| setup(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Returns a client's configuration that trusts `authorities` and presents `identity` if there is one.
///
/// # Errors
/// When key and chain do not match or an authority is not usable.
pub fn client(
    authorities: &[CertificateDer<'static>],
    identity: Option<Identity>,
) -> Result<ClientConfig, Error> {
    let setup = |error: &dyn std::fmt::Display| Error::Setup(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .with_root_certificates(roots(authorities)?);
    match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain, identity.key).map_err(|error| setup(&error))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}
