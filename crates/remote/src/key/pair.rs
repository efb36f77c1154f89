//! Private keys and key pairs.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::PublicKey;
use super::wire;
use crate::error::{Error, Result};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const ED25519: &[u8] = b"ssh-ed25519";
/// Private keys are small; this bounds what a wrong path makes us read.
const MOST: usize = 1 << 20;

/// A private key as OpenSSH reads it from a file: what logs in. Never shown.
#[derive(Clone)]
pub struct PrivateKey {
    pem: Arc<str>,
    public: Option<PublicKey>,
}

impl PrivateKey {
    /// Reads a private key: OpenSSH's own format, or PEM.
    ///
    /// # Errors
    /// [`Error::Key`] when it is no private key, or needs a passphrase.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::Key { what: "the private key".into(), why: why.into() };
        let text = text.trim();
        if text.len() > MOST || !text.starts_with("-----BEGIN ") || !text.contains("PRIVATE KEY-----") {
            return Err(bad(
                "it is none: expected a file that starts with -----BEGIN OPENSSH PRIVATE KEY-----",
            ));
        }
        let passphrase = "it needs a passphrase, which cannot be given here; use a key without one (ssh-keygen -t ed25519 -N '')";
        if text.contains("ENCRYPTED") {
            return Err(bad(passphrase));
        }
        let mut public = None;
        if text.starts_with(BEGIN) {
            let container = Container::read(text).ok_or_else(|| bad("it is damaged"))?;
            if container.encrypted {
                return Err(bad(passphrase));
            }
            public = Some(container.public);
        }
        Ok(Self { pem: format!("{text}\n").into(), public })
    }

    /// Reads a private key file.
    ///
    /// # Errors
    /// [`Error::Key`] or [`Error::Local`], which names the file.
    pub fn from_path(path: &std::path::Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).map_err(Error::local("reading the private key"))?;
        Self::parse(&text).map_err(|error| match error {
            Error::Key { why, .. } => Error::Key { what: format!("the private key {}", path.display()), why },
            other => other,
        })
    }

    /// The public half, when the file says it: OpenSSH's format does, PEM does not.
    #[must_use]
    pub fn public(&self) -> Option<&PublicKey> {
        self.public.as_ref()
    }

    /// The file's text.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// What to call it in a message.
    pub(crate) fn label(&self) -> String {
        self.public.as_ref().map_or_else(|| "of a PEM file".into(), |public| public.fingerprint().to_string())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.label())
    }
}

/// An Ed25519 key pair that was made here: for a user, or for a machine to be known by.
#[derive(Clone)]
pub struct KeyPair {
    private: PrivateKey,
    public: PublicKey,
}

impl KeyPair {
    /// Makes a key pair with this comment.
    ///
    /// # Errors
    /// [`Error::Key`] when the system gives no random bytes.
    pub fn generate(comment: &str) -> Result<Self> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| Error::Key {
            what: "a new SSH key".into(),
            why: "the system gives no random bytes".into(),
        })?;
        Self::from_seed(&seed, comment)
    }

    /// Reads a key pair back from its private file, in OpenSSH's own format.
    ///
    /// # Errors
    /// [`Error::Key`] when it is no private key, needs a passphrase, or does not say its public half.
    pub fn parse(text: &str) -> Result<Self> {
        let private = PrivateKey::parse(text)?;
        let public = private.public.clone().ok_or_else(|| Error::Key {
            what: "the private key".into(),
            why: "it does not say its public half: only OpenSSH's own format does".into(),
        })?;
        Ok(Self { private, public })
    }

    /// Returns the key pair of this seed, which is the secret itself: the same seed and comment give the same files.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the comment is not one line.
    pub fn from_seed(seed: &[u8; 32], comment: &str) -> Result<Self> {
        if comment.chars().any(char::is_control) {
            return Err(Error::Invalid(format!("the comment {comment:?} of an SSH key is not one line")));
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|error| Error::Key { what: "a new SSH key".into(), why: error.to_string() })?;
        let point = pair.public_key().as_ref();
        let mut blob = Vec::new();
        wire::put(&mut blob, ED25519);
        wire::put(&mut blob, point);
        let public = PublicKey::from_blob(&blob, comment)?;
        let private = PrivateKey { pem: write(seed, point, &public).into(), public: Some(public.clone()) };
        Ok(Self { private, public })
    }

    /// The private half.
    #[must_use]
    pub fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// The public half; shown, it is a line for `authorized_keys` or for `ssh_host_ed25519_key.pub`.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private half as the text of a file: `id_ed25519`, or `/etc/ssh/ssh_host_ed25519_key`. Keep it 0600.
    #[must_use]
    pub fn private_text(&self) -> &str {
        self.private.pem()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public.fingerprint())
    }
}

