//! Horizontal pod autoscalers. `v2` is the stored form; `v1` knows only the cpu's utilization, so what it does
//! not know is carried in annotations.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, check};
use crate::field::{Errors, Path};
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{at, default, int, list, object, remove, set, text, unset};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Completes the descriptor of either version.
pub(super) fn describe(kind: &mut Kind) {
    let old = kind.version == "v1";
    kind.strategy = Strategy {
        default: if old { |_, object| default_old(object) } else { |_, object| defaults(object) },
        validate: if old {
            |_, object, errors| {
                let mut stored = object.clone();
                to_v2(&mut stored);
                validate(&stored, errors);
            }
        } else {
            |_, object, errors| validate(object, errors)
        },
        validate_update: |kind, new, _, part, errors| {
            if part == Part::Main {
                (kind.strategy.validate)(kind, new, errors);
            }
        },
        to_storage: if old { |_, object| to_v2(object) } else { |_, _| {} },
        from_storage: if old { |_, object| to_v1(object) } else { |_, _| {} },
        ..Strategy::GENERIC
    };
    let row: fn(&Value, Timestamp) -> Vec<Value> = if old {
        |object, now| {
            let mut object = object.clone();
            to_v2(&mut object);
            row(&object, now)
        }
    } else {
        row
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Reference", "What is scaled."),
            Column::text("Targets", "The metrics: as they are, and as they should be."),
            Column::text("MinPods", "How few pods there may be."),
            Column::text("MaxPods", "How many pods there may be."),
            Column::number("Replicas", "How many pods there are."),
            AGE,
        ],
        row,
    );
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = &object["spec"]["scaleTargetRef"];
    vec![
        cells::name(object),
        format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
        targets(object).into(),
        cells::int_or_string(&object["spec"]["minReplicas"], cells::UNSET).into(),
        cells::count(object, "spec.maxReplicas").into(),
        cells::count(object, "status.currentReplicas").into(),
        cells::age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    let metrics = list(object, "spec.metrics");
    if metrics.is_empty() {
        return cells::NONE.into();
    }
    let current = list(object, "status.currentMetrics");
    let shown: Vec<String> = metrics
        .iter()
        .take(2)
        .enumerate()
        .map(|(index, metric)| target_cell(metric, current.get(index)))
        .collect();
    let shown = shown.join(", ");
    if metrics.len() > 2 { format!("{shown} + {} more...", metrics.len() - 2) } else { shown }
}

fn target_cell(metric: &Value, current: Option<&Value>) -> String {
    let (source, named) = match text(metric, "type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".into(),
    };
    let target = &metric[source]["target"];
    let now = current.map_or(&Value::Null, |current| at(&current[source], "current"));
    let (found, wanted, average) = if !target["averageValue"].is_null() {
        (cells::or(text(now, "averageValue"), "<unknown>"), text(target, "averageValue").to_owned(), true)
    } else if !target["averageUtilization"].is_null() || named {
        let percent =
            |value: &Value, nothing: &str| value.as_i64().map_or(nothing.to_owned(), |n| format!("{n}%"));
        (
            percent(&now["averageUtilization"], "<unknown>"),
            percent(&target["averageUtilization"], "<auto>"),
            false,
        )
    } else {
        (cells::or(text(now, "value"), "<unknown>"), text(target, "value").to_owned(), false)
    };
    let name = if named { format!("{}: ", text(&metric[source], "name")) } else { String::new() };
    let suffix = if average && matches!(source, "external" | "object") { " (avg)" } else { "" };
    format!("{name}{found}/{wanted}{suffix}")
}

fn default_old(object_v1: &mut Value) {
    if let Some(spec) = object(object_v1, "spec") {
        default(spec, "minReplicas", 1);
    }
    let has_metrics = object_v1["metadata"]["annotations"][METRICS].is_string();
    if let Some(spec) = object(object_v1, "spec")
        && !has_metrics
    {
        default(spec, "targetCPUUtilizationPercentage", 80);
    }
}

