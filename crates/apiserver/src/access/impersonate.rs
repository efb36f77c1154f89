//! Impersonation: acting as somebody else, as far as one may.

use std::collections::BTreeMap;

use api::status::{Reason, Status};

use super::{AUTHENTICATED, Access, Attributes, UNAUTHENTICATED, UserInfo};

/// What the `Impersonate-*` headers of a request ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Impersonation {
    /// `Impersonate-User`.
    pub user: String,
    /// `Impersonate-Uid`.
    pub uid: String,
    /// Each `Impersonate-Group`.
    pub groups: Vec<String>,
    /// Each `Impersonate-Extra-<key>`, keys in lower case and percent-decoded.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Impersonation {
    /// Reads the headers of a request, given as (lower-case name, value); `None` when none of them is there.
    #[must_use]
    pub fn read<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut found = Self::default();
        let mut any = false;
        for (name, value) in headers {
            let Some(what) = name.strip_prefix("impersonate-") else { continue };
            match what {
                "user" => value.clone_into(&mut found.user),
                "uid" => value.clone_into(&mut found.uid),
                "group" => found.groups.push(value.to_owned()),
                _ => {
                    let Some(key) = what.strip_prefix("extra-") else { continue };
                    let key =
                        percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_ascii_lowercase();
                    found.extra.entry(key).or_default().push(value.to_owned());
                }
            }
            any = true;
        }
        any.then_some(found)
    }
}

/// Returns the user that a request acts as from here on.
///
/// # Errors
/// 403 when `user` may not impersonate every part of it, 500 (as upstream) when parts are asked for without a
/// user.
pub fn impersonate(access: &Access, user: &UserInfo, wanted: &Impersonation) -> Result<UserInfo, Status> {
    let Impersonation { user: name, uid, groups, extra } = wanted;
    if name.is_empty() {
        let text = format!("requested {wanted:?} without impersonating a user");
        return Err(Status::new(500, Reason::InternalError, text));
    }
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate",
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        access.check(user, &attributes)
    };
    let mut acting = UserInfo::new(name.clone(), &[]);
    acting.groups.clear();
    match acting.as_service_account() {
        Some((namespace, account)) => {
            ask("", "serviceaccounts", "", namespace, account)?;
            if groups.is_empty() {
                acting.groups = UserInfo::service_account(namespace, account, "").groups;
            }
        }
        None => ask("", "users", "", "", name)?,
    }
    if !uid.is_empty() {
        ask("authentication.k8s.io", "uids", "", "", uid)?;
        acting.uid.clone_from(uid);
    }
    for group in groups {
        ask("", "groups", "", "", group)?;
        acting.add_group(group);
    }
    for (key, values) in extra {
        for value in values {
            ask("authentication.k8s.io", "userextras", key, "", value)?;
        }
        acting.extra.insert(key.clone(), values.clone());
    }
    if name == "system:anonymous" {
        acting.add_group(UNAUTHENTICATED);
    } else if !acting.in_group(UNAUTHENTICATED) {
        acting.add_group(AUTHENTICATED);
    }
    Ok(acting)
}
