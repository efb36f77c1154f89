//! Events, which are served under two groups: `v1` is the stored form, `events.k8s.io/v1` renames fields.

use jiff::Timestamp;
use serde_json::Value;

use super::cells;
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{Column, Kind, NAME, Strategy, Table};
use crate::time;
use crate::value::{default, int, text};

/// Names of fields: in `events.k8s.io/v1`, and in `v1`.
const RENAMED: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Completes the descriptor of events of either group.
pub(super) fn describe(kind: &mut Kind) {
    let modern = !kind.group.is_empty();
    kind.strategy = Strategy {
        default: |_, event| default(event, "type", "Normal"),
        validate: if modern {
            |_, event, errors| validate_modern(event, errors)
        } else {
            |_, event, errors| validate(event, errors)
        },
        to_storage: if modern { |_, event| rename(event, false) } else { |_, _| {} },
        from_storage: if modern { |_, event| rename(event, true) } else { |_, _| {} },
        create_on_update: true,
        ..Strategy::GENERIC
    };
    // Tables are made of the form that the client asked for, so each form has a row function of its own.
    let row: fn(&Value, Timestamp) -> Vec<Value> = if modern {
        |event, now| {
            let mut event = event.clone();
            rename(&mut event, false);
            row(&event, now)
        }
    } else {
        row
    };
    kind.table = Table::new(
        vec![
            Column::text("Last Seen", "How long ago this happened last."),
            Column::text("Type", "Whether this is normal or a warning."),
            Column::text("Reason", "What happened, in one word."),
            Column::text("Object", "What it happened to."),
            Column::wide("Subobject", "The part of the object that it happened to."),
            Column::wide("Source", "Who reported it."),
            Column::text("Message", "What happened, in a sentence."),
            Column::wide("First Seen", "How long ago this happened first."),
            Column::of("Count", "string", "", "How often this has happened.", 1),
            Column { priority: 1, ..NAME },
        ],
        row,
    );
}

fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let age = |path: &str| {
        time::parse(text(event, path)).map(|then| time::human(now.as_second() - then.as_second()))
    };
    let unknown = || "<unknown>".to_owned();
    let first = age("firstTimestamp").or_else(|| age("eventTime")).unwrap_or_else(unknown);
    let (last, count) = if event["series"].is_object() {
        let last = age("series.lastObservedTime").unwrap_or_else(unknown);
        (last, int(event, "series.count").unwrap_or(0))
    } else {
        (age("lastTimestamp").unwrap_or_else(|| first.clone()), int(event, "count").unwrap_or(0).max(1))
    };
    let kind = text(event, "involvedObject.kind").to_lowercase();
    let target = match text(event, "involvedObject.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        text(event, "involvedObject.fieldPath").into(),
        source(event).into(),
        text(event, "message").trim().into(),
        first.into(),
        count.to_string().into(),
        cells::name(event),
    ]
}

fn source(event: &Value) -> String {
    let or = |a: &'static str, b: &'static str| match text(event, a) {
        "" => text(event, b),
        found => found,
    };
    let component = or("source.component", "reportingComponent");
    match or("source.host", "reportingInstance") {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

fn rename(event: &mut Value, to_modern: bool) {
    let Some(map) = event.as_object_mut() else { return };
    for (modern, old) in RENAMED {
        let (from, to) = if to_modern { (old, modern) } else { (modern, old) };
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
}

fn validate(event: &Value, errors: &mut Errors) {
    let (namespace, involved) = (meta::namespace(event), text(event, "involvedObject.namespace"));
    let path = Path::new("involvedObject").child("namespace");
    if involved.is_empty() {
        // Events about what has no namespace go to the default one.
        if !matches!(namespace, "default" | "kube-system") {
            errors.invalid(&path, involved, "does not match event.namespace");
        }
    } else if namespace != involved {
        errors.invalid(&path, involved, "does not match event.namespace");
    }
    if text(event, "message").len() > 1 << 20 {
        errors.too_long(&Path::new("message"), 1 << 20);
    }
}

fn validate_modern(event: &Value, errors: &mut Errors) {
    let mut stored = event.clone();
    rename(&mut stored, false);
    validate(&stored, errors);
    for (key, limit) in
        [("reportingController", 128), ("reportingInstance", 128), ("action", 128), ("reason", 128)]
    {
        match text(event, key) {
            "" => errors.required(&Path::new(key), ""),
            found if found.len() > limit => {
                errors.invalid(&Path::new(key), "", format!("can have at most {limit} characters"));
            }
            _ => {}
        }
    }
    if event["eventTime"].is_null() {
        errors.required(&Path::new("eventTime"), "");
    }
    if !matches!(text(event, "type"), "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", "has invalid value: ");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::builtin;

    #[test]
    fn an_event_of_one_group_is_read_through_the_other() {
        let modern = builtin().of("events.k8s.io/v1", "Event").unwrap();
        let mut event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "x"},
            "note": "hello", "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "c", "eventTime": "2026-01-01T00:00:00.000000Z"});
        let sent = event.clone();
        modern.to_storage(&mut event);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x"}, "message": "hello",
                "involvedObject": {"kind": "Pod", "name": "p"}, "reportingComponent": "c", "eventTime": "2026-01-01T00:00:00.000000Z"})
        );
        let core = builtin().of("v1", "Event").unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(core.table.row(&event, now)[..4], ["60s", "", "", "pod/p"].map(Value::from));
        assert_eq!(core.table.row(&event, now), modern.table.row(&sent, now));
        modern.from_storage(&mut event);
        assert_eq!(event, sent);
    }
}
