//! The one error of this crate.

use std::io;

use ipnet::Ipv4Net;

/// Why the network could not be made as asked. All but [`Error::Invalid`], [`Error::Unsupported`] and
/// [`Error::Missing`] may go away by themselves: try again with back-off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error("{context}: {reason}")]
    Kernel {
        /// What was being done, to what.
        context: String,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel was built without something that is needed.
    #[error("{context}: this kernel lacks {config}; use one that has it (built in or as a module)")]
    Missing {
        /// What was being done.
        context: String,
        /// The configuration symbols, one of which is missing.
        config: String,
    },
    /// A file, a device or a socket failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, to what.
        context: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Every pod address of the node is taken.
    #[error(
        "no free address in {cidr}: all {used} are in use; delete pods or give nodes a larger pod network"
    )]
    Exhausted {
        /// The node's pod network.
        cidr: Ipv4Net,
        /// Addresses in use.
        used: usize,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for is not built.
    #[error("not supported yet: {0}")]
    Unsupported(String),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}
