//! Checks of pods and of the pod templates of workloads.

use serde_json::Value;

use super::super::check;
use super::{containers, placement, volumes};
use crate::field::{Errors, Path};
use crate::meta;
use crate::value::{flag, int, list, text};

/// Checks a new pod.
pub(super) fn pod(pod: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    spec(&pod["spec"], &path, errors);
    if !list(pod, "spec.ephemeralContainers").is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
}

/// Checks a pod template. Its pods must be restarted always where `always` of the workload says so: that is
/// checked by the workload.
pub(in crate::kinds) fn template(template: &Value, path: &Path, errors: &mut Errors) {
    let labels = &template["metadata"]["labels"];
    meta::validate_labels(labels, &path.child("labels"), errors);
    let at = path.child("spec");
    spec(&template["spec"], &at, errors);
    if !list(template, "spec.ephemeralContainers").is_empty() {
        errors
            .forbidden(&at.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Checks a pod spec.
pub(super) fn spec(spec: &Value, path: &Path, errors: &mut Errors) {
    volumes::validate(spec, &path.child("volumes"), errors);
    containers::validate(spec, path, errors);
    check::one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    let dns = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    check::one_of(spec, "dnsPolicy", dns, path, errors);
    placement::validate(spec, path, errors);
    security(spec, path, errors);
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        check::required(secret, "name", &path.child("imagePullSecrets").index(index), errors);
    }
    for (key, rule) in [
        ("serviceAccountName", meta::dns_subdomain_errors as fn(&str) -> Vec<String>),
        ("nodeName", meta::dns_subdomain_errors),
        ("priorityClassName", meta::dns_subdomain_errors),
        ("runtimeClassName", meta::dns_subdomain_errors),
        ("hostname", meta::dns_label_errors),
        ("subdomain", meta::dns_label_errors),
    ] {
        let name = text(spec, key);
        if !name.is_empty() {
            check::named(name, rule, &path.child(key), errors);
        }
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, why);
    }
    check::not_negative(spec, "terminationGracePeriodSeconds", path, errors);
    host_aliases(spec, &path.child("hostAliases"), errors);
    dns_config(spec, &path.child("dnsConfig"), errors);
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let at = path.child("readinessGates").index(index).child("conditionType");
        check::named(text(gate, "conditionType"), meta::qualified_name_errors, &at, errors);
    }
    gates(spec, &path.child("schedulingGates"), errors);
}

fn gates(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        check::named(name, meta::qualified_name_errors, &path.index(index), errors);
        if !seen.insert(name) {
            errors.duplicate(&path.index(index), name);
        }
    }
}

fn security(spec: &Value, path: &Path, errors: &mut Errors) {
    let (context, at) = (&spec["securityContext"], path.child("securityContext"));
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = int(context, key)
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            errors.invalid(&at.child(key), id, "must be between 0 and 2147483647, inclusive");
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, why);
    }
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        check::required(sysctl, "name", &at.child("sysctls").index(index), errors);
    }
}

fn host_aliases(spec: &Value, path: &Path, errors: &mut Errors) {
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = path.index(index);
        check::ip(text(alias, "ip"), &at.child("ip"), errors);
        for (number, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            check::named(name, meta::dns_subdomain_errors, &at.child("hostnames").index(number), errors);
        }
    }
}

fn dns_config(spec: &Value, path: &Path, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&path.child("nameservers"), why);
            return;
        }
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.invalid(&path.child("nameservers"), config["nameservers"].clone(), why);
    }
    for (index, server) in servers.iter().enumerate() {
        check::ip(server.as_str().unwrap_or_default(), &path.child("nameservers").index(index), errors);
    }
    let searches = list(config, "searches");
    if searches.len() > 32 {
        let why = "must not have more than 32 search paths";
        errors.invalid(&path.child("searches"), config["searches"].clone(), why);
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        let at = path.child("options").index(index);
        if text(option, "name").is_empty() {
            errors.required(&at, "must not be empty");
        }
    }
}
