//! Checksums as publishers show them: SHA-256 and SHA-512.

use std::fmt::{self, Write};
use std::io::Read;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use ring::digest::{Algorithm, Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A checksum, written `sha256:HEX` or `sha512:HEX`; bare digits are told apart by how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Checksum {
    kind: Kind,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sha256,
    Sha512,
}

impl Kind {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Sha256 => &SHA256,
            Self::Sha512 => &SHA512,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl Checksum {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.hex)
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is not a checksum: write sha256: and 64 hexadecimal digits, or sha512: and 128")
        };
        let (kind, hex) = match text.split_once(':') {
            Some(("sha256", hex)) => (Kind::Sha256, hex),
            Some(("sha512", hex)) => (Kind::Sha512, hex),
            Some(_) => return Err(bad()),
            None if text.len() == 64 => (Kind::Sha256, text),
            None => (Kind::Sha512, text),
        };
        let right = hex.len() == kind.algorithm().output_len() * 2
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if right { Ok(Self { kind, hex: hex.to_ascii_lowercase() }) } else { Err(bad()) }
    }
}

/// How much is read at once, between two looks whether anybody still waits.
const CHUNK: usize = 1 << 20;

/// Computes the checksum of a file.
pub(super) fn of_file(path: &Path, kind: Kind, cancelled: &AtomicBool) -> Result<Checksum> {
    let doing = || format!("reading {}", path.display());
    let mut file = std::fs::File::open(path).map_err(Error::io(doing()))?;
    let mut context = Context::new(kind.algorithm());
    let mut chunk = vec![0; CHUNK];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::io(doing())(std::io::ErrorKind::Interrupted.into()));
        }
        let read = file.read(&mut chunk).map_err(Error::io(doing()))?;
        if read == 0 {
            return Ok(Checksum { kind, hex: hex(context) });
        }
        context.update(&chunk[..read]);
    }
}

/// Returns the SHA-256 of `bytes` in hexadecimal digits.
pub(super) fn of_bytes(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    hex(context)
}

/// Ends a computation, and writes its result in hexadecimal digits.
pub(super) fn hex(context: Context) -> String {
    let mut text = String::new();
    for byte in context.finish().as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_in_each_form() {
        let short = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(short.parse::<Checksum>().unwrap().to_string(), format!("sha256:{short}"));
        let upper = format!("sha256:{}", short.to_uppercase());
        assert_eq!(upper.parse::<Checksum>().unwrap().to_string(), format!("sha256:{short}"));
        let long = "a".repeat(128);
        assert_eq!(long.parse::<Checksum>().unwrap().to_string(), format!("sha512:{long}"));
        for bad in ["", "sha256:", "md5:abc", "sha512:abcd", &"g".repeat(64), &"a".repeat(63)] {
            assert!(bad.parse::<Checksum>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_has_the_published_checksum_of_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let found = of_file(&path, Kind::Sha256, &AtomicBool::new(false)).unwrap();
        assert_eq!(
            found.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(
            of_file(&path, Kind::Sha512, &AtomicBool::new(false))
                .unwrap()
                .to_string()
                .starts_with("sha512:ddaf35a1")
        );
        assert!(of_file(&path, Kind::Sha256, &AtomicBool::new(true)).is_err());
    }
}
