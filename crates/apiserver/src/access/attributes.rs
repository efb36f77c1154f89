//! What a request wants to do, and what was decided about it.

use api::status::{Reason, Resource, Status};

use super::UserInfo;

/// What a request wants to do. Cheap to copy; borrows from the request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or for paths that
    /// are no resources the HTTP method in lower case.
    pub verb: &'a str,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The plural resource name; empty for a path that is no resource.
    pub resource: &'a str,
    /// The subresource; empty when there is none.
    pub subresource: &'a str,
    /// The namespace; empty for cluster-scoped resources and for lists over all namespaces.
    pub namespace: &'a str,
    /// The object's name; empty for lists and creates.
    pub name: &'a str,
    /// The path, for a request that is not for a resource.
    pub path: &'a str,
    /// The field selector's requirements of equality, as (field, value).
    pub fields: &'a [(&'a str, &'a str)],
}

impl Attributes<'_> {
    /// Says whether this is a request for a resource.
    #[must_use]
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Says whether the verb only reads.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch" | "head")
    }
}

/// What an authorizer decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The request may go on.
    pub allowed: bool,
    /// Why; may be empty.
    pub reason: String,
}

impl Decision {
    pub(crate) fn allow(reason: impl Into<String>) -> Self {
        Self { allowed: true, reason: reason.into() }
    }

    pub(crate) fn deny(reason: impl Into<String>) -> Self {
        Self { allowed: false, reason: reason.into() }
    }
}

/// Returns the error of a request that is not allowed, in upstream's words.
#[must_use]
pub fn forbidden(user: &UserInfo, attributes: &Attributes<'_>, reason: &str) -> Status {
    let Attributes { verb, group, resource, subresource, namespace, name, path, .. } = *attributes;
    let user = &user.name;
    let what = if resource.is_empty() {
        format!("User {user:?} cannot {verb} path {path:?}")
    } else {
        let slash = if subresource.is_empty() { "" } else { "/" };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        format!(
            "User {user:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {place}"
        )
    };
    // The text may be shown by a browser.
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let what = if reason.is_empty() { what } else { format!("{what}: {reason}") };
    if resource.is_empty() {
        return Status::new(403, Reason::Forbidden, format!("forbidden: {what}")).with_details();
    }
    Status::forbidden(Resource { group, name: resource }, name, &what)
}

/// Upstream's `Status` of a forbidden path has empty details.
trait WithDetails {
    fn with_details(self) -> Self;
}

impl WithDetails for Status {
    fn with_details(mut self) -> Self {
        self.details.get_or_insert_default();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_upstreams() {
        let user = UserInfo::new("x", &[]);
        let pods =
            Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() };
        for (attributes, reason, expect) in [
            (
                pods,
                "",
                r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Attributes { namespace: "", ..pods },
                "",
                r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" at the cluster scope"#,
            ),
            (
                Attributes { verb: "get", name: "p", subresource: "log", ..pods },
                "",
                r#"pods "p" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "default""#,
            ),
            (
                Attributes { verb: "create", resource: "deployments", group: "apps", ..pods },
                "no",
                r#"deployments.apps is forbidden: User "x" cannot create resource "deployments" in API group "apps" in the namespace "default": no"#,
            ),
            (
                Attributes { verb: "get", path: "/metrics", ..Attributes::default() },
                "",
                r#"forbidden: User "x" cannot get path "/metrics""#,
            ),
        ] {
            let status = forbidden(&user, &attributes, reason);
            assert_eq!(status.message, expect);
            assert_eq!(status.code, 403);
        }
    }
}
