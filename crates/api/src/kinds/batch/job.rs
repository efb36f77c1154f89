//! Jobs.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::selector::Selector;
use crate::time;
use crate::value::{default, flag, int, list, object, same, set, text};

/// Completes the descriptor.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        warnings: |_, object| pod::warnings_of_template(object),
        default: |_, job| defaults(job),
        prepare_create: |kind, job| {
            crate::registry::drop_status(kind, job);
            own_selector(job);
            // The labels that the pods now have are also the job's own, if it has none.
            defaults(job);
        },
        validate: |_, job, errors| {
            validate_spec(&job["spec"], &Path::new("spec"), true, errors);
            if !flag(job, "spec.manualSelector") && job["spec"]["selector"].is_null() {
                errors.required(&Path::new("spec").child("selector"), "");
            }
            let name = meta::name(job);
            if name.len() > 63 {
                errors.invalid(&Path::new("metadata").child("name"), name, "must be no more than 63 bytes");
            }
        },
        validate_update,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Status", "Whether the job runs, is complete, or failed."),
            Column::text("Completions", "How many pods have succeeded of how many that must."),
            Column::text("Duration", "How long the job took, or has been running."),
            AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        row,
    );
}

fn row(job: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = cells::containers(&job["spec"]["template"]["spec"]);
    let status = [("Complete", "Complete"), ("Failed", "Failed")]
        .into_iter()
        .find(|(kind, _)| cells::is_true(job, kind))
        .or_else(|| meta::is_deleting(job).then_some(("", "Terminating")))
        .or_else(|| {
            ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
                .into_iter()
                .find(|kind| cells::is_true(job, kind))
                .map(|kind| (kind, kind))
        })
        .map_or("Running", |(_, text)| text);
    vec![
        cells::name(job),
        status.into(),
        completions(job).into(),
        duration(job, now).into(),
        cells::age(job, now),
        names,
        images,
        cells::selector(&job["spec"]["selector"]).into(),
    ]
}

