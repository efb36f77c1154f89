//! From what a client sent to an object of its kind: types are checked, forms are made canonical, and
//! fields that the kind does not have are found.
//!
//! Nulls are dropped, quantities and times are written canonically: what is stored is what a typed decoder
//! would have kept. Unknown fields are dropped, too; the caller refuses or warns by `fieldValidation`.

use serde_json::{Map, Value};

use crate::field::quote;
use crate::quantity::Quantity;
use crate::registry::Kind;
use crate::schema::{Definition, Form, Property, Type};
use crate::status::Status;
use crate::time;

mod duplicates;

pub use duplicates::parse;

/// Decodes an object of a built-in kind in place. Returns what strict decoding objects to, such as
/// `unknown field "spec.foo"`.
///
/// # Errors
/// `BadRequest` in upstream's words when a value has the wrong type.
pub fn decode(kind: &Kind, object: &mut Value) -> Result<Vec<String>, Status> {
    let Some(definition) = kind.definition.and_then(crate::schema::definition) else {
        return Ok(Vec::new());
    };
    let mut walk = Walk { unknown: Vec::new(), path: Vec::new(), owner: short_name(definition) };
    match walk.definition(definition, object) {
        Ok(()) => Ok(walk.unknown),
        Err(why) => Err(cannot_be_handled(kind, &why)),
    }
}

/// Checks the types of options that come in a request's body, such as `DeleteOptions`. What is unknown is
/// dropped.
///
/// # Errors
/// `BadRequest` in upstream's words when a value has the wrong type.
pub fn options(name: &str, object: &mut Value) -> Result<(), Status> {
    let Some(definition) = crate::schema::definition(&format!("apimachinery.pkg.apis.meta.v1.{name}")) else {
        return Err(Status::bad_request(format!("no kind {} is registered", quote(name))));
    };
    let mut walk = Walk { unknown: Vec::new(), path: Vec::new(), owner: short_name(definition) };
    walk.definition(definition, object).map_err(|why| {
        Status::bad_request(format!("{name} in version \"v1\" cannot be handled as a {name}: {why}"))
    })
}

/// Returns the failure of an object that breaks strict decoding.
#[must_use]
pub fn strict_error(kind: &Kind, problems: &[String]) -> Status {
    cannot_be_handled(kind, &format!("strict decoding error: {}", problems.join(", ")))
}

fn cannot_be_handled(kind: &Kind, why: &str) -> Status {
    let (name, version) = (&kind.kind, &kind.version);
    Status::bad_request(format!("{name} in version {} cannot be handled as a {name}: {why}", quote(version)))
}

enum Step {
    Field(String),
    Index(usize),
    Key(String),
}

struct Walk {
    unknown: Vec<String>,
    path: Vec<Step>,
    owner: &'static str,
}

impl Walk {
    fn definition(&mut self, definition: &'static Definition, value: &mut Value) -> Result<(), String> {
        match definition.form {
            Form::Object => {
                if !value.is_object() {
                    return Err(self.mismatch(value, &definition.go_name()));
                }
                let owner = std::mem::replace(&mut self.owner, short_name(definition));
                let Some(map) = value.as_object_mut() else { return Ok(()) };
                self.fields(definition, map)?;
                self.owner = owner;
                Ok(())
            }
            Form::Quantity => quantity(value),
            Form::IntOrString => match value {
                Value::Number(number) if number.as_i64().and_then(|n| i32::try_from(n).ok()).is_some() => {
                    Ok(())
                }
                Value::String(_) => Ok(()),
                other => Err(self.mismatch(other, "intstr.IntOrString")),
            },
            Form::Time => self.time(value, false),
            Form::MicroTime => self.time(value, true),
            Form::Raw | Form::Any => Ok(()),
            Form::Open if value.is_object() => Ok(()),
            Form::Open => Err(self.mismatch(value, &definition.go_name())),
        }
    }

