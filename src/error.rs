//! What a command says when it fails: what, why, and what to do; and with which exit code.

use std::fmt::Display;

/// Why the process ends. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request, the machine or the cluster is at fault: exit code 1.
    User,
    /// The command line makes no sense: exit code 2.
    Usage,
    /// The program is at fault: exit code 3.
    Internal,
}

/// A failure as the user sees it.
///
/// It does not implement `std::error::Error`, so that every type that does converts into it with `?`.
#[derive(Debug)]
pub(crate) struct Error {
    /// Decides the exit code.
    pub(crate) kind: Kind,
    /// What failed, then why, from the outside in.
    pub(crate) messages: Vec<String>,
    /// What the user can do about it.
    pub(crate) hints: Vec<String>,
    /// The exit code when the command has codes of its own.
    code: Option<u8>,
}

/// A result of the provisioner.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns a failure that the user or the machine caused.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self { kind: Kind::User, messages: vec![message.into()], hints: Vec::new(), code: None }
    }

    /// Returns a failure of the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::user(message) }
    }

    /// Returns a failure of this program itself.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { kind: Kind::Internal, ..Self::user(message) }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a cause.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.messages.push(cause.into());
        self
    }

    /// Puts what was being done in front.
    pub(crate) fn within(mut self, doing: impl Into<String>) -> Self {
        self.messages.insert(0, doing.into());
        self
    }

    /// Sets an exit code of the command's own.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code.unwrap_or(match self.kind {
            Kind::User => 1,
            Kind::Usage => 2,
            Kind::Internal => 3,
        })
    }

    /// Returns all messages on one line.
    pub(crate) fn line(&self) -> String {
        self.messages.join(": ")
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut messages = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many libraries repeat their cause in their own text.
            if !messages.iter().any(|known| known.contains(&text)) {
                messages.push(text);
            }
            source = cause.source();
        }
        Self { kind: Kind::User, messages, hints: Vec::new(), code: None }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Context<T> {
    /// Puts `doing` in front of the failure.
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| error.into().within(doing.to_string()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.ok_or_else(|| Error::user(doing.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_what_failed_and_the_kind_decides_the_exit_code() {
        let io = std::io::Error::other("disk on fire");
        let error = Err::<(), _>(io).context("writing the key").unwrap_err();
        assert_eq!(error.line(), "writing the key: disk on fire");
        assert_eq!(error.code(), 1);
        assert_eq!(Error::usage("x").code(), 2);
        assert_eq!(Error::internal("x").code(), 3);
        assert_eq!(Error::user("x").with_code(12).code(), 12);
    }
}