/// Writes the file of an unencrypted Ed25519 key.
fn write(seed: &[u8; 32], point: &[u8], public: &PublicKey) -> String {
    let mut secret = Vec::new();
    // Two equal numbers show whether a decryption was right. Drawn from the key, so that a seed gives one file.
    let check = &ring::digest::digest(&ring::digest::SHA256, public.blob());
    secret.extend_from_slice(&check.as_ref()[..4]);
    secret.extend_from_slice(&check.as_ref()[..4]);
    wire::put(&mut secret, ED25519);
    wire::put(&mut secret, point);
    wire::put(&mut secret, &[seed.as_slice(), point].concat());
    wire::put(&mut secret, public.comment().as_bytes());
    let mut padding = 1;
    while secret.len() % 8 != 0 {
        secret.push(padding);
        padding += 1;
    }
    let mut all = MAGIC.to_vec();
    wire::put(&mut all, b"none");
    wire::put(&mut all, b"none");
    wire::put(&mut all, b"");
    all.extend_from_slice(&1u32.to_be_bytes());
    wire::put(&mut all, public.blob());
    wire::put(&mut all, &secret);
    let encoded = STANDARD.encode(all);
    let mut text = format!("{BEGIN}\n");
    // Base64 is ASCII, so that every byte is a boundary.
    for start in (0..encoded.len()).step_by(70) {
        text.push_str(&encoded[start..encoded.len().min(start + 70)]);
        text.push('\n');
    }
    text + END + "\n"
}

/// The open part of an OpenSSH private key file.
struct Container {
    public: PublicKey,
    encrypted: bool,
}

impl Container {
    fn read(text: &str) -> Option<Self> {
        let body = text.strip_prefix(BEGIN)?.split(END).next()?;
        let bytes = STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let cipher = wire::string(&mut rest)?;
        let _function = wire::string(&mut rest)?;
        let _options = wire::string(&mut rest)?;
        if wire::number(&mut rest)? != 1 {
            return None;
        }
        let blob = wire::string(&mut rest)?;
        let secret = wire::string(&mut rest)?;
        let encrypted = cipher != b"none";
        let comment = if encrypted { "" } else { comment_of(secret).unwrap_or_default() };
        Some(Self { public: PublicKey::from_blob(blob, comment).ok()?, encrypted })
    }
}

/// The comment of an Ed25519 key; of other kinds it is not looked for.
fn comment_of(mut secret: &[u8]) -> Option<&str> {
    let rest = &mut secret;
    let (one, two) = (wire::number(rest)?, wire::number(rest)?);
    if one != two || wire::string(rest)? != ED25519 {
        return None;
    }
    wire::string(rest)?;
    wire::string(rest)?;
    std::str::from_utf8(wire::string(rest)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_seed_gives_one_file_that_reads_back() {
        let pair = KeyPair::from_seed(&[7; 32], "core@lab").unwrap();
        assert_eq!(pair.private_text(), KeyPair::from_seed(&[7; 32], "core@lab").unwrap().private_text());
        let read = PrivateKey::parse(pair.private_text()).unwrap();
        assert_eq!(read.public(), Some(pair.public()));
        let again = KeyPair::parse(pair.private_text()).unwrap();
        assert_eq!((again.public(), again.private_text()), (pair.public(), pair.private_text()));
        assert_eq!(read.public().unwrap().comment(), "core@lab");
        assert_eq!(pair.public().to_string().parse::<PublicKey>().unwrap(), *pair.public());
        let fingerprint = pair.public().fingerprint();
        assert_eq!(fingerprint.to_string().parse::<super::super::Fingerprint>().unwrap(), fingerprint);
    }

    #[test]
    fn two_keys_differ() {
        assert_ne!(KeyPair::generate("").unwrap().public(), KeyPair::generate("").unwrap().public());
    }

    #[test]
    fn a_private_key_is_not_in_debug_output() {
        let pair = KeyPair::generate("x").unwrap();
        let shown = format!("{pair:?} {:?}", pair.private());
        assert!(shown.contains("SHA256:") && !shown.contains("BEGIN"), "{shown}");
    }

    #[test]
    fn what_is_no_private_key_is_told() {
        let pair = KeyPair::generate("x").unwrap();
        for (text, says) in [
            (pair.public().to_string(), "it is none"),
            (pair.private_text().replace("b3B", "AAA"), "it is damaged"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----".into(),
                "passphrase",
            ),
        ] {
            let error = PrivateKey::parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(KeyPair::generate("two\nlines").is_err());
    }

    proptest! {
        #[test]
        fn damaged_text_never_panics(at in 0usize..300, with in any::<u8>(), line in ".{0,80}") {
            let mut bytes = KeyPair::from_seed(&[1; 32], "c").unwrap().private_text().as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = with & 0x7f;
            let _ = PrivateKey::parse(&String::from_utf8_lossy(&bytes));
            let _ = line.parse::<PublicKey>();
            let _ = line.parse::<super::super::Fingerprint>();
        }
    }
}
