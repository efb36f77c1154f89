//! Public keys and their fingerprints.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::wire;
use crate::error::{Error, Result};

/// A public key of any kind, as a line of `authorized_keys` or of `ssh_host_*_key.pub` has it.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: String,
    blob: Vec<u8>,
    comment: String,
}

impl PublicKey {
    /// Returns the key that `blob` is, in the form that SSH sends it.
    pub(crate) fn from_blob(blob: &[u8], comment: &str) -> Result<Self> {
        let mut rest = blob;
        let algorithm =
            wire::string(&mut rest).and_then(|name| std::str::from_utf8(name).ok()).filter(|name| {
                !name.is_empty() && !rest.is_empty() && name.chars().all(|c| c.is_ascii_graphic())
            });
        let Some(algorithm) = algorithm else {
            return Err(Error::Key {
                what: "a public key".into(),
                why: "its bytes do not name its kind".into(),
            });
        };
        Ok(Self { algorithm: algorithm.into(), blob: blob.into(), comment: comment.into() })
    }

    /// Its kind: `ssh-ed25519`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// Its bytes as SSH sends them.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Its comment, often a user and a machine.
    #[must_use]
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.blob)
    }
}

/// The comment does not count.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.blob == other.blob
    }
}

impl Eq for PublicKey {}

/// The line of `authorized_keys`, without its end.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, STANDARD.encode(&self.blob))?;
        if self.comment.is_empty() { Ok(()) } else { write!(f, " {}", self.comment) }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.fingerprint())
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let bad = |why: &str| Error::Key {
            what: "a public key".into(),
            why: format!("{why}; expected a line such as `ssh-ed25519 AAAAC3… name`"),
        };
        let line = line.trim();
        if line.contains('\n') {
            return Err(bad("it has more than one line"));
        }
        let mut words = line.splitn(3, ' ');
        let (Some(algorithm), Some(encoded)) = (words.next(), words.next()) else {
            return Err(bad("it has no two words"));
        };
        let blob = STANDARD.decode(encoded).map_err(|_| bad("its second word is not base64"))?;
        let key = Self::from_blob(&blob, words.next().unwrap_or_default().trim())?;
        if key.algorithm != algorithm {
            return Err(bad(&format!("it says {algorithm} and is {}", key.algorithm)));
        }
        Ok(key)
    }
}

/// The SHA-256 of a public key, as OpenSSH prints it: `SHA256:` and base64 without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(blob: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, blob);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.trim()
            .strip_prefix("SHA256:")
            .and_then(|encoded| STANDARD_NO_PAD.decode(encoded).ok())
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| Error::Key {
                what: format!("the fingerprint {text:?}"),
                why: "expected SHA256: and 43 letters, as ssh-keygen -l prints it".into(),
            })
    }
}
