//! Users, as every part of a request sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, NODES, UNAUTHENTICATED};

/// How the names of service account users begin.
pub(crate) const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// How the names of node users begin.
const NODE: &str = "system:node:";
/// The key of the extra field that names the credential a user came with.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Who is asking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name; never empty for a request that was authenticated.
    pub name: String,
    /// The uid, where the credential carries one.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Whatever else the credential says.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Returns an authenticated user, such as one that runs in this process.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut user = Self {
            name: name.into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..Self::default()
        };
        user.add_group(AUTHENTICATED);
        user
    }

    /// Returns the user that a request without credentials is.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// Returns the user of a service account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT}{namespace}:{name}"),
            uid: uid.into(),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.into(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// Says whether the user is in a group.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|other| other == group)
    }

    /// Returns the node whose agent this is.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE).filter(|node| !node.is_empty() && self.in_group(NODES))
    }

    /// Returns namespace and name of the service account that this is.
    #[must_use]
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name
            .strip_prefix(SERVICE_ACCOUNT)?
            .split_once(':')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
    }

    pub(crate) fn add_group(&mut self, group: &str) {
        if !self.in_group(group) {
            self.groups.push(group.into());
        }
    }

    /// Returns the user as the review APIs show it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({"username": self.name});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.clone().into();
        }
        if !self.groups.is_empty() {
            value["groups"] = self.groups.clone().into();
        }
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }
}

/// The user that a client certificate stands for, for as long as the certificate is valid.
#[derive(Debug, Clone)]
pub struct CertificateUser {
    /// The user: the common name, with the organizations as groups.
    pub user: Arc<UserInfo>,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

impl CertificateUser {
    /// Reads the user from a certificate (DER) whose chain has been verified. Worth keeping per connection.
    ///
    /// # Errors
    /// A text when the certificate cannot be read or has no common name.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("reading the client certificate: {error}"))?;
        let subject = certificate.subject();
        let name = subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| {
                format!("the client certificate {subject} has no common name, which is the user's name")
            })?;
        let mut user = UserInfo { name: name.into(), ..UserInfo::default() };
        user.groups
            .extend(subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned));
        user.add_group(AUTHENTICATED);
        let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
        user.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={digest}")]);
        let not_after =
            Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
        Ok(Self { user: Arc::new(user), not_after })
    }
}

/// Encodes as JWTs do.
pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "system:node:172.17.4.201");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let found = CertificateUser::read(der.der()).unwrap();
        assert_eq!(found.user.name, "system:node:172.17.4.201");
        assert_eq!(found.user.groups, ["system:nodes", "system:authenticated"]);
        assert_eq!(found.user.node(), Some("172.17.4.201"));
        assert!(found.user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }

    #[test]
    fn a_certificate_without_a_common_name_is_nobody() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(CertificateUser::read(der.der()).unwrap_err().contains("no common name"));
        assert!(CertificateUser::read(b"nonsense").is_err());
    }

    #[test]
    fn names_are_taken_apart() {
        for (name, expect) in [
            ("system:serviceaccount:default:web", Some(("default", "web"))),
            ("system:serviceaccount:default", None),
            ("system:serviceaccount::web", None),
            ("system:serviceaccount:a:b:c", None),
            ("alice", None),
        ] {
            assert_eq!(UserInfo::new(name, &[]).as_service_account(), expect, "{name}");
        }
        assert_eq!(UserInfo::new("system:node:a", &[]).node(), None, "not in the group");
        assert_eq!(UserInfo::new("system:node:", &[NODES]).node(), None);
    }
}