    fn fields(
        &mut self,
        definition: &'static Definition,
        map: &mut Map<String, Value>,
    ) -> Result<(), String> {
        map.retain(|_, value| !value.is_null());
        let mut unknown: Vec<String> = Vec::new();
        let mut emptied = false;
        for (name, value) in map.iter_mut() {
            if let Some(property) = definition.property(name) {
                // The path is only needed for messages, but those come from far below.
                self.path.push(Step::Field(name.clone()));
                self.value(property.ty, value)?;
                self.path.pop();
                emptied |= is_left_out_when_empty(property, value);
            } else {
                // Upstream tells of them in the order in which they stand: a field before those of its followers.
                self.path.push(Step::Field(name.clone()));
                let text = format!("unknown field {}", quote(&self.strict_path()));
                self.unknown.push(text);
                self.path.pop();
                unknown.push(name.clone());
            }
        }
        if emptied {
            map.retain(|name, value| {
                definition.property(name).is_none_or(|property| !is_left_out_when_empty(property, value))
            });
        }
        for name in unknown {
            map.remove(&name);
        }
        Ok(())
    }

    fn value(&mut self, ty: Type, value: &mut Value) -> Result<(), String> {
        match (ty, &mut *value) {
            (Type::String, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Double, Value::Number(_))
            | (Type::Object, Value::Object(_))
            | (Type::Any, _) => Ok(()),
            (Type::Bytes, Value::String(text)) => base64(text),
            (Type::Int32, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
                Some(Ok(_)) => Ok(()),
                _ => self.whole(value, "int32"),
            },
            (Type::Int64, Value::Number(number)) if number.as_i64().is_some() => Ok(()),
            (Type::Int64, Value::Number(_)) => self.whole(value, "int64"),
            (Type::List(item), Value::Array(list)) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.path.push(Step::Index(index));
                    self.item(*item, value)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Type::Map(item), Value::Object(map)) => {
                for (key, value) in map.iter_mut() {
                    self.path.push(Step::Key(key.clone()));
                    self.item(*item, value)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Type::Ref(id), _) => self.definition(id.get(), value),
            _ => Err(self.mismatch(value, &go_type(ty))),
        }
    }

    /// A value of a list or map: null stands for the type's empty value there.
    fn item(&mut self, ty: Type, value: &mut Value) -> Result<(), String> {
        if value.is_null() {
            *value = match ty {
                Type::String | Type::Bytes => Value::String(String::new()),
                Type::Int32 | Type::Int64 | Type::Double => 0.into(),
                Type::Bool => Value::Bool(false),
                Type::Ref(id) if id.get().form == Form::Quantity => "0".into(),
                Type::Ref(id) if id.get().form == Form::Object => Value::Object(Map::new()),
                _ => return Ok(()),
            };
        }
        self.value(ty, value)
    }

    /// A number that is no whole one of this size. `1.0` is taken for `1`.
    fn whole(&self, value: &mut Value, go: &str) -> Result<(), String> {
        if let Some(float) = value.as_f64()
            && float.fract() == 0.0
            && float.abs() < if go == "int32" { 2_147_483_648.0 } else { 9.0e15 }
        {
            #[expect(clippy::cast_possible_truncation, reason = "the bounds are checked above")]
            let whole = float as i64;
            *value = whole.into();
            return Ok(());
        }
        Err(self.unmarshal(&format!("number {value}"), go))
    }

    fn time(&self, value: &mut Value, micro: bool) -> Result<(), String> {
        let Value::String(text) = &*value else {
            return Err(self.unmarshal(json_type(value), "string"));
        };
        let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        let Some(time) = time::parse(text) else {
            let text = quote(text);
            return Err(format!("parsing time {text} as \"{layout}\": cannot parse {text} as \"2006\""));
        };
        *value = if micro { time::micros(time) } else { time::seconds(time) }.into();
        Ok(())
    }

    fn mismatch(&self, value: &Value, go: &str) -> String {
        self.unmarshal(json_type(value), go)
    }

    fn unmarshal(&self, found: &str, go: &str) -> String {
        let fields: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        if fields.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {go}");
        }
        let (owner, path) = (self.owner, fields.join("."));
        format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go}")
    }

    fn strict_path(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) | Step::Key(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }
}

/// Upstream's types leave out lists and maps without an item (`omitempty`), so an object that was sent with
/// `taints: []` is read back without `taints`. Not the few that their types write always.
fn is_left_out_when_empty(property: &Property, value: &Value) -> bool {
    let empty = match (property.ty, value) {
        (Type::List(_), Value::Array(list)) => list.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    };
    // `rules` of roles and `ports` of endpoint slices: no `omitempty` in upstream's types.
    empty && !property.required && !matches!(property.name, "rules" | "ports")
}

