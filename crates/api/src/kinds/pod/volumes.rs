//! Checks of volumes and their mounts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::check;
use crate::field::{Errors, Path};
use crate::meta;
use crate::quantity::Quantity;
use crate::value::{int, list, text};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: &[&str] =
    &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks the volumes of a pod spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let at = path.index(index);
        match text(volume, "name") {
            "" => errors.required(&at.child("name"), ""),
            name => {
                check::named(name, meta::dns_label_errors, &at.child("name"), errors);
                if !names.insert(name) {
                    errors.duplicate(&at.child("name"), name);
                }
            }
        }
        source(volume, &at, errors);
    }
}

fn source(volume: &Value, path: &Path, errors: &mut Errors) {
    let mut found = 0;
    for (key, source) in volume.as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
        found += 1;
        let at = path.child(key);
        if found > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type");
            continue;
        }
        match key.as_str() {
            "emptyDir" if Quantity::read(&source["sizeLimit"]).is_some_and(|limit| limit.signum() < 0) => {
                errors.forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
            "hostPath" => host_path(source, &at, errors),
            "secret" => {
                check::required(source, "secretName", &at, errors);
                mode(source, "defaultMode", &at, errors);
                items(source, &at, errors);
            }
            "configMap" => {
                check::required(source, "name", &at, errors);
                mode(source, "defaultMode", &at, errors);
                items(source, &at, errors);
            }
            "downwardAPI" => {
                mode(source, "defaultMode", &at, errors);
                downward(source, &at, errors);
            }
            "projected" => projected(source, &at, errors),
            "persistentVolumeClaim" => {
                check::required(source, "claimName", &at, errors);
            }
            "nfs" => {
                check::required(source, "server", &at, errors);
                if let Some(place) = check::required(source, "path", &at, errors)
                    && !place.starts_with('/')
                {
                    errors.invalid(&at.child("path"), place, "must be an absolute path");
                }
            }
            "csi" => {
                check::required(source, "driver", &at, errors);
            }
            "ephemeral" if !source["volumeClaimTemplate"].is_object() => {
                errors.required(&at.child("volumeClaimTemplate"), "");
            }
            "image" => {
                check::required(source, "reference", &at, errors);
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Errors) {
    if let Some(place) = check::required(source, "path", path, errors) {
        no_dots(place, &path.child("path"), errors);
    }
    check::one_of_or_unset(source, "type", HOST_PATH_TYPES, path, errors);
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    for (index, source) in list(source, "sources").iter().enumerate() {
        let at = path.child("sources").index(index);
        let found: Vec<&String> = source.as_object().into_iter().flatten().map(|(key, _)| key).collect();
        if found.len() > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type");
        }
        for key in found {
            let (source, at) = (&source[key.as_str()], at.child(key));
            match key.as_str() {
                "secret" | "configMap" => {
                    check::required(source, "name", &at, errors);
                    items(source, &at, errors);
                }
                "downwardAPI" => downward(source, &at, errors),
                "serviceAccountToken" => {
                    let seconds = int(source, "expirationSeconds").unwrap_or(3600);
                    if seconds < 600 {
                        let why = "may not specify a duration less than 10 minutes";
                        errors.invalid(&at.child("expirationSeconds"), seconds, why);
                    } else if seconds > 1 << 32 {
                        let why = "may not specify a duration larger than 2^32 seconds";
                        errors.invalid(&at.child("expirationSeconds"), seconds, why);
                    }
                    relative(source, "path", &at, errors);
                }
                _ => {}
            }
        }
    }
}

fn items(source: &Value, path: &Path, errors: &mut Errors) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let at = path.child("items").index(index);
        check::required(item, "key", &at, errors);
        relative(item, "path", &at, errors);
        mode(item, "mode", &at, errors);
    }
}

fn downward(source: &Value, path: &Path, errors: &mut Errors) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let at = path.child("items").index(index);
        relative(item, "path", &at, errors);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (true, true) => errors.invalid(
                &at,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (false, false) => errors.required(&at, "one of fieldRef and resourceFieldRef is required"),
            (true, false) => {
                check::required(&item["fieldRef"], "fieldPath", &at.child("fieldRef"), errors);
            }
            (false, true) => {
                check::required(&item["resourceFieldRef"], "resource", &at.child("resourceFieldRef"), errors);
            }
        }
        mode(item, "mode", &at, errors);
    }
}

fn mode(source: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if let Some(mode) = int(source, key)
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(&path.child(key), mode, MODE);
    }
}

fn relative(source: &Value, key: &str, path: &Path, errors: &mut Errors) {
    let Some(place) = check::required(source, key, path, errors) else { return };
    if place.starts_with('/') {
        errors.invalid(&path.child(key), place, "must be a relative path");
    }
    no_dots(place, &path.child(key), errors);
}

fn no_dots(place: &str, path: &Path, errors: &mut Errors) {
    if place.split('/').any(|part| part == "..") {
        errors.invalid(path, place, "must not contain '..'");
    }
}

/// Checks where a container mounts volumes.
pub(super) fn mounts(container: &Value, volumes: &BTreeSet<&str>, path: &Path, errors: &mut Errors) {
    let mut places = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = path.child("volumeMounts").index(index);
        if let Some(name) = check::required(mount, "name", &at, errors)
            && !volumes.contains(name)
        {
            errors.not_found(&at.child("name"), name);
        }
        if let Some(place) = check::required(mount, "mountPath", &at, errors)
            && !places.insert(place)
        {
            errors.invalid(&at.child("mountPath"), place, "must be unique");
        }
        for key in ["subPath", "subPathExpr"] {
            let place = text(mount, key);
            if place.starts_with('/') {
                errors.invalid(&at.child(key), place, "must be a relative path");
            }
            no_dots(place, &at.child(key), errors);
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            errors.invalid(
                &at.child("subPathExpr"),
                text(mount, "subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        let propagation = &["Bidirectional", "HostToContainer", "None"];
        check::one_of_or_unset(mount, "mountPropagation", propagation, &at, errors);
    }
}