fn defaults(scaler: &mut Value) {
    let Some(spec) = object(scaler, "spec") else { return };
    default(spec, "minReplicas", 1);
    if list(spec, "metrics").is_empty() {
        set(spec, "metrics", json!([cpu(80)]));
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    let all = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    if let Some(up) = object(behavior, "scaleUp") {
        default(up, "stabilizationWindowSeconds", 0);
        default(up, "selectPolicy", "Max");
        if up["policies"].is_null() {
            set(up, "policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, all]));
        }
    }
    if let Some(down) = object(behavior, "scaleDown") {
        default(down, "selectPolicy", "Max");
        if down["policies"].is_null() {
            set(down, "policies", json!([all]));
        }
    }
}

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

/// The percentage of a metric that is the cpu's utilization.
fn cpu_percent(metric: &Value, path: &str) -> Option<i64> {
    let is_cpu = text(metric, "type") == "Resource" && text(metric, "resource.name") == "cpu";
    if is_cpu { int(metric, path) } else { None }
}

fn to_v2(scaler: &mut Value) {
    let mut annotation = |key: &str| -> Option<Value> {
        let annotations = scaler.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
        let text = annotations.get(key)?.as_str()?.to_owned();
        let value = serde_json::from_str(&text).ok()?;
        annotations.remove(key);
        Some(value)
    };
    let (metrics, current) = (annotation(METRICS), annotation(CURRENT));
    let (conditions, behavior) = (annotation(CONDITIONS), annotation(BEHAVIOR));
    if let Some(spec) = object(scaler, "spec") {
        let mut all = Vec::new();
        if let Some(percent) = int(spec, "targetCPUUtilizationPercentage") {
            all.push(cpu(percent));
        }
        remove(spec, "targetCPUUtilizationPercentage");
        if let Some(Value::Array(others)) = metrics {
            all.extend(others);
        }
        if !all.is_empty() && spec["metrics"].is_null() {
            set(spec, "metrics", all);
        }
        if let Some(behavior) = behavior {
            set(spec, "behavior", behavior);
        }
    }
    if let Some(status) = scaler.get_mut("status").filter(|status| status.is_object()) {
        let mut all = Vec::new();
        if let Some(percent) = int(status, "currentCPUUtilizationPercentage") {
            all.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
        }
        remove(status, "currentCPUUtilizationPercentage");
        if let Some(Value::Array(others)) = current {
            all.extend(others);
        }
        if !all.is_empty() && status["currentMetrics"].is_null() {
            set(status, "currentMetrics", all);
        }
        if let Some(conditions) = conditions {
            set(status, "conditions", conditions);
        }
    }
}

fn to_v1(scaler: &mut Value) {
    let mut carried: Vec<(&str, Value)> = Vec::new();
    let mut split = |place: &mut Value, from: &str, to: &str, path: &str, key: &'static str| {
        let Some(Value::Array(all)) = place.get(from).cloned() else { return };
        remove(place, from);
        let percent = all.iter().find_map(|metric| cpu_percent(metric, path));
        let others: Vec<Value> =
            all.into_iter().filter(|metric| cpu_percent(metric, path).is_none()).collect();
        if let Some(percent) = percent {
            set(place, to, percent);
        }
        if !others.is_empty() {
            carried.push((key, others.into()));
        }
    };
    if let Some(spec) = scaler.get_mut("spec").filter(|spec| spec.is_object()) {
        let path = "resource.target.averageUtilization";
        split(spec, "metrics", "targetCPUUtilizationPercentage", path, METRICS);
    }
    if let Some(status) = scaler.get_mut("status").filter(|status| status.is_object()) {
        let path = "resource.current.averageUtilization";
        split(status, "currentMetrics", "currentCPUUtilizationPercentage", path, CURRENT);
    }
    for (part, field, key) in [("status", "conditions", CONDITIONS), ("spec", "behavior", BEHAVIOR)] {
        if let Some(place) = scaler.get_mut(part)
            && let Some(value) = place.get(field).cloned()
        {
            remove(place, field);
            carried.push((key, value));
        }
    }
    if carried.is_empty() {
        return;
    }
    let annotations = object(scaler, "metadata").and_then(|meta| object(meta, "annotations"));
    if let Some(annotations) = annotations {
        for (key, value) in carried {
            set(annotations, key, value.to_string());
        }
    }
}

fn validate(scaler: &Value, errors: &mut Errors) {
    let (spec, path) = (&scaler["spec"], Path::new("spec"));
    let (low, high) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    if let Some(low) = low
        && low < 1
    {
        errors.invalid(&path.child("minReplicas"), low, "must be greater than or equal to 1");
    }
    if high < 1 {
        errors.invalid(&path.child("maxReplicas"), high, "must be greater than 0");
    }
    if let Some(low) = low
        && high < low
    {
        errors.invalid(&path.child("maxReplicas"), high, "must be greater than or equal to `minReplicas`");
    }
    let at = path.child("scaleTargetRef");
    check::required(&spec["scaleTargetRef"], "kind", &at, errors);
    check::required(&spec["scaleTargetRef"], "name", &at, errors);
    for (index, metric) in list(spec, "metrics").iter().enumerate() {
        validate_metric(metric, &path.child("metrics").index(index), errors);
    }
}

fn validate_metric(metric: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(metric, "type");
    let known = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
        return;
    }
    if !known.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &known);
        return;
    }
    let mut field = kind.to_owned();
    field[..1].make_ascii_lowercase();
    let source = &metric[field.as_str()];
    let at = path.child(&field);
    if !source.is_object() {
        errors.required(&at, "must populate information for the given metric source");
        return;
    }
    if matches!(kind, "Resource" | "ContainerResource") {
        check::required(source, "name", &at, errors);
    }
    let target = &source["target"];
    let place = at.child("target");
    if let Some(percent) = int(target, "averageUtilization")
        && percent < 1
    {
        errors.invalid(&place.child("averageUtilization"), percent, "must be greater than 0");
    }
    if unset(&target["type"]) {
        errors.required(&place.child("type"), "must specify a metric target type");
    } else {
        check::one_of(target, "type", &["AverageValue", "Utilization", "Value"], &place, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    #[test]
    fn the_old_version_shows_the_same_object() {
        let old = builtin().of("autoscaling/v1", "HorizontalPodAutoscaler").unwrap();
        let mut object = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
            "spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "targetCPUUtilizationPercentage": 50},
            "status": {"currentReplicas": 2, "currentCPUUtilizationPercentage": 10}});
        let sent = object.clone();
        old.to_storage(&mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v2");
        assert_eq!(object["spec"]["metrics"], json!([cpu(50)]));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(
            row(&object, now)[1..6],
            [json!("Deployment/web"), json!("cpu: 10%/50%"), json!("1"), json!(3), json!(2)]
        );
        old.from_storage(&mut object);
        assert_eq!(object, sent);
    }

    #[test]
    fn what_the_old_version_does_not_know_is_carried_along() {
        let old = builtin().of("autoscaling/v1", "HorizontalPodAutoscaler").unwrap();
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}});
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x", "annotations": {}},
            "spec": {"maxReplicas": 3, "metrics": [cpu(50), pods], "behavior": {"scaleUp": {"selectPolicy": "Max"}}}});
        let mut object = stored.clone();
        old.from_storage(&mut object);
        assert_eq!(object["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        old.to_storage(&mut object);
        assert_eq!(object, stored);
    }
}
