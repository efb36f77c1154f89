//! The one error of this crate.

use std::time::Duration;

/// Why a runtime call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such sandbox, container or image.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// "sandbox", "container" or "image".
        what: &'static str,
        /// The id or reference that was asked for.
        id: String,
    },
    /// The image cannot be had; `reason` is what the registry said.
    #[error("failed to pull image {image:?}: {reason}")]
    Pull {
        /// The reference.
        image: String,
        /// Why.
        reason: String,
    },
    /// The request makes no sense (a bad reference, an empty command, an unknown user).
    #[error("{0}")]
    Invalid(String),
    /// A deadline passed.
    #[error("{what} timed out after {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The kernel or the file system refused.
    #[error("{context}: {reason}")]
    System {
        /// What was being done, to what.
        context: String,
        /// What the system said.
        reason: String,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns what the kernel or the file system refused, with what was being done.
    pub(crate) fn system(context: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::System { context: context.into(), reason: reason.to_string() }
    }

    pub(crate) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.to_owned() }
    }
}