fn completions(job: &Value) -> String {
    let succeeded = cells::count(job, "status.succeeded");
    match (int(job, "spec.completions"), int(job, "spec.parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        _ => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let Some(start) = time::parse(text(job, "status.startTime")) else { return String::new() };
    let end = time::parse(text(job, "status.completionTime")).unwrap_or(now);
    time::human(end.as_second() - start.as_second())
}

fn defaults(job: &mut Value) {
    if let Some(spec) = object(job, "spec") {
        default_spec(spec);
    }
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object()
        && let Some(meta) = object(job, "metadata")
        && meta["labels"].as_object().is_none_or(serde_json::Map::is_empty)
    {
        set(meta, "labels", labels);
    }
}

/// Fills in the spec of a job; also of the one inside a cron job.
pub(super) fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let per_index = !spec["backoffLimitPerIndex"].is_null();
    default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    default(spec, "podReplacementPolicy", replacement);
    if let Some(template) = object(spec, "template") {
        pod::default_template(template);
    }
}

/// Gives the pods labels that only they have, and selects by those, unless the user selects by hand.
fn own_selector(job: &mut Value) {
    if flag(job, "spec.manualSelector") {
        return;
    }
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    let Some(spec) = object(job, "spec") else { return };
    let labels = object(spec, "template")
        .and_then(|one| object(one, "metadata"))
        .and_then(|one| object(one, "labels"));
    if let Some(labels) = labels {
        for key in ["controller-uid", "batch.kubernetes.io/controller-uid"] {
            set(labels, key, uid.as_str());
        }
        for key in ["job-name", "batch.kubernetes.io/job-name"] {
            set(labels, key, name.as_str());
        }
    }
    if spec["selector"].is_null() {
        set(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    }
}

/// Checks the spec of a job; `selected` says that it has its selector already (a cron job's template has not).
pub(super) fn validate_spec(spec: &Value, path: &Path, selected: bool, errors: &mut Errors) {
    for key in [
        "parallelism",
        "completions",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "activeDeadlineSeconds",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check::not_negative(spec, key, path, errors);
    }
    match text(spec, "completionMode") {
        "" | "NonIndexed" => {}
        "Indexed" => {
            if spec["completions"].is_null() {
                errors.required(&path.child("completions"), "when completion mode is Indexed");
            }
            let parallelism = int(spec, "parallelism").unwrap_or(0);
            if parallelism > 100_000 {
                let why = "must be less than or equal to 100000 when completion mode is Indexed";
                errors.invalid(&path.child("parallelism"), parallelism, why);
            }
        }
        other => errors.not_supported(&path.child("completionMode"), other, &["NonIndexed", "Indexed"]),
    }
    let template = path.child("template");
    if selected {
        let selector = &spec["selector"];
        meta::validate_selector(selector, &path.child("selector"), errors);
        let labels = &spec["template"]["metadata"]["labels"];
        if let Ok(parsed) = Selector::from_object(selector)
            && !selector.is_null()
            && !parsed.matches(labels)
        {
            let at = template.child("metadata").child("labels");
            errors.invalid(&at, labels.clone(), "`selector` does not match template `labels`");
        }
    }
    pod::validate_template(&spec["template"], &template, errors);
    let policy = text(spec, "template.spec.restartPolicy");
    let at = template.child("spec").child("restartPolicy");
    match policy {
        "" | "Always" => {
            errors.required(&at, "valid values: \"OnFailure\", \"Never\"");
        }
        "OnFailure" if !spec["podFailurePolicy"].is_null() => {
            errors.invalid(&at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => {}
    }
    for (index, rule) in list(spec, "podFailurePolicy.rules").iter().enumerate() {
        let at = path.child("podFailurePolicy").child("rules").index(index);
        check::one_of(rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], &at, errors);
    }
}

fn validate_update(_: &Kind, new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    if part == Part::Status {
        for key in ["active", "succeeded", "failed"] {
            check::not_negative(&new["status"], key, &Path::new("status"), errors);
        }
        return;
    }
    validate_spec(&new["spec"], &path, true, errors);
    let (is, was) = (&new["spec"], &old["spec"]);
    let indexed = text(is, "completionMode") == "Indexed";
    if !(indexed && is["completions"] == is["parallelism"]) {
        check::immutable(is, was, "completions", &path, errors);
    }
    check::immutable(is, was, "selector", &path, errors);
    check::immutable(is, was, "completionMode", &path, errors);
    check::immutable(is, was, "podFailurePolicy", &path, errors);
    check::immutable(is, was, "backoffLimitPerIndex", &path, errors);
    check::immutable(is, was, "manualSelector", &path, errors);
    // A job that has not started yet may still be told where its pods may run.
    let not_started = flag(was, "suspend") && old["status"]["startTime"].is_null();
    if !not_started && !same(&is["template"], &was["template"]) {
        errors.invalid(&path.child("template"), is["template"].clone(), check::IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_selects_its_own_pods_only() {
        let mut job = json!({"metadata": {"name": "pi", "uid": "u1"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b:1"}]}}}});
        defaults(&mut job);
        own_selector(&mut job);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}})
        );
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"], "pi");
        assert_eq!((&job["spec"]["completions"], &job["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
        let mut errors = Errors::new();
        validate_spec(&job["spec"], &Path::new("spec"), true, &mut errors);
        assert!(errors.is_empty(), "{}", errors.joined());
    }

    #[test]
    fn the_table_tells_how_far_a_job_is() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        for (spec, status, expect) in [
            (
                json!({"completions": 3}),
                json!({"succeeded": 1, "startTime": "2026-01-01T00:59:30Z"}),
                ["Running", "1/3", "30s"],
            ),
            (json!({"parallelism": 2}), json!({}), ["Running", "0/1 of 2", ""]),
            (
                json!({"completions": 1}),
                json!({"succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:05Z",
                    "conditions": [{"type": "Complete", "status": "True"}]}),
                ["Complete", "1/1", "5s"],
            ),
            (
                json!({"completions": 1}),
                json!({"conditions": [{"type": "Suspended", "status": "True"}]}),
                ["Suspended", "0/1", ""],
            ),
        ] {
            let row = row(&json!({"spec": spec, "status": status}), now);
            assert_eq!(row[1..4], expect.map(Value::from));
        }
    }
}
