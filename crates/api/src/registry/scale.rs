//! The subresource `scale`: a view of an object's replicas.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{AGE, Column, NAME, Table};
use crate::field::{Errors, Path};
use crate::kinds::cells;
use crate::selector::Selector;
use crate::{meta, value};

/// Where in an object its replicas stand, as dotted paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// How many replicas are wanted.
    pub spec: Cow<'static, str>,
    /// How many replicas there are.
    pub status: Cow<'static, str>,
    /// The selector of the replicas: a map, a `LabelSelector`, or a text (custom kinds).
    pub selector: Option<Cow<'static, str>>,
}

impl ScalePaths {
    /// The paths of the workload kinds.
    pub const REPLICAS: Self = Self {
        spec: Cow::Borrowed("spec.replicas"),
        status: Cow::Borrowed("status.replicas"),
        selector: Some(Cow::Borrowed("spec.selector")),
    };

    /// Returns the table of `Scale`.
    #[must_use]
    pub fn table() -> Table {
        let columns = vec![
            NAME,
            Column::number("Desired", "How many replicas are wanted."),
            Column::number("Available", "How many replicas there are."),
            AGE,
        ];
        Table::new(columns, |scale, now| {
            let number = |path: &str| Value::from(value::int(scale, path).unwrap_or(0));
            vec![
                cells::name(scale),
                number("spec.replicas"),
                number("status.replicas"),
                cells::age(scale, now),
            ]
        })
    }

    /// Returns the `Scale` of an object.
    #[must_use]
    pub fn of(&self, object: &Value) -> Value {
        let meta = &object["metadata"];
        let mut scale = json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {},
            "spec": {},
            "status": {"replicas": value::int(object, &self.status).unwrap_or(0)},
        });
        for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(found) = meta.get(key) {
                scale["metadata"][key] = found.clone();
            }
        }
        if let Some(replicas) = value::int(object, &self.spec) {
            scale["spec"]["replicas"] = replicas.into();
        }
        if let Some(path) = &self.selector {
            let text = selector_text(value::at(object, path));
            if !text.is_empty() {
                scale["status"]["selector"] = text.into();
            }
        }
        scale
    }

    /// Writes the wanted replicas of a `Scale` into an object.
    pub fn apply(&self, object: &mut Value, scale: &Value) {
        let replicas = value::int(scale, "spec.replicas").unwrap_or(0);
        let mut place = object;
        let mut segments = self.spec.split('.').peekable();
        while let Some(segment) = segments.next() {
            if segments.peek().is_none() {
                value::set(place, segment, replicas);
                return;
            }
            let Some(next) = value::object(place, segment) else { return };
            place = next;
        }
    }

    /// Checks a `Scale` that a client sent.
    ///
    /// # Errors
    /// `Invalid` when the replicas are negative.
    pub fn validate(scale: &Value) -> Result<(), crate::status::Status> {
        let mut errors = Errors::new();
        let replicas = value::int(scale, "spec.replicas").unwrap_or(0);
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            errors.invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(crate::status::Status::invalid("autoscaling", "Scale", meta::name(scale), &errors));
        }
        Ok(())
    }
}

fn selector_text(selector: &Value) -> String {
    match selector {
        Value::String(text) => text.clone(),
        Value::Object(map) if map.contains_key("matchLabels") || map.contains_key("matchExpressions") => {
            Selector::from_object(selector).map(|selector| selector.to_string()).unwrap_or_default()
        }
        Value::Object(_) => Selector::from_map(selector).to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_and_sets_the_replicas() {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "d", "resourceVersion": "7"},
            "spec": {"replicas": 3, "selector": {"app": "web"}},
            "status": {"replicas": 2},
        });
        let mut scale = ScalePaths::REPLICAS.of(&object);
        assert_eq!(scale["spec"], json!({"replicas": 3}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
        assert_eq!(scale["metadata"], json!({"name": "web", "namespace": "d", "resourceVersion": "7"}));
        scale["spec"]["replicas"] = 5.into();
        ScalePaths::REPLICAS.apply(&mut object, &scale);
        assert_eq!(object["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = (-1).into();
        assert!(
            ScalePaths::validate(&scale).unwrap_err().message.contains("must be greater than or equal to 0")
        );
    }
}
