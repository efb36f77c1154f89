//! Images and how to log in to where they come from.

use serde::{Deserialize, Serialize};

/// An image that is on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its id: the digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names, such as `docker.io/library/nginx:latest`.
    pub tags: Vec<String>,
    /// Names by digest, such as `docker.io/library/nginx@sha256:…`.
    pub digests: Vec<String>,
    /// Its size in bytes, layers unpacked.
    pub size: u64,
    /// The user it runs as when none is asked for: a number, a name, or empty for root.
    pub user: String,
    /// Must not be collected.
    pub pinned: bool,
}

/// How to log in to a registry.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}
