//! Detached OpenPGP signatures, verified by `gpgv`: the program that package managers use for just this.
//!
//! A library for it in Rust would bring half a hundred crates, RSA among them, for the sake of one check.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;

use super::download::{Client, small};
use super::{Signature, Source};
use crate::error::{Error, Result};

/// Hashing some gigabytes on a slow machine.
const DEADLINE: Duration = Duration::from_secs(300);
/// No set of keys or signature is longer.
const MOST: u64 = 1 << 20;

/// Verifies that `file` was signed by one of the keys.
pub(super) async fn verify(
    image: &Source,
    signature: &Signature,
    file: &Path,
    client: &Client,
) -> Result<()> {
    let Signature { source, keys } = signature;
    let fail = |reason: String| Error::image(image, reason);
    let work = "verifying a signature";
    let directory = tempfile::tempdir().map_err(Error::io(work))?;
    let bytes = match source {
        Source::File(path) => bounded(path).map_err(Error::io(format!("reading the signature {source}")))?,
        Source::Url(url) => small(client, url).await?,
    };
    let ring = bounded(keys).map_err(Error::io(format!("reading the keys {}", keys.display())))?;
    let ring = binary(&ring).map_err(|reason| fail(format!("the keys in {}: {reason}", keys.display())))?;
    std::fs::write(directory.path().join("signature"), bytes).map_err(Error::io(work))?;
    std::fs::write(directory.path().join("keys"), ring).map_err(Error::io(work))?;
    let output = Command::new("gpgv")
        .args(["--status-fd", "1", "--keyring"])
        .arg(directory.path().join("keys"))
        .arg(directory.path().join("signature"))
        .arg(std::path::absolute(file).map_err(Error::io(work))?)
        .env("GNUPGHOME", directory.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(DEADLINE, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Io {
                doing: "its signature cannot be verified without the program gpgv: install it (Debian and \
                        Ubuntu: apt-get install gpgv; Fedora: dnf install gnupg2), or give a checksum only"
                    .into(),
                source: error,
            });
        }
        Ok(Err(error)) => return Err(Error::io("starting gpgv")(error)),
        Err(_) => return Err(Error::io("running gpgv")(io::ErrorKind::TimedOut.into())),
    };
    judge(output.status.success(), &String::from_utf8_lossy(&output.stdout)).map_err(|reason| {
        let words = String::from_utf8_lossy(&output.stderr);
        fail(format!("the signature {source} does not hold: {reason}\n{}", words.trim()))
    })
}

/// Judges by gpgv's status lines, of which VALIDSIG is there only for a good signature by a trusted key that
/// had not expired.
fn judge(success: bool, status: &str) -> Result<(), String> {
    let has = |word: &str| {
        status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")).any(|line| line.starts_with(word))
    };
    if success && has("VALIDSIG ") && !has("BADSIG ") && !has("EXPKEYSIG ") && !has("REVKEYSIG ") {
        return Ok(());
    }
    Err(if has("BADSIG ") {
        "the file is not the one that was signed".into()
    } else if has("NO_PUBKEY ") {
        "it was made by a key that is not among those given".into()
    } else if has("EXPKEYSIG ") || has("KEYEXPIRED ") {
        "its key has expired: get the publisher's present keys".into()
    } else if has("REVKEYSIG ") {
        "its key was revoked".into()
    } else if has("NODATA ") {
        "there is no OpenPGP signature in it".into()
    } else {
        "gpgv does not accept it".into()
    })
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    if length > MOST {
        return Err(io::Error::other(format!("{length} bytes are too many")));
    }
    std::fs::read(path)
}

/// Returns keys as gpgv wants them: without armour.
fn binary(keys: &[u8]) -> Result<Vec<u8>, String> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
    let Some(mut rest) = std::str::from_utf8(keys).ok().filter(|text| text.contains(BEGIN)) else {
        // The first packet of a key has its tag in the upper bits: 6, a public key.
        let key = keys.first().is_some_and(|first| matches!(first, 0x98..=0x9b | 0xc6));
        return if key { Ok(keys.into()) } else { Err("these are no OpenPGP public keys".into()) };
    };
    let mut out = Vec::new();
    while let Some((_, block)) = rest.split_once(BEGIN) {
        let (block, after) = block.split_once(END).ok_or("a key block has no end")?;
        // Headers end with an empty line; a line that begins with = is a checksum of the rest.
        let body =
            block.lines().skip(1).map(str::trim).skip_while(|line| line.contains(':')).collect::<Vec<_>>();
        let text: String = body.into_iter().take_while(|line| !line.starts_with('=')).collect();
        out.extend(STANDARD.decode(text).map_err(|error| format!("a key block is damaged: {error}"))?);
        rest = after;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_signature_by_a_living_key_counts() {
        let valid = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 a\n[GNUPG:] VALIDSIG AB 2026-01-01\n";
        assert_eq!(judge(true, valid), Ok(()));
        assert!(judge(false, valid).is_err());
        let cases = [
            ("[GNUPG:] BADSIG 1 a", "not the one that was signed"),
            ("[GNUPG:] ERRSIG 1 1 8 00 1 9\n[GNUPG:] NO_PUBKEY 1", "not among those given"),
            ("[GNUPG:] EXPKEYSIG 1 a\n[GNUPG:] VALIDSIG AB", "has expired"),
            ("[GNUPG:] REVKEYSIG 1 a\n[GNUPG:] VALIDSIG AB", "was revoked"),
            ("[GNUPG:] NODATA 4", "no OpenPGP signature"),
            ("", "does not accept"),
            // Only gpgv's own lines count, not a name in one.
            ("gpgv: Good signature from \"[GNUPG:] VALIDSIG \"", "does not accept"),
        ];
        for (status, expected) in cases {
            let reason = judge(true, status).unwrap_err();
            assert!(reason.contains(expected), "{reason} lacks {expected}");
        }
    }

    #[test]
    fn armour_is_taken_off() {
        let block = |body: &str| {
            format!(
                "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: 1\n\n{body}\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
            )
        };
        let two = format!("a comment\n{}{}", block("mAEC"), block("mAMEBQY="));
        assert_eq!(binary(two.as_bytes()).unwrap(), [0x98, 1, 2, 0x98, 3, 4, 5, 6]);
        assert_eq!(binary(&[0x99, 1, 2]).unwrap(), [0x99, 1, 2]);
        assert!(binary(b"ssh-ed25519 AAAA").is_err());
        assert!(binary(b"").is_err());
        assert!(binary(block("!!").as_bytes()).is_err());
        assert!(binary(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmAEC").is_err());
    }
}
