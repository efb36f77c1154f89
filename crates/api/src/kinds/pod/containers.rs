//! Checks of containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::check;
use super::{probes, resources, volumes};
use crate::field::{Errors, Path};
use crate::meta;
use crate::value::{flag, int, list, text};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
/// The fields of a pod that an environment variable may show.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks all containers of a pod spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let known: BTreeSet<&str> = list(spec, "volumes").iter().map(|volume| text(volume, "name")).collect();
    let containers = list(spec, "containers");
    let mut names = BTreeSet::new();
    if containers.is_empty() {
        errors.required(&path.child("containers"), "");
    }
    for (index, container) in containers.iter().enumerate() {
        let at = path.child("containers").index(index);
        common(container, &known, flag(spec, "hostNetwork"), &mut names, &at, errors);
        probes::probe(&container["livenessProbe"], true, &at.child("livenessProbe"), errors);
        probes::probe(&container["readinessProbe"], false, &at.child("readinessProbe"), errors);
        probes::probe(&container["startupProbe"], true, &at.child("startupProbe"), errors);
        probes::lifecycle(&container["lifecycle"], &at.child("lifecycle"), errors);
    }
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let at = path.child("initContainers").index(index);
        common(container, &known, flag(spec, "hostNetwork"), &mut names, &at, errors);
        init(container, &at, errors);
    }
    for (index, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let at = path.child("ephemeralContainers").index(index);
        common(container, &known, flag(spec, "hostNetwork"), &mut names, &at, errors);
        ephemeral(container, containers, &at, errors);
    }
    host_ports(containers, &path.child("containers"), errors);
}

fn common<'a>(
    container: &'a Value,
    volumes: &BTreeSet<&str>,
    host_network: bool,
    names: &mut BTreeSet<&'a str>,
    path: &Path,
    errors: &mut Errors,
) {
    let at = path.child("name");
    match text(container, "name") {
        "" => errors.required(&at, ""),
        name => {
            check::named(name, meta::dns_label_errors, &at, errors);
            if !names.insert(name) {
                errors.duplicate(&at, name);
            }
        }
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    check::one_of(container, "imagePullPolicy", PULL_POLICIES, path, errors);
    let policies = &["FallbackToLogsOnError", "File"];
    check::one_of_or_unset(container, "terminationMessagePolicy", policies, path, errors);
    ports(container, host_network, path, errors);
    environment(container, path, errors);
    volumes::mounts(container, volumes, path, errors);
    resources::validate(&container["resources"], &path.child("resources"), errors);
    security(&container["securityContext"], &path.child("securityContext"), errors);
}

fn init(container: &Value, path: &Path, errors: &mut Errors) {
    let policy = text(container, "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if policy == "Always" {
        probes::probe(&container["livenessProbe"], true, &path.child("livenessProbe"), errors);
        probes::probe(&container["readinessProbe"], false, &path.child("readinessProbe"), errors);
        probes::probe(&container["startupProbe"], true, &path.child("startupProbe"), errors);
        probes::lifecycle(&container["lifecycle"], &path.child("lifecycle"), errors);
        return;
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[key].is_null() {
            errors.forbidden(
                &path.child(key),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn ephemeral(container: &Value, containers: &[Value], path: &Path, errors: &mut Errors) {
    let target = text(container, "targetContainerName");
    if !target.is_empty() && !containers.iter().any(|one| text(one, "name") == target) {
        errors.not_found(&path.child("targetContainerName"), target);
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports"] {
        if !container[key].is_null() {
            errors.forbidden(&path.child(key), "cannot be set for an Ephemeral Container");
        }
    }
    if container["resources"].as_object().is_some_and(|resources| !resources.is_empty()) {
        errors.forbidden(&path.child("resources"), "cannot be set for an Ephemeral Container");
    }
}

fn ports(container: &Value, host_network: bool, path: &Path, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let at = path.child("ports").index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = meta::port_name_errors(name);
            if wrong.is_empty() && !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
            for why in wrong {
                errors.invalid(&at.child("name"), name, why);
            }
        }
        let number = int(port, "containerPort").unwrap_or(0);
        if number == 0 {
            errors.required(&at.child("containerPort"), "");
        } else {
            check::port_number(number, &at.child("containerPort"), errors);
        }
        let host = int(port, "hostPort").unwrap_or(0);
        if host != 0 {
            check::port_number(host, &at.child("hostPort"), errors);
            if host_network && host != number {
                errors.invalid(
                    &at.child("containerPort"),
                    number,
                    "must match `hostPort` when `hostNetwork` is true",
                );
            }
        }
        check::one_of(port, "protocol", PROTOCOLS, &at, errors);
    }
}

fn host_ports(containers: &[Value], path: &Path, errors: &mut Errors) {
    let mut used = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or(0);
            let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if host != 0 && !used.insert(key.clone()) {
                let at = path.index(index).child("ports").index(number).child("hostPort");
                errors.duplicate(&at, key);
            }
        }
    }
}

fn environment(container: &Value, path: &Path, errors: &mut Errors) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let at = path.child("env").index(index);
        match text(variable, "name") {
            "" => errors.required(&at.child("name"), ""),
            name if !name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') => errors.invalid(
                &at.child("name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ),
            _ => {}
        }
        if variable["valueFrom"].is_object() {
            value_from(variable, &at.child("valueFrom"), errors);
        }
    }
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let at = path.child("envFrom").index(index);
        let found: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|key| source[*key].is_object()).collect();
        match found[..] {
            [] => errors.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            [key] => {
                check::required(&source[key], "name", &at.child(key), errors);
            }
            _ => errors.invalid(&at, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(variable: &Value, path: &Path, errors: &mut Errors) {
    let from = &variable["valueFrom"];
    let found: Vec<&str> = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"]
        .into_iter()
        .filter(|key| from[*key].is_object())
        .collect();
    for key in &found {
        let (source, at) = (&from[*key], path.child(key));
        match *key {
            "fieldRef" => field_ref(source, &at, errors),
            "resourceFieldRef" => {
                check::required(source, "resource", &at, errors);
            }
            "configMapKeyRef" | "secretKeyRef" => {
                check::required(source, "name", &at, errors);
                check::required(source, "key", &at, errors);
            }
            _ => {}
        }
    }
    if found.is_empty() {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", why);
    } else if !text(variable, "value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if found.len() > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn field_ref(source: &Value, path: &Path, errors: &mut Errors) {
    check::required(source, "apiVersion", path, errors);
    let Some(field) = check::required(source, "fieldPath", path, errors) else { return };
    if let Some((map, key)) = field.strip_suffix(']').and_then(|field| field.split_once('[')) {
        if !matches!(map, "metadata.labels" | "metadata.annotations") {
            let why = format!("error converting fieldPath: field label does not support subscript: {field}");
            errors.invalid(&path.child("fieldPath"), field, why);
        } else if key.trim_matches('\'').is_empty() {
            errors.invalid(&path.child("fieldPath"), field, "key must not be empty");
        }
    } else if !FIELDS.contains(&field) {
        let why = format!("error converting fieldPath: field label not supported: {field}");
        errors.invalid(&path.child("fieldPath"), field, why);
    }
}

fn security(context: &Value, path: &Path, errors: &mut Errors) {
    for key in ["runAsUser", "runAsGroup"] {
        if let Some(id) = int(context, key)
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            errors.invalid(&path.child(key), id, "must be between 0 and 2147483647, inclusive");
        }
    }
    if context["allowPrivilegeEscalation"].as_bool() == Some(false) {
        if flag(context, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context.clone(), why);
        }
        let added = list(context, "capabilities.add");
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context.clone(), why);
        }
    }
}
