//! Kubeconfigs: rendered for nodes and people, and merged into the user's own file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::render;
use crate::error::{Context, Error, Result};

/// How somebody reaches a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    /// The cluster's name in the file.
    pub(crate) cluster: &'a str,
    /// The user's name in the file.
    pub(crate) user: &'a str,
    /// The context's name.
    pub(crate) context: &'a str,
    /// The API server's URL.
    pub(crate) server: &'a str,
    /// The authority's certificate, PEM.
    pub(crate) authority: &'a str,
    /// The user's certificate, PEM.
    pub(crate) certificate: &'a str,
    /// The user's key, PEM.
    pub(crate) key: &'a str,
}

/// Returns a kubeconfig with one context.
pub(crate) fn render(access: &Access<'_>) -> Result<String> {
    let Access { cluster, user, context, server, authority, certificate, key } = access;
    let mut values = tera::Context::new();
    for (name, value) in [("cluster", cluster), ("user", user), ("context", context), ("server", server)] {
        values.insert(name, value);
    }
    for (name, pem) in [("authority", authority), ("certificate", certificate), ("key", key)] {
        values.insert(name, &STANDARD.encode(pem));
    }
    render::render("kubeconfig.yaml", &values)
}

/// The three lists of a kubeconfig in which a cluster has one entry each.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// Puts what `addition` has (one cluster, user and context) into `existing` and makes its context current.
///
/// # Errors
/// When `existing` is not a kubeconfig.
pub(crate) fn merge(existing: &str, addition: &str) -> Result<String> {
    let mut merged = read(existing)?;
    let addition = read(addition)?;
    for list in LISTS {
        for entry in addition[list].as_array().into_iter().flatten() {
            let entries = entries(&mut merged, list)?;
            entries.retain(|old| old["name"] != entry["name"]);
            entries.push(entry.clone());
        }
    }
    merged["current-context"] = addition["current-context"].clone();
    write(&merged)
}

/// Takes the cluster, user and context `name` away; returns `None` when there is nothing of it.
///
/// # Errors
/// When `existing` is not a kubeconfig.
pub(crate) fn remove(existing: &str, name: &str) -> Result<Option<String>> {
    let mut config = read(existing)?;
    let mut changed = false;
    for list in LISTS {
        let entries = entries(&mut config, list)?;
        let before = entries.len();
        entries.retain(|entry| entry["name"] != name);
        changed |= entries.len() != before;
    }
    if config["current-context"] == name {
        config["current-context"] = json!("");
        changed = true;
    }
    if changed { write(&config).map(Some) } else { Ok(None) }
}

/// Returns whether a kubeconfig has nothing in it that anyone would miss.
pub(crate) fn is_empty(text: &str) -> bool {
    read(text).is_ok_and(|config| LISTS.iter().all(|list| config[list].as_array().is_none_or(Vec::is_empty)))
}

fn read(text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(json!({ "apiVersion": "v1", "kind": "Config", "preferences": {} }));
    }
    let value: Value =
        serde_yaml::from_str(text).map_err(|error| Error::user(error.without_snippet().to_string()))?;
    if value.is_object() { Ok(value) } else { Err(Error::user("it is not a kubeconfig: not a mapping")) }
}

fn entries<'a>(config: &'a mut Value, list: &str) -> Result<&'a mut Vec<Value>> {
    let slot = &mut config[list];
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut().context(format!("it is not a kubeconfig: {list} is not a list"))
}

fn write(config: &Value) -> Result<String> {
    serde_yaml::to_string(config).context("writing the kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: other\n  cluster: {server: https://x}\n\
                         users: []\ncontexts: []\ncurrent-context: other\n";

    fn ours() -> String {
        render(&Access {
            cluster: "lab",
            user: "lab",
            context: "lab",
            server: "https://172.17.4.101:443",
            authority: "A",
            certificate: "C",
            key: "K",
        })
        .unwrap()
    }

    #[test]
    fn merging_keeps_what_others_have_and_is_repeatable() {
        let once = merge(OTHER, &ours()).unwrap();
        let value = read(&once).unwrap();
        assert_eq!(value["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(value["current-context"], "lab");
        assert_eq!(merge(&once, &ours()).unwrap(), once);
    }

    #[test]
    fn removing_leaves_the_others_and_the_second_time_nothing_changes() {
        let merged = merge(OTHER, &ours()).unwrap();
        let removed = remove(&merged, "lab").unwrap().unwrap();
        let value = read(&removed).unwrap();
        assert_eq!(value["clusters"], read(OTHER).unwrap()["clusters"]);
        assert_eq!(value["current-context"], "");
        assert_eq!(remove(&removed, "lab").unwrap(), None);
        assert!(is_empty(&remove(&ours(), "lab").unwrap().unwrap()));
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_refused() {
        for text in ["- a\n- b\n", "clusters: 5\n", "a: [\n"] {
            assert!(merge(text, &ours()).is_err(), "{text}");
        }
    }
}