fn short_name(definition: &'static Definition) -> &'static str {
    definition.name.rsplit('.').next().unwrap_or_default()
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(ty: Type) -> String {
    match ty {
        Type::String => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::Bool => "bool".into(),
        Type::Object | Type::Any => "map[string]interface {}".into(),
        Type::List(item) => format!("[]{}", go_type(*item)),
        Type::Map(item) => format!("map[string]{}", go_type(*item)),
        Type::Ref(id) => match id.get().form {
            Form::Quantity => "resource.Quantity".into(),
            Form::IntOrString => "intstr.IntOrString".into(),
            _ => id.get().go_name(),
        },
    }
}

fn quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return Err(crate::quantity::ParseError::malformed().to_string()),
    };
    let quantity: Quantity = text.parse().map_err(|error: crate::quantity::ParseError| error.to_string())?;
    let canonical = quantity.to_string();
    if value.as_str() != Some(canonical.as_str()) {
        *value = canonical.into();
    }
    Ok(())
}

/// Checks base64 as Go's decoder does, and says at which byte it goes wrong. Line breaks are dropped.
fn base64(text: &mut String) -> Result<(), String> {
    use base64::Engine;
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    match base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len() / 4 * 4)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::builtin;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
    }

    #[test]
    fn fields_that_a_kind_does_not_have_are_found_and_dropped() {
        let kind = builtin().of("v1", "Pod").unwrap();
        let mut object =
            pod(json!({"bar": 1, "containers": [{"name": "a", "imag": "x"}], "foo": 1, "nodeName": null}));
        object["extra"] = json!({});
        let problems = decode(kind, &mut object).unwrap();
        assert_eq!(
            strict_error(kind, &problems).message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"extra\", \
             unknown field \"spec.bar\", unknown field \"spec.containers[0].imag\", unknown field \"spec.foo\""
        );
        assert_eq!(object, pod(json!({"containers": [{"name": "a"}]})));
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_as_upstream_names_it() {
        for (api_version, kind, object, says) in [
            (
                "v1",
                "Pod",
                pod(json!({"containers": [{"ports": "x"}]})),
                "json: cannot unmarshal string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort",
            ),
            (
                "v1",
                "Pod",
                pod(json!({"containers": {}})),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "apps/v1",
                "Deployment",
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps/v1",
                "Deployment",
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "v1",
                "ConfigMap",
                json!({"data": {"a": 1}}),
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
            (
                "v1",
                "Pod",
                json!({"metadata": {"labels": {"a": true}}}),
                "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                "v1",
                "Pod",
                pod(json!({"containers": [{"resources": {"limits": {"cpu": "1x"}}}]})),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            ("v1", "Secret", json!({"data": {"a": "!!"}}), "illegal base64 data at input byte 0"),
            ("v1", "Pod", json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
        ] {
            let descriptor = builtin().of(api_version, kind).unwrap();
            let status = decode(descriptor, &mut object.clone()).unwrap_err();
            let expect = format!("{kind} in version \"v1\" cannot be handled as a {kind}: {says}");
            assert_eq!((status.code, status.message), (400, expect));
        }
    }

    #[test]
    fn lists_and_maps_without_an_item_are_left_out_as_upstreams_types_do() {
        let mut pod = pod(json!({
            "containers": [{"name": "c", "args": [], "resources": {"limits": {}}}],
            "nodeSelector": {},
            "volumes": [{"name": "v", "emptyDir": {}}],
        }));
        pod["metadata"]["labels"] = json!({});
        let kind = builtin().of("v1", "Pod").unwrap();
        assert_eq!(decode(kind, &mut pod).unwrap(), Vec::<String>::new());
        assert_eq!(pod["metadata"], json!({"name": "x"}));
        assert_eq!(
            pod["spec"],
            json!({
                "containers": [{"name": "c", "resources": {}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            })
        );
    }

    #[test]
    fn quantities_and_times_become_canonical() {
        let kind = builtin().of("v1", "Pod").unwrap();
        let mut object =
            pod(json!({"containers": [{"resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}]}));
        object["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00.5+01:00".into();
        decode(kind, &mut object).unwrap();
        assert_eq!(
            object["spec"]["containers"][0]["resources"]["requests"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    }
}
