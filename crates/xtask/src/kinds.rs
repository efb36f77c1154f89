//! From upstream's paths to the table of kinds: names, scope, verbs, subresources.
//!
//! One line a kind: `group version Kind plural N|C verbs [subresource:verbs:group/version/Kind]...`,
//! where `-` stands for the core group. Only versions that are generally available are kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

/// A kind as it is served at one group and version.
#[derive(Debug)]
pub(crate) struct Kind {
    kind: String,
    namespaced: bool,
    verbs: BTreeSet<&'static str>,
    subresources: BTreeMap<String, Subresource>,
}

/// A subresource and the kind that it speaks.
#[derive(Debug, Default)]
pub(crate) struct Subresource {
    verbs: BTreeSet<&'static str>,
    kind: String,
}

/// The kinds by (group, version, plural).
pub(crate) type Kinds = BTreeMap<(String, String, String), Kind>;

/// Says whether a version is generally available: `v` and digits only.
pub(crate) fn is_stable(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Reads the kinds out of the paths of `swagger`.
pub(crate) fn extract(swagger: &Value) -> Result<Kinds> {
    let mut kinds = Kinds::new();
    let paths = swagger["paths"].as_object().context("swagger.json has no paths")?;
    for (path, operations) in paths {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match segments[..] {
            ["api", version, ref rest @ ..] => ("", version, rest),
            ["apis", group, version, ref rest @ ..] => (group, version, rest),
            _ => continue,
        };
        if !is_stable(version) {
            continue;
        }
        let rest = rest.strip_prefix(&["watch"]).unwrap_or(rest);
        let (namespaced, rest) = match rest {
            ["namespaces", "{namespace}", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        let (plural, subresource) = match rest {
            [plural] | [plural, "{name}"] => (*plural, None),
            [plural, "{name}", subresource] => (*plural, Some(*subresource)),
            _ => continue,
        };
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        let operations = operations.as_object().context("a path without operations")?;
        for (method, operation) in operations {
            let Some(gvk) = operation.get("x-kubernetes-group-version-kind") else { continue };
            let action = operation["x-kubernetes-action"].as_str().unwrap_or_default();
            let Some(verb) = verb(method, action) else { continue };
            let kind = kinds.entry(key.clone()).or_insert_with(|| Kind {
                kind: String::new(),
                namespaced: false,
                verbs: BTreeSet::new(),
                subresources: BTreeMap::new(),
            });
            kind.namespaced |= namespaced;
            let name = gvk["kind"].as_str().context("an operation without a kind")?;
            if let Some(subresource) = subresource {
                let entry = kind.subresources.entry(subresource.to_owned()).or_default();
                entry.verbs.insert(verb);
                entry.kind = format!(
                    "{}/{}/{}",
                    dashed(gvk["group"].as_str().unwrap_or_default()),
                    gvk["version"].as_str().unwrap_or_default(),
                    connected(plural, subresource).unwrap_or(name)
                );
            } else {
                kind.verbs.insert(verb);
                name.clone_into(&mut kind.kind);
            }
        }
    }
    kinds.retain(|_, kind| !kind.kind.is_empty());
    Ok(kinds)
}

/// Writes one line a kind.
pub(crate) fn render(kinds: &Kinds) -> String {
    let mut text = String::from("# Written by `cargo xtask facts`; do not edit.\n");
    for ((group, version, plural), kind) in kinds {
        let scope = if kind.namespaced { 'N' } else { 'C' };
        text += &format!("{} {version} {} {plural} {scope} {}", dashed(group), kind.kind, join(&kind.verbs));
        for (name, subresource) in &kind.subresources {
            text += &format!(" {name}:{}:{}", join(&subresource.verbs), subresource.kind);
        }
        text.push('\n');
    }
    text
}

fn join(verbs: &BTreeSet<&'static str>) -> String {
    verbs.iter().copied().collect::<Vec<_>>().join(",")
}

fn dashed(group: &str) -> &str {
    if group.is_empty() { "-" } else { group }
}

/// The verb of discovery for an operation; `head` and `options` of proxies have none of their own.
fn verb(method: &str, action: &str) -> Option<&'static str> {
    match (action, method) {
        ("connect", "get") | ("get", _) => Some("get"),
        ("connect" | "post", "post") => Some("create"),
        ("connect", "put") | ("put", _) => Some("update"),
        ("connect", "patch") | ("patch", _) => Some("patch"),
        ("connect", "delete") | ("delete", _) => Some("delete"),
        ("list", _) => Some("list"),
        ("watchlist" | "watch", _) => Some("watch"),
        ("deletecollection", _) => Some("deletecollection"),
        _ => None,
    }
}

/// The kind of the options of a connection, which the document does not name.
fn connected(plural: &str, subresource: &str) -> Option<&'static str> {
    Some(match (plural, subresource) {
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "exec") => "PodExecOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", "proxy") => "PodProxyOptions",
        ("nodes", "proxy") => "NodeProxyOptions",
        ("services", "proxy") => "ServiceProxyOptions",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_become_one_line_a_kind() {
        let operation = |action: &str, group: &str, kind: &str| {
            let kind = json!({"group": group, "version": "v1", "kind": kind});
            json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind})
        };
        let swagger = json!({"paths": {
            "/apis/a.io/v1/namespaces/{namespace}/things": {"get": operation("list", "a.io", "Thing"), "post": operation("post", "a.io", "Thing")},
            "/apis/a.io/v1/namespaces/{namespace}/things/{name}": {"put": operation("put", "a.io", "Thing")},
            "/apis/a.io/v1/namespaces/{namespace}/things/{name}/scale": {"get": operation("get", "autoscaling", "Scale")},
            "/apis/a.io/v1/watch/things": {"get": operation("watchlist", "a.io", "Thing")},
            "/apis/a.io/v1beta1/things": {"get": operation("list", "a.io", "Thing")},
            "/api/v1/nodes": {"get": operation("list", "", "Node")},
        }});
        let text = render(&extract(&swagger).unwrap());
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "- v1 Node nodes C list",
                "a.io v1 Thing things N create,list,update,watch scale:get:autoscaling/v1/Scale"
            ]
        );
    }
}
