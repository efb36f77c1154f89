//! What goes wrong on the way to a machine and on it.

use std::time::Duration;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, by what its receiver can do.
///
/// Retrying makes sense for [`Unreachable`](Self::Unreachable) (wait longer, look at the machine's console) and, when
/// doing the thing twice is harmless, for [`Lost`](Self::Lost). [`HostKey`](Self::HostKey) and
/// [`Authentication`](Self::Authentication) need a person. All others will fail again until their cause is removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection within the deadline.
    #[error(
        "no SSH connection to {machine} ({address}) within {after:?}; last seen: {last}; check that the machine is \
         running and finished its boot"
    )]
    Unreachable {
        /// The machine.
        machine: String,
        /// Where it was looked for.
        address: String,
        /// How long.
        after: Duration,
        /// What the last attempt saw.
        last: String,
    },
    /// The machine shows another host key than the one that was pinned.
    #[error(
        "{machine} ({address}) is not who it should be: expected the host key {expected}, it shows {shown}; either \
         another machine has this address, or it was reinstalled by somebody else: make it anew if it is yours, \
         and do not go on if it is not"
    )]
    HostKey {
        /// The machine.
        machine: String,
        /// Where it is.
        address: String,
        /// The pinned keys' fingerprints.
        expected: String,
        /// The fingerprint of the key shown.
        shown: String,
    },
    /// The machine refuses the user's key.
    #[error(
        "{machine} ({address}) refuses the key {key} for the user {user} ({why}); check that its first boot applied the \
         configuration that has this key, and that the user exists there"
    )]
    Authentication {
        /// The machine.
        machine: String,
        /// Where it is.
        address: String,
        /// The user.
        user: String,
        /// The key's fingerprint.
        key: String,
        /// What the machine said.
        why: String,
    },
    /// The private key or a pinned host key cannot be used.
    #[error("{what}: {why}")]
    Key {
        /// Which key.
        what: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// The connection broke; whether what was under way has been done is not known.
    #[error("the connection to {machine} broke while {doing}: {why}; whether it was done is not known")]
    Lost {
        /// The machine.
        machine: String,
        /// What was under way.
        doing: String,
        /// How it broke.
        why: String,
    },
    /// It took too long. What was started on the machine may still be running there.
    #[error("{machine}: {doing} took longer than {after:?}; last seen: {last}")]
    Deadline {
        /// The machine.
        machine: String,
        /// What was under way.
        doing: String,
        /// The deadline.
        after: Duration,
        /// The last output or state.
        last: String,
    },
    /// A command ended otherwise than with exit code 0.
    #[error("{machine}: {command} {status}{said}")]
    Failed {
        /// The machine.
        machine: String,
        /// The command.
        command: String,
        /// How it ended: "ended with exit code 1".
        status: String,
        /// The last lines of its streams, each on a line of its own; empty when it said nothing.
        said: String,
    },
    /// Root is not to be had on the machine.
    #[error("{machine}: cannot become root ({why}); the user needs passwordless sudo")]
    Root {
        /// The machine.
        machine: String,
        /// What sudo said.
        why: String,
    },
    /// The machine's disk is full. The file is as it was.
    #[error("{machine}: no space left for {path} ({why}); free some, or give the machine a larger disk")]
    Full {
        /// The machine.
        machine: String,
        /// The file.
        path: String,
        /// What the machine said.
        why: String,
    },
    /// A file could not be put in place. It is as it was.
    #[error("{machine}: cannot put {path} in place: {why}")]
    Upload {
        /// The machine.
        machine: String,
        /// The file.
        path: String,
        /// What went wrong.
        why: String,
    },
    /// The machine did not do what was asked: to start a command, to open a connection.
    #[error("{machine} refuses {what}: {why}")]
    Refused {
        /// The machine.
        machine: String,
        /// What was asked.
        what: String,
        /// What it said.
        why: String,
    },
    /// A file has more bytes than the caller wants.
    #[error("{machine}: {path} has more than {most} bytes")]
    TooBig {
        /// The machine.
        machine: String,
        /// The file.
        path: String,
        /// The bound.
        most: usize,
    },
    /// The request itself is wrong; nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// Something on this side failed.
    #[error("{what}")]
    Local {
        /// What was done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Makes a [`Self::Local`] of an I/O error.
    pub(crate) fn local(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Local { what, source }
    }
}
