//! What the query of a request says, checked as upstream checks it.

use std::time::Duration;

use api::field::{Errors, Path};
use api::selector::{FieldSelector, Selector};
use api::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::path::Query;

/// How a resource version is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// The newest state.
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
}

/// The options of lists and watches.
#[derive(Debug)]
pub(crate) struct ListOptions {
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
    pub(crate) version: Version,
    pub(crate) limit: usize,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial: Option<bool>,
}

/// Where a paged list goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The format of this token.
    v: String,
    /// The revision that the list is of; 0 is whatever is newest.
    pub(crate) rv: u64,
    /// The last key of the page before.
    start: String,
}

impl Cursor {
    pub(crate) fn new(revision: u64, after: &str) -> Self {
        Self { v: "meta.k8s.io/v1".into(), rv: revision, start: after.to_owned() }
    }

    pub(crate) fn after(&self) -> &str {
        &self.start
    }

    /// Returns a cursor at the same place in whatever is newest.
    pub(crate) fn inconsistent(&self) -> Self {
        Self { rv: 0, ..self.clone() }
    }

    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a struct of plain fields encodes"))
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes =
            URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|error| bad(&error.to_string()))?;
        let cursor: Self = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        if cursor.v != "meta.k8s.io/v1" {
            return Err(bad(&format!("server does not recognize this encoded version {:?}", cursor.v)));
        }
        Ok(cursor)
    }
}

impl ListOptions {
    /// Reads the options; `watch` says which rules apply.
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let labels =
            Selector::parse(query.get("labelSelector").unwrap_or_default()).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(Status::bad_request)?;
        let text = |key: &str| query.get(key).filter(|value| !value.is_empty());
        let revision = match text("resourceVersion") {
            None => None,
            Some(value) => Some(value.parse::<u64>().map_err(|_| {
                let mut errors = Errors::new();
                errors.invalid(
                    &Path::new("resourceVersion"),
                    value,
                    format!("strconv.ParseUint: parsing {value:?}: invalid syntax"),
                );
                Status::bad_request(errors.joined())
            })?),
        };
        let matched = text("resourceVersionMatch");
        let send_initial = text("sendInitialEvents").map(|_| query.is_set("sendInitialEvents"));
        let limit = text("limit").map_or(Ok(0), whole)?;
        let timeout = text("timeoutSeconds").map_or(Ok(0), whole)?;
        let cursor = text("continue").filter(|_| !watch).map(Cursor::decode).transpose()?;
        let mut errors = Errors::new();
        let version = Path::new("resourceVersion");
        let matching = Path::new("resourceVersionMatch");
        if watch {
            let initial = Path::new("sendInitialEvents");
            match (matched, send_initial) {
                (Some(_), None) => errors.forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
                (None, Some(_)) => errors.forbidden(
                    &initial,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                (Some(other), Some(_)) if other != "NotOlderThan" => {
                    errors.not_supported(&matching, other, &["NotOlderThan"]);
                }
                _ => {}
            }
            if send_initial == Some(true) && !query.is_set("allowWatchBookmarks") {
                errors.forbidden(&initial, "sendInitialEvents requires setting allowWatchBookmarks");
            }
        } else {
            if send_initial.is_some() {
                errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
            }
            if let Some(how) = matched {
                if revision.is_none() {
                    errors.forbidden(
                        &matching,
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    );
                }
                if cursor.is_some() {
                    errors
                        .forbidden(&matching, "resourceVersionMatch is forbidden when continue is provided");
                }
                if !matches!(how, "Exact" | "NotOlderThan") {
                    errors.not_supported(&matching, how, &["Exact", "NotOlderThan"]);
                }
                if how == "Exact" && revision == Some(0) {
                    errors.forbidden(
                        &matching,
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    );
                }
            }
            if cursor.is_some() && revision.is_some_and(|revision| revision != 0) {
                errors.forbidden(&version, "specifying resource version is not allowed when using continue");
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors));
        }
        let version = match (revision, matched) {
            (None, _) => Version::Newest,
            (Some(0), _) => Version::Any,
            (Some(revision), Some("Exact")) => Version::Exact(revision),
            // A limited list at a revision has always meant that very revision.
            (Some(revision), None) if !watch && limit > 0 => Version::Exact(revision),
            (Some(revision), _) => Version::NotOlderThan(revision),
        };
        Ok(Self {
            labels,
            fields,
            version,
            limit: usize::try_from(limit).unwrap_or(0),
            cursor,
            timeout: u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
            bookmarks: query.is_set("allowWatchBookmarks"),
            send_initial,
        })
    }
}

/// Reads a whole number of a query.
fn whole(text: &str) -> Result<i64, Status> {
    text.parse()
        .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
}

/// Whether and how fields that the kind does not have are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    #[default]
    Ignore,
    Warn,
    Strict,
}

