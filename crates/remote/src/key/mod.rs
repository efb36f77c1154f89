//! SSH keys: made, read and written as OpenSSH does.
//!
//! The formats are those of OpenSSH's PROTOCOL.key and RFC 4253, section 6.6; only Ed25519 (RFC 8709) is made here,
//! any kind of public key can be read, compared and pinned.

mod pair;
mod public;
mod wire;

pub use pair::{KeyPair, PrivateKey};
pub use public::{Fingerprint, PublicKey};
