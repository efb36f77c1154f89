//! Cron jobs.

use serde_json::Value;

use super::super::{cells, check};
use super::{job, schedule};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, list, object, text};

/// Completes the descriptor.
pub(in crate::kinds) fn describe(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, object| defaults(object),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, part, errors| {
            if part != Part::Status {
                validate(new, errors);
            }
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Schedule", "When jobs are made, in cron's form."),
            Column::text("Timezone", "The time zone of the schedule."),
            Column::text("Suspend", "Whether no further jobs are made."),
            Column::number("Active", "How many jobs run."),
            Column::text("Last Schedule", "How long ago a job was made."),
            AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        |object, now| {
            let [names, images] =
                cells::containers(&object["spec"]["jobTemplate"]["spec"]["template"]["spec"]);
            let suspended = match object["spec"]["suspend"].as_bool() {
                Some(true) => "True",
                Some(false) => "False",
                None => cells::UNSET,
            };
            let last = match text(object, "status.lastScheduleTime") {
                "" => cells::NONE.to_owned(),
                last => crate::time::age(last, now),
            };
            vec![
                cells::name(object),
                text(object, "spec.schedule").into(),
                cells::or_none(text(object, "spec.timeZone")).into(),
                suspended.into(),
                list(object, "status.active").len().into(),
                last.into(),
                cells::age(object, now),
                names,
                images,
                cells::selector(&object["spec"]["jobTemplate"]["spec"]["selector"]).into(),
            ]
        },
    );
}

fn defaults(cron: &mut Value) {
    let Some(spec) = object(cron, "spec") else { return };
    default(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    let template = object(spec, "jobTemplate").and_then(|template| object(template, "spec"));
    if let Some(template) = template {
        job::default_spec(template);
    }
}

fn validate(cron: &Value, errors: &mut Errors) {
    let (spec, path) = (&cron["spec"], Path::new("spec"));
    let name = meta::name(cron);
    if name.len() > 52 {
        errors.invalid(&Path::new("metadata").child("name"), name, "must be no more than 52 characters");
    }
    match text(spec, "schedule") {
        "" => errors.required(&path.child("schedule"), ""),
        found => {
            if found.contains("TZ") {
                let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.invalid(&path.child("schedule"), found, why);
            } else if let Err(why) = schedule::check(found) {
                errors.invalid(&path.child("schedule"), found, why);
            }
        }
    }
    if let Some(zone) = spec["timeZone"].as_str() {
        let at = path.child("timeZone");
        if zone.is_empty() {
            errors.invalid(&at, zone, "timeZone must be nil or non-empty string");
        } else if zone.eq_ignore_ascii_case("local") {
            errors.invalid(
                &at,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        }
    }
    check::not_negative(spec, "startingDeadlineSeconds", &path, errors);
    check::not_negative(spec, "successfulJobsHistoryLimit", &path, errors);
    check::not_negative(spec, "failedJobsHistoryLimit", &path, errors);
    check::one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &path, errors);
    let at = path.child("jobTemplate").child("spec");
    if !spec["jobTemplate"]["spec"]["selector"].is_null() {
        let why = "`selector` will be auto-generated";
        errors.invalid(&at.child("selector"), spec["jobTemplate"]["spec"]["selector"].clone(), why);
    }
    if spec["jobTemplate"]["spec"]["manualSelector"].as_bool() == Some(true) {
        errors.not_supported(&at.child("manualSelector"), true, &["nil", "false"]);
    }
    job::validate_spec(&spec["jobTemplate"]["spec"], &at, false, errors);
}
