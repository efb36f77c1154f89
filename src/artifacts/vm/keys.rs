//! SSH key pairs in OpenSSH's format (PROTOCOL.key; RFC 8709 for Ed25519).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom;
use ring::signature::KeyPair as _;

use crate::error::{Error, Result};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const KIND: &[u8] = b"ssh-ed25519";

/// A key pair: of a user, or of a machine's SSH daemon.
#[derive(Clone)]
pub(crate) struct KeyPair {
    private: String,
    public: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

impl KeyPair {
    /// Makes an Ed25519 key pair.
    pub(crate) fn generate(comment: &str) -> Result<Self> {
        let mut seed = [0; 32];
        let failed = |_| Error::user("making an SSH key: the system gives no random bytes");
        ring::rand::SystemRandom::new().fill(&mut seed).map_err(failed)?;
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|error| Error::internal(format!("making an SSH key: {error}")))?;
        let point = pair.public_key().as_ref();
        let blob = [text(KIND), text(point)].concat();
        // Two equal numbers tell whether a decryption was right.
        let mut secret = [&point[..4], &point[..4]].concat();
        for part in [KIND, point, &[&seed, point].concat(), comment.as_bytes()] {
            secret.extend(text(part));
        }
        let padding = (8 - secret.len() % 8) % 8;
        secret.extend((1u8..).take(padding));
        let all = [
            MAGIC,
            &text(b"none"),
            &text(b"none"),
            &text(b""),
            &1u32.to_be_bytes(),
            &text(&blob),
            &text(&secret),
        ];
        let encoded = STANDARD.encode(all.concat());
        let mut lines = vec![BEGIN];
        lines.extend((0..encoded.len()).step_by(70).map(|at| &encoded[at..encoded.len().min(at + 70)]));
        let private = lines.join("\n") + "\n" + END + "\n";
        Ok(Self { private, public: format!("ssh-ed25519 {} {comment}", STANDARD.encode(blob)).trim().into() })
    }

    /// Reads the private half as OpenSSH wrote it.
    pub(crate) fn parse(private: &str) -> Result<Self> {
        let public = public_of(private)?.ok_or_else(|| Error::user("it is not in OpenSSH's own format"))?;
        Ok(Self { private: private.into(), public })
    }

    /// Returns the line of `authorized_keys`.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// Returns the text of the private key's file.
    pub(crate) fn private_text(&self) -> &str {
        &self.private
    }
}

/// Returns bytes as SSH writes them: their number first.
fn text(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

fn take<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let (head, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = tail;
    Some(head)
}

/// Returns the public half of a private key, where its format tells it.
///
/// # Errors
/// What is no private key, or needs a passphrase.
pub(crate) fn public_of(private: &str) -> Result<Option<String>> {
    let private = private.trim();
    let passphrase = || {
        Error::user("it needs a passphrase, which nobody could give while machines boot")
            .hint("use a key without one: ssh-keygen -t ed25519 -N ''")
    };
    if !private.starts_with("-----BEGIN ") || !private.contains("PRIVATE KEY-----") {
        return Err(Error::user("it is no private key").hint("give the file without .pub"));
    }
    if private.contains("ENCRYPTED") {
        return Err(passphrase());
    }
    let Some(body) = private.strip_prefix(BEGIN) else { return Ok(None) };
    let read = || {
        let body: String = body.split(END).next()?.split_whitespace().collect();
        let bytes = STANDARD.decode(body).ok()?;
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let encrypted = take(&mut rest)? != b"none";
        take(&mut rest)?;
        take(&mut rest)?;
        let (_, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        let blob = take(&mut rest)?.to_vec();
        let kind = String::from_utf8(take(&mut blob.as_slice())?.to_vec()).ok()?;
        Some((encrypted, format!("{kind} {}", STANDARD.encode(blob))))
    };
    match read() {
        None => Err(Error::user("it is damaged")),
        Some((true, _)) => Err(passphrase()),
        Some((false, public)) => Ok(Some(public)),
    }
}
