//! Disruption budgets, priority classes, resource quotas, limit ranges.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::meta;
use crate::quantity::Quantity;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, each_mut, flag, int, list, object, same, set, text};

/// The priorities that the system's own classes have.
const SYSTEM: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
/// The highest priority that users may give.
const HIGHEST: i64 = 1_000_000_000;

/// Completes the descriptor of `PodDisruptionBudget`.
pub(super) fn budget(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, budget, errors| validate_budget(budget, errors),
        validate_update: |_, new, _, part, errors| {
            if part == Part::Main {
                validate_budget(new, errors);
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Min Available", "How many pods must stay."),
            Column::text("Max Unavailable", "How many pods may be missing."),
            Column::number("Allowed Disruptions", "How many pods may be evicted now."),
            AGE,
        ],
        |budget, now| {
            let spec = &budget["spec"];
            vec![
                cells::name(budget),
                cells::int_or_string(&spec["minAvailable"], "N/A").into(),
                cells::int_or_string(&spec["maxUnavailable"], "N/A").into(),
                cells::count(budget, "status.disruptionsAllowed").into(),
                cells::age(budget, now),
            ]
        },
    );
}

fn validate_budget(budget: &Value, errors: &mut Errors) {
    let (spec, path) = (&budget["spec"], Path::new("spec"));
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for key in ["minAvailable", "maxUnavailable"] {
        check::count_or_percent(&spec[key], &path.child(key), errors);
        check::at_most_all(&spec[key], &path.child(key), errors);
    }
    meta::validate_selector(&spec["selector"], &path.child("selector"), errors);
    let policies = &["AlwaysAllow", "IfHealthyBudget"];
    check::one_of_or_unset(spec, "unhealthyPodEvictionPolicy", policies, &path, errors);
}

/// Completes the descriptor of `PriorityClass`.
pub(super) fn priority(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, class| default(class, "preemptionPolicy", "PreemptLowerPriority"),
        validate: |_, class, errors| validate_priority(class, errors),
        validate_update: |_, new, old, part, errors| {
            if part != Part::Main {
                return;
            }
            for key in ["value", "preemptionPolicy"] {
                if !same(&new[key], &old[key]) {
                    errors.forbidden(&Path::new(key), "may not be changed in an update.");
                }
            }
        },
        create_on_update: true,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::number("Value", "The priority of pods of the class."),
            Column::of("Global-Default", "boolean", "", "Whether pods without a class get this one.", 0),
            AGE,
            Column::text("PreemptionPolicy", "Whether pods of the class push others aside."),
        ],
        |class, now| {
            vec![
                cells::name(class),
                cells::count(class, "value").into(),
                flag(class, "globalDefault").into(),
                cells::age(class, now),
                cells::or(text(class, "preemptionPolicy"), "PreemptLowerPriority").into(),
            ]
        },
    );
}

fn validate_priority(class: &Value, errors: &mut Errors) {
    let (name, value) = (meta::name(class), int(class, "value").unwrap_or(0));
    if let Some(rest) = name.strip_prefix("system-") {
        if !SYSTEM.contains(&(name, value)) && !rest.is_empty() {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            errors.forbidden(&Path::new("metadata").child("name"), why);
        }
    } else if value > HIGHEST {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.forbidden(&Path::new("value"), why);
    }
    let policies = &["Never", "PreemptLowerPriority"];
    check::one_of_or_unset(class, "preemptionPolicy", policies, &Path::default(), errors);
}

/// Completes the descriptor of `ResourceQuota`.
pub(super) fn quota(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, quota, errors| validate_quota(quota, errors),
        validate_update: |_, new, old, part, errors| {
            if part != Part::Main {
                return;
            }
            validate_quota(new, errors);
            check::immutable(&new["spec"], &old["spec"], "scopes", &Path::new("spec"), errors);
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Request", "What is used of what may be requested."),
            Column::text("Limit", "What is used of what may be the limit."),
            AGE,
        ],
        |quota, now| {
            let hard = quota["status"]["hard"].as_object();
            let (mut requests, mut limits) = (Vec::new(), Vec::new());
            for (name, hard) in hard.into_iter().flatten() {
                let used = quota["status"]["used"][name].as_str().unwrap_or("0");
                let shown = format!("{name}: {used}/{}", hard.as_str().unwrap_or_default());
                if name.starts_with("limits.") { limits.push(shown) } else { requests.push(shown) }
            }
            vec![
                cells::name(quota),
                requests.join(", ").into(),
                limits.join(", ").into(),
                cells::age(quota, now),
            ]
        },
    );
}

fn validate_quota(quota: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("hard");
    for (name, value) in quota["spec"]["hard"].as_object().into_iter().flatten() {
        check::named(name, meta::qualified_name_errors, &path.key(name), errors);
        pod::quantity(name, value, &path.key(name), errors);
    }
    let known = &[
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    for scope in list(quota, "spec.scopes") {
        let scope = scope.as_str().unwrap_or_default();
        if !known.contains(&scope) {
            errors.invalid(&Path::new("spec").child("scopes"), scope, "unsupported scope");
        }
    }
}

/// Completes the descriptor of `LimitRange`.
pub(super) fn limits(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, range| {
            if let Some(spec) = object(range, "spec") {
                each_mut(spec, "limits", default_limit);
            }
        },
        validate: |_, range, errors| validate_limits(range, errors),
        create_on_update: true,
        ..Strategy::GENERIC
    };
}

fn default_limit(limit: &mut Value) {
    if text(limit, "type") != "Container" {
        return;
    }
    for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let Some(values) = limit[source].as_object().filter(|map| !map.is_empty()).cloned() else { continue };
        let mut merged = limit[target].as_object().cloned().unwrap_or_default();
        for (name, value) in values {
            merged.entry(name).or_insert(value);
        }
        set(limit, target, json!(merged));
    }
}

fn validate_limits(range: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("limits");
    let mut types = BTreeSet::new();
    for (index, limit) in list(range, "spec.limits").iter().enumerate() {
        let at = path.index(index);
        let kind = text(limit, "type");
        check::named(kind, meta::qualified_name_errors, &at.child("type"), errors);
        if !types.insert(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
        if kind == "Pod" {
            for key in ["default", "defaultRequest"] {
                if limit[key].as_object().is_some_and(|map| !map.is_empty()) {
                    errors.forbidden(&at.child(key), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        let mut names = BTreeSet::new();
        for key in ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"] {
            pod::resource_list(&limit[key], &at.child(key), errors);
            names.extend(limit[key].as_object().into_iter().flatten().map(|(name, _)| name.as_str()));
        }
        for name in names {
            ordered(limit, name, &at, errors);
        }
    }
}

/// Checks that min ≤ default request ≤ default ≤ max for one resource.
fn ordered(limit: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let amount = |key: &str| Quantity::read(&limit[key][name]);
    for (low, low_text, high, high_text, field) in [
        ("min", "min", "max", "max", "min"),
        ("min", "min", "defaultRequest", "default request", "defaultRequest"),
        ("defaultRequest", "default request", "max", "max", "defaultRequest"),
        ("defaultRequest", "default request", "default", "default limit", "defaultRequest"),
        ("min", "min", "default", "default", "default"),
        ("default", "default", "max", "max", "default"),
    ] {
        if let (Some(a), Some(b)) = (amount(low), amount(high))
            && a > b
        {
            let why = format!("{low_text} value {a} is greater than {high_text} value {b}");
            errors.invalid(&path.child(field).key(name), amount(field).map(|one| one.to_string()), why);
        }
    }
}
