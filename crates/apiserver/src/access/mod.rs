//! Who is asking, and whether they may: authentication, authorization, and the review APIs.
//!
//! [`Authenticator`] turns a client certificate or a bearer token into a [`UserInfo`]; [`Access`] decides
//! requests by the node authorizer and RBAC. Both work on memory only: the API server calls
//! [`Access::observe`] for every change of the resources in [`OBSERVED`], and lets [`Lookup`] read its watch
//! cache. Nothing here speaks HTTP or writes objects.

mod attributes;
mod authenticate;
pub mod bootstrap;
mod bootstrap_token;
mod impersonate;
mod node;
mod rbac;
mod review;
mod token;
mod user;

use std::sync::Arc;

use api::status::Status;
use serde_json::Value;

pub use attributes::{Attributes, Decision, forbidden};
pub use authenticate::{Authenticator, Credentials};
pub use bootstrap_token::StaticTokens;
pub use impersonate::{Impersonation, impersonate};
pub use rbac::{Rule, missing_rules};
pub use review::{
    local_subject_access_review, self_subject_access_review, self_subject_review, self_subject_rules_review,
    subject_access_review, token_review,
};
pub use token::{TokenError, Tokens, Verified};
pub use user::{CertificateUser, UserInfo};

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who was authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of whoever was not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of node agents.
pub const NODES: &str = "system:nodes";

/// Reads objects from the API server's watch cache.
pub trait Lookup: Send + Sync {
    /// Returns an object. `resource` is `pods` or, with its group, `deployments.apps`; `namespace` is empty
    /// for cluster-scoped resources.
    fn lookup(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// Returns the objects of a resource in a namespace; all of them when `namespace` is empty.
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>>;
}

/// The resources whose changes [`Access::observe`] wants to see.
pub const OBSERVED: &[&str] = &[
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "pods",
    "persistentvolumes",
    "volumeattachments.storage.k8s.io",
];

/// Decides what users may do, from what it has observed.
///
/// One task feeds it (in the order of the store's changes); any number of requests read it. The locks inside
/// are held for the length of a look-up, never across an await.
#[derive(Debug, Default)]
pub struct Access {
    rbac: parking_lot::RwLock<rbac::Rbac>,
    nodes: parking_lot::RwLock<node::Graph>,
}

impl Access {
    /// Returns an `Access` that has seen nothing: only `system:masters` may do anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a change: `object` is the object as it is now, or `None` when it is gone.
    /// Resources that are not in [`OBSERVED`] are ignored.
    pub fn observe(&self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match resource {
            "pods" => self.nodes.write().pod(namespace, name, object),
            "persistentvolumes" => self.nodes.write().persistent_volume(name, object),
            "volumeattachments.storage.k8s.io" => self.nodes.write().volume_attachment(name, object),
            _ => {
                if let Some(kind) = resource.strip_suffix(".rbac.authorization.k8s.io") {
                    self.rbac.write().observe(kind, namespace, name, object);
                }
            }
        }
    }

    /// Decides whether `user` may do what `attributes` describe.
    #[must_use]
    pub fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::allow("");
        }
        let mut reason = String::new();
        if let Some(node) = user.node() {
            match self.nodes.read().authorize(node, attributes) {
                Decision { allowed: true, reason } => return Decision { allowed: true, reason },
                denied => reason = denied.reason,
            }
        }
        match self.rbac.read().authorize(user, attributes) {
            Decision { allowed: true, reason } => Decision::allow(reason),
            denied if reason.is_empty() => denied,
            _ => Decision::deny(reason),
        }
    }

    /// Returns an error with upstream's words unless `user` may do what `attributes` describe.
    ///
    /// # Errors
    /// 403 `Forbidden`.
    pub fn check(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Result<(), Status> {
        let decision = self.authorize(user, attributes);
        if decision.allowed { Ok(()) } else { Err(forbidden(user, attributes, &decision.reason)) }
    }

    /// Returns the rules that RBAC gives `user` in `namespace`; only those of the whole cluster when it is
    /// empty.
    #[must_use]
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        if user.in_group(MASTERS) {
            rules.push(Rule::everything());
            rules.push(Rule::every_url());
        }
        rules.extend(self.rbac.read().rules_for(user, namespace));
        rules
    }

    /// Checks a write of an RBAC object for escalation: nobody may grant what they do not hold, unless they
    /// may `escalate` (roles) or `bind` (bindings). `resource` is the plural name, `old` the object before an
    /// update.
    ///
    /// # Errors
    /// 403 `Forbidden` naming the missing rules; 404 when a binding's role does not exist.
    pub fn check_rbac_write(
        &self,
        user: &UserInfo,
        resource: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        rbac::check_write(self, user, resource, object, old)
    }

    /// Returns the rules that a role reference stands for, or `None` when the role does not exist.
    pub(crate) fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.rbac.read().role_rules(kind, namespace, name)
    }
}

/// Reads a string by JSON pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Reads a list by JSON pointer; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Reads a list of strings by JSON pointer.
pub(crate) fn strings(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