/// The options of creates, updates and patches.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: Option<String>,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
    /// The object comes out of a server-side apply: who owns which field is decided already.
    pub(crate) applied: bool,
}

impl WriteOptions {
    /// Reads the options; `what` names them in errors, such as `CreateOptions`.
    pub(crate) fn parse(query: &Query, what: &str) -> Result<Self, Status> {
        let mut errors = Errors::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(&Path::new("fieldValidation"), other, &["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        let field_manager =
            query.get("fieldManager").filter(|manager| !manager.is_empty()).map(str::to_owned);
        if field_manager.as_ref().is_some_and(|manager| manager.len() > 128) {
            errors.too_long(&Path::new("fieldManager"), 128);
        }
        if let Some(manager) = &field_manager
            && manager.contains(char::is_control)
        {
            errors.invalid(
                &Path::new("fieldManager"),
                manager.as_str(),
                "should only contain printable characters",
            );
        }
        let force = query.get("force").map(|_| query.is_set("force"));
        if errors.is_empty() {
            Ok(Self { dry_run, field_manager, field_validation, force, applied: false })
        } else {
            Err(Status::invalid("meta.k8s.io", what, "", &errors))
        }
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Errors) -> bool {
    let mut dry_run = false;
    for value in values.filter(|value| !value.is_empty()) {
        dry_run = true;
        if value != "All" {
            errors.not_supported(&Path::new("dryRun"), value, &["All"]);
        }
    }
    dry_run
}

/// How what an object owns goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// The options of deletions, from the body and the query.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
}

impl DeleteOptions {
    /// Reads the options from a decoded body, if there is one, else from the query: never from both.
    pub(crate) fn parse(body: Option<&serde_json::Value>, query: &Query) -> Result<Self, Status> {
        let mut errors = Errors::new();
        let (null, nothing) = (serde_json::Value::Null, Query::default());
        let body = body.filter(|body| !body.is_null());
        let query = if body.is_some() { &nothing } else { query };
        let body = body.unwrap_or(&null);
        let from_body = body["dryRun"].as_array().into_iter().flatten().filter_map(|value| value.as_str());
        let dry_run = dry_run(from_body.chain(query.all("dryRun")), &mut errors);
        let grace_seconds = match body.get("gracePeriodSeconds").filter(|value| !value.is_null()) {
            Some(value) => Some(value.as_i64().ok_or_else(|| {
                Status::bad_request(format!("DeleteOptions.gracePeriodSeconds: {value} is not an integer"))
            })?),
            None => match query.get("gracePeriodSeconds").filter(|value| !value.is_empty()) {
                Some(value) => Some(whole(value)?),
                None => None,
            },
        };
        let policy = body["propagationPolicy"].as_str().or_else(|| query.get("propagationPolicy"));
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| query.get("orphanDependents").map(|_| query.is_set("orphanDependents")));
        let path = Path::new("propagationPolicy");
        if policy.is_some() && orphan.is_some() {
            errors.invalid(
                &path,
                policy.unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            );
        }
        let propagation = match (policy, orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None | Some(""), None) => None,
            (Some(other), _) => {
                errors.not_supported(&path, other, &["Background", "Foreground", "Orphan"]);
                None
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        let precondition = |key: &str| body["preconditions"][key].as_str().map(str::to_owned);
        Ok(Self {
            dry_run,
            grace_seconds,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            propagation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_versions_mean_what_upstream_says() {
        let cases = [
            ("", false, Ok(Version::Newest)),
            ("resourceVersion=0", false, Ok(Version::Any)),
            ("resourceVersion=7", false, Ok(Version::NotOlderThan(7))),
            ("resourceVersion=7&limit=5", false, Ok(Version::Exact(7))),
            ("resourceVersion=7&resourceVersionMatch=Exact", false, Ok(Version::Exact(7))),
            (
                "resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan",
                false,
                Ok(Version::NotOlderThan(7)),
            ),
            ("resourceVersionMatch=Exact", false, Err(422)),
            ("resourceVersion=x", false, Err(400)),
            ("resourceVersion=7&resourceVersionMatch=Exact", true, Err(422)),
            ("sendInitialEvents=true", true, Err(422)),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                true,
                Ok(Version::Newest),
            ),
            ("sendInitialEvents=true", false, Err(422)),
            ("continue=x", false, Err(400)),
            ("labelSelector=a+in+(", false, Err(400)),
        ];
        for (query, watch, expect) in cases {
            let got = ListOptions::parse(&Query::parse(Some(query)), watch);
            assert_eq!(got.map(|options| options.version).map_err(|error| error.code), expect, "{query}");
        }
    }

    #[test]
    fn a_cursor_survives_its_encoding() {
        let cursor = Cursor::new(42, "default/a");
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
    }
}
