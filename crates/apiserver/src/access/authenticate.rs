//! From what a connection and a request carry to a user.

use std::sync::Arc;

use api::status::Status;
use machinery::clock::SharedClock;

use super::bootstrap_token::{self, StaticTokens};
use super::{CertificateUser, Lookup, Tokens, UserInfo};

/// The paths that may be asked for without credentials.
const OPEN: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// What a request came with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The user of the connection's client certificate, if there is one.
    pub certificate: Option<&'a CertificateUser>,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The request's path.
    pub path: &'a str,
}

/// Finds out who is asking.
#[derive(Debug, Clone)]
pub struct Authenticator {
    tokens: Arc<Tokens>,
    listed: StaticTokens,
    clock: Seen,
}

/// A clock that can be printed.
#[derive(Clone)]
struct Seen(SharedClock);

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Authenticator {
    /// Returns an authenticator that accepts the tokens of `tokens`.
    #[must_use]
    pub fn new(tokens: Arc<Tokens>, clock: SharedClock) -> Self {
        Self { tokens, listed: StaticTokens::default(), clock: Seen(clock) }
    }

    /// Accepts the tokens of a list, too.
    #[must_use]
    pub fn with(mut self, listed: StaticTokens) -> Self {
        self.listed = listed;
        self
    }

    /// Returns who is asking: by the certificate, else by the bearer token; without credentials the anonymous
    /// user, on the few open paths only.
    ///
    /// # Errors
    /// 401 `Unauthorized`.
    pub fn authenticate(
        &self,
        credentials: &Credentials<'_>,
        lookup: &dyn Lookup,
    ) -> Result<Arc<UserInfo>, Status> {
        if let Some(certificate) = credentials.certificate {
            if self.clock.0.now() < certificate.not_after {
                return Ok(certificate.user.clone());
            }
            tracing::debug!(user = certificate.user.name, "the client certificate has expired");
        }
        if let Some(token) = credentials.authorization.and_then(bearer) {
            if let Some(user) = self.listed.find(token) {
                return Ok(user);
            }
            if let Some(user) = bootstrap_token::bootstrap(token, lookup, self.clock.0.now()) {
                return Ok(Arc::new(user));
            }
            return match self.tokens.verify(token, &[], lookup) {
                Ok(verified) => Ok(Arc::new(verified.user)),
                Err(error) => {
                    tracing::debug!(%error, "refusing a bearer token");
                    Err(Status::unauthorized())
                }
            };
        }
        let open = OPEN.iter().any(|open| {
            credentials.path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        // Whoever showed something that is no longer good is told so, also on an open path.
        if open && credentials.certificate.is_none() && credentials.authorization.is_none() {
            return Ok(Arc::new(UserInfo::anonymous()));
        }
        Err(Status::unauthorized())
    }
}

/// Returns the token of an `Authorization: Bearer` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_found_in_their_header() {
        for (header, expect) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer  abc ", Some("abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic abc", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), expect, "{header:?}");
        }
    }
}
