//! Checks of probes and lifecycle hooks.

use serde_json::Value;

use super::super::check;
use crate::field::{Errors, Path};
use crate::value::{int, list, text};

/// Checks a probe. `once` says that one success must be enough.
pub(super) fn probe(probe: &Value, once: bool, path: &Path, errors: &mut Errors) {
    if !probe.is_object() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check::not_negative(probe, key, path, errors);
    }
    if let Some(grace) = int(probe, "terminationGracePeriodSeconds")
        && grace <= 0
    {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
    let threshold = int(probe, "successThreshold").unwrap_or(1);
    if once && threshold != 1 {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

/// Checks the hooks of a container.
pub(super) fn lifecycle(lifecycle: &Value, path: &Path, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        if lifecycle[hook].is_object() {
            handler(&lifecycle[hook], &["exec", "httpGet", "tcpSocket", "sleep"], &path.child(hook), errors);
        }
    }
}

fn handler(handler: &Value, known: &[&str], path: &Path, errors: &mut Errors) {
    let mut found = 0;
    for key in known {
        let action = &handler[*key];
        if !action.is_object() {
            continue;
        }
        found += 1;
        let at = path.child(key);
        if found > 1 {
            errors.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        match *key {
            "exec" if list(action, "command").is_empty() => errors.required(&at.child("command"), ""),
            "httpGet" => http_get(action, &at, errors),
            "tcpSocket" => check::port(&action["port"], &at.child("port"), errors),
            "grpc" => check::port_number(int(action, "port").unwrap_or(0), &at.child("port"), errors),
            "sleep" if int(action, "seconds").unwrap_or(0) < 0 => {
                let seconds = int(action, "seconds").unwrap_or(0);
                errors.invalid(
                    &at,
                    seconds,
                    "must be greater than 0 and less than terminationGracePeriodSeconds",
                );
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Value, path: &Path, errors: &mut Errors) {
    check::required(action, "path", path, errors);
    check::port(&action["port"], &path.child("port"), errors);
    check::one_of_or_unset(action, "scheme", &["HTTP", "HTTPS"], path, errors);
    for (index, header) in list(action, "httpHeaders").iter().enumerate() {
        let name = text(header, "name");
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || !name.bytes().all(known) {
            errors.invalid(
                &path.child("httpHeaders").index(index).child("name"),
                name,
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                 used for validation is '[-A-Za-z0-9]+')",
            );
        }
    }
}
