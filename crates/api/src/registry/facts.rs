//! Reads the generated table of kinds and adds what upstream's documents do not say: short names,
//! categories, storage.

use std::borrow::Cow;

use super::kind::{Kind, Scope, Storage, Subresource};
use super::scale::ScalePaths;
use super::strategy::Strategy;
use super::table::Table;
use crate::kinds;

const FACTS: &str = include_str!("../facts/kinds.txt");

/// Short names: (group, plural, short names).
const SHORT_NAMES: &[(&str, &str, &[&str])] = &[
    ("", "componentstatuses", &["cs"]),
    ("", "configmaps", &["cm"]),
    ("", "endpoints", &["ep"]),
    ("", "events", &["ev"]),
    ("", "limitranges", &["limits"]),
    ("", "namespaces", &["ns"]),
    ("", "nodes", &["no"]),
    ("", "persistentvolumeclaims", &["pvc"]),
    ("", "persistentvolumes", &["pv"]),
    ("", "pods", &["po"]),
    ("", "replicationcontrollers", &["rc"]),
    ("", "resourcequotas", &["quota"]),
    ("", "serviceaccounts", &["sa"]),
    ("", "services", &["svc"]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &["crd", "crds"]),
    ("apps", "daemonsets", &["ds"]),
    ("apps", "deployments", &["deploy"]),
    ("apps", "replicasets", &["rs"]),
    ("apps", "statefulsets", &["sts"]),
    ("autoscaling", "horizontalpodautoscalers", &["hpa"]),
    ("batch", "cronjobs", &["cj"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["csr"]),
    ("events.k8s.io", "events", &["ev"]),
    ("networking.k8s.io", "ingresses", &["ing"]),
    ("networking.k8s.io", "ipaddresses", &["ip"]),
    ("networking.k8s.io", "networkpolicies", &["netpol"]),
    ("policy", "poddisruptionbudgets", &["pdb"]),
    ("scheduling.k8s.io", "priorityclasses", &["pc"]),
    ("storage.k8s.io", "storageclasses", &["sc"]),
    ("storage.k8s.io", "volumeattributesclasses", &["vac"]),
];

/// Categories: (category, group, plurals).
const CATEGORIES: &[(&str, &str, &[&str])] = &[
    ("all", "", &["pods", "replicationcontrollers", "services"]),
    ("all", "apps", &["daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("all", "autoscaling", &["horizontalpodautoscalers"]),
    ("all", "batch", &["cronjobs", "jobs"]),
    (
        "api-extensions",
        "admissionregistration.k8s.io",
        &[
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
    ("api-extensions", "apiextensions.k8s.io", &["customresourcedefinitions"]),
    ("api-extensions", "apiregistration.k8s.io", &["apiservices"]),
];

/// Kinds of which a deletion answers with the object: (group, plurals). Clients decode what their documents say.
const RETURNS_DELETED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "serviceaccounts",
            "services",
        ],
    ),
    ("resource.k8s.io", &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"]),
    (
        "storage.k8s.io",
        &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"],
    ),
];

/// The order of groups in discovery: short names that several groups use go to the first.
const GROUPS: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
];

/// Returns a group's place in discovery.
pub(super) fn group_order(group: &str) -> usize {
    GROUPS.iter().position(|known| *known == group).unwrap_or(GROUPS.len())
}

/// Returns all kinds of the table.
pub(super) fn kinds() -> Vec<Kind> {
    FACTS.lines().filter(|line| !line.starts_with('#')).filter_map(kind).collect()
}

fn kind(line: &'static str) -> Option<Kind> {
    let mut words = line.split(' ');
    let group = undashed(words.next()?);
    let (version, name, plural) = (words.next()?, words.next()?, words.next()?);
    let scope = if words.next()? == "N" { Scope::Namespaced } else { Scope::Cluster };
    let verbs: Vec<&'static str> = words.next()?.split(',').collect();
    let subresources: Vec<Subresource> = words.filter_map(subresource).collect();
    let stored = verbs.contains(&"create") && verbs.contains(&"get");
    let scaled = subresources.iter().any(|subresource| subresource.name == "scale");
    let definition = crate::schema::of_kind(group, version, name).map(|definition| definition.name);
    let mut kind = Kind {
        group: group.into(),
        version: version.into(),
        kind: name.into(),
        list_kind: format!("{name}List").into(),
        plural: plural.into(),
        singular: name.to_lowercase().into(),
        short_names: SHORT_NAMES
            .iter()
            .filter(|entry| (entry.0, entry.1) == (group, plural))
            .flat_map(|entry| entry.2.iter().map(|name| Cow::Borrowed(*name)))
            .collect(),
        categories: CATEGORIES
            .iter()
            .filter(|entry| entry.1 == group && entry.2.contains(&plural))
            .map(|entry| Cow::Borrowed(entry.0))
            .collect(),
        scope,
        verbs,
        subresources,
        storage: stored.then(|| storage(group, version, name, plural)),
        scale: scaled.then_some(ScalePaths::REPLICAS),
        fields: Vec::new(),
        table: Table::generic(),
        strategy: Strategy::GENERIC,
        definition,
        extension: None,
    };
    kinds::describe(&mut kind);
    kind.strategy.returns_deleted =
        RETURNS_DELETED.iter().any(|(known, plurals)| *known == group && plurals.contains(&plural));
    Some(kind)
}

fn subresource(word: &'static str) -> Option<Subresource> {
    let mut parts = word.split(':');
    let (name, verbs, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let mut kind = kind.split('/');
    Some(Subresource {
        name: name.into(),
        verbs: verbs.split(',').collect(),
        group: undashed(kind.next()?).into(),
        version: kind.next()?.into(),
        kind: kind.next()?.into(),
    })
}

/// Where a kind is stored. Events and autoscalers are views of one object under two versions.
fn storage(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Storage {
    let (group, version) = match (group, plural) {
        ("events.k8s.io", "events") => ("", "v1"),
        ("autoscaling", "horizontalpodautoscalers") => ("autoscaling", "v2"),
        _ => (group, version),
    };
    Storage { group: group.into(), plural: plural.into(), version: version.into(), kind: kind.into() }
}

fn undashed(group: &'static str) -> &'static str {
    if group == "-" { "" } else { group }
}
