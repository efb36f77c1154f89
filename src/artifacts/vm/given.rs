//! What a cluster of virtual machines is given beside its spec: the files that the spec names, read and checked, and
//! SSH keys, made when missing and kept when there. The keys live in the cluster's directory, which is their seed:
//! the same directory gives the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use remote::{KeyPair, PrivateKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::butane;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan};

/// The most that a file may have which the spec names: a configuration that a hypervisor hands over is small.
pub(super) const MOST: u64 = 1 << 20;

/// What a cluster of virtual machines is given beside its spec.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// Lines of `authorized_keys` that let the tool and its user in; the first one is the tool's, and is there.
    pub(crate) authorized: Vec<String>,
    /// The user's own Ignition configuration, as JSON.
    pub(crate) ignition: Option<String>,
    /// Certificates that the machines trust, each one PEM.
    pub(crate) certificates: Vec<String>,
    host_keys: BTreeMap<String, KeyPair>,
}

impl Given {
    /// Returns the key that a machine's SSH daemon is known by.
    pub(crate) fn host_key(&self, machine: &Machine) -> Result<&KeyPair> {
        self.host_keys
            .get(&machine.name)
            .ok_or_else(|| Error::internal(format!("{} has no SSH host key", machine.name)))
    }

    /// Reads what the spec names, and makes the keys that are missing in `directory`, the cluster's own.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be; named, with what would be right.
    pub(crate) fn ensure(plan: &Plan, directory: &Path) -> Result<Self> {
        let ignition = plan.spec.ignition.as_deref().map(own_ignition).transpose()?;
        let mut certificates = Vec::new();
        for path in &plan.spec.certificates {
            certificates.extend(authorities(path)?);
        }
        let mut host_keys = BTreeMap::new();
        for machine in &plan.machines {
            let path = machine.host_key.as_ref().context("the plan names no SSH host key")?;
            let pair = ensure_pair(&directory.join(path))?;
            host_keys.insert(machine.name.clone(), pair);
        }
        let authorized = authorized(plan, directory)?;
        Ok(Self { authorized, ignition, certificates, host_keys })
    }
}

/// Returns the public keys to let in, and makes the tool's own unless the spec names another.
fn authorized(plan: &Plan, directory: &Path) -> Result<Vec<String>> {
    let ssh = plan.spec.ssh.as_ref().context("the plan does not say how machines are reached")?;
    let Some(private) = &ssh.private_key else {
        let login = plan.login.as_ref().context("the plan does not say how machines are reached")?;
        let own = ensure_pair(&directory.join(&login.key))?;
        return Ok([own.public().to_string()].into_iter().chain(ssh.public_key.clone()).collect());
    };
    let text = read(private, "ssh.privateKey")?;
    let within = || format!("reading ssh.privateKey {}", private.display());
    let public = PrivateKey::parse(&text).context(within())?.public().map(ToString::to_string);
    match (public, &ssh.public_key) {
        (Some(public), Some(given)) if words(&public) != words(given) => {
            Err(Error::user(format!("ssh.publicKey is not that of ssh.privateKey {}", private.display()))
                .hint(format!("leave ssh.publicKey out, or give: {public}")))
        }
        (_, Some(given)) => Ok(vec![given.clone()]),
        (Some(public), None) => Ok(vec![public]),
        (None, None) => Err(Error::user(format!("{} does not say its public key", private.display()))
            .because("only OpenSSH's own format does")
            .hint("give ssh.publicKey, or a key made by: ssh-keygen -t ed25519")),
    }
}

/// Returns kind and blob of a public key, without its comment.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().take(2).collect()
}

/// Reads a key pair, or makes it. The private half is written last: without it, nothing is there.
fn ensure_pair(path: &Path) -> Result<KeyPair> {
    match fs_err::read_to_string(path) {
        Ok(text) => KeyPair::parse(&text)
            .context(format!("reading {}", path.display()))
            .map_err(|error| error.hint(format!("remove {} to have a new one made", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pair = KeyPair::generate("")?;
            let writing = || format!("writing {}", path.display());
            if let Some(parent) = path.parent() {
                fs_err::create_dir_all(parent)?;
                fs_err::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            }
            let public = PathBuf::from(format!("{}.pub", path.display()));
            machinery::files::replace(
                &public,
                format!("{}\n", pair.public()).as_bytes(),
                machinery::files::PUBLIC,
            )
            .context(writing())?;
            machinery::files::replace(path, pair.private_text().as_bytes(), machinery::files::PRIVATE)
                .context(writing())?;
            Ok(pair)
        }
        Err(error) => Err(error.into()),
    }
}

fn read(path: &Path, field: &str) -> Result<String> {
    let within = format!("reading {field}");
    let size = fs_err::metadata(path).context(&within)?.len();
    if size > MOST {
        return Err(Error::user(format!("{field} {} has {size} bytes", path.display()))
            .because(format!("at most {MOST} are read"))
            .hint("give a smaller file; large ones are fetched by Ignition itself, from a URL"));
    }
    fs_err::read_to_string(path).context(within)
}

fn own_ignition(path: &Path) -> Result<String> {
    let text = read(path, "ignition")?;
    let base = path.parent().unwrap_or(path);
    butane::to_ignition(&text, base).map_err(|error| error.within(format!("ignition {}", path.display())))
}

/// Returns every certificate of a PEM file by itself.
fn authorities(path: &Path) -> Result<Vec<String>> {
    let text = read(path, "certificates")?;
    let bad = |why: String| {
        Error::user(format!("certificates {} cannot be used", path.display()))
            .because(why)
            .hint("give PEM: -----BEGIN CERTIFICATE----- and what follows, once or more")
    };
    let mut found = Vec::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()) {
        let block = block.map_err(|error| bad(format!("it is not PEM: {error}")))?;
        if block.label != "CERTIFICATE" {
            return Err(bad(format!("it has a {}, which is not for machines to see", block.label)));
        }
        let (_, certificate) = X509Certificate::from_der(&block.contents)
            .map_err(|error| bad(format!("it is not a certificate: {error}")))?;
        if !certificate.is_ca() {
            return Err(bad(format!("{} is no authority's certificate", certificate.subject())));
        }
        found.push(pem(&block.contents));
    }
    if found.is_empty() { Err(bad("there is no certificate in it".into())) } else { Ok(found) }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut lines = vec!["-----BEGIN CERTIFICATE-----"];
    // Base64 is ASCII: every byte is a boundary.
    lines.extend((0..text.len()).step_by(64).map(|start| &text[start..text.len().min(start + 64)]));
    lines.push("-----END CERTIFICATE-----\n");
    lines.join("\n")
}
