//! Validation rules of custom kinds (`x-kubernetes-validations`): compiled with the definition, evaluated with
//! each write, never for what a write leaves as it was.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cel::{self, Budget, Known, Program, Type, check_fields, from_json_with_schema, to_json};
use crate::field::{Error, Errors, Kind as ErrorKind, Path};
use crate::value::{list, text};

/// The longest message of a rule, in bytes.
const LONGEST_MESSAGE: usize = 2048;
/// The variables of a rule.
const VARIABLES: [&str; 2] = ["self", "oldSelf"];
/// The reasons that a rule may give.
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// One rule.
#[derive(Debug)]
struct Rule {
    program: Program,
    /// The fixed text; empty when there is none.
    message: String,
    message_program: Option<Program>,
    reason: String,
    /// Where errors belong, below the place of the rule.
    field: Vec<Step>,
    /// Looks at the value before.
    is_transition: bool,
    /// `oldSelf` is optional, so that the rule holds for new values, too.
    optional_old: bool,
}

/// A step of a `fieldPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Key(String),
}

/// The rules of a schema and of what is in it; only for places at or below which there are any.
#[derive(Debug, Default)]
pub(super) struct Node {
    rules: Vec<Rule>,
    schema: Value,
    properties: BTreeMap<String, Self>,
    additional: Option<Box<Self>>,
    items: Option<Box<Self>>,
    /// By which fields items of a list are the same; `None` for lists whose items cannot be told apart.
    keys: Option<Vec<String>>,
}

/// Where a schema stands in its definition, and in which scope its rules may look back.
struct Place<'a> {
    path: Path,
    resource: bool,
    /// The list whose items cannot be told apart, if the schema is within one.
    uncorrelated: Option<&'a Path>,
}

/// Compiles the rules of a schema. What is wrong goes to `errors`, with `path` as the schema's place.
pub(super) fn compile(schema: &Value, path: &Path, errors: &mut Errors) -> Option<Node> {
    let place = Place { path: path.clone(), resource: true, uncorrelated: None };
    node(schema, &place, errors)
}

fn node(schema: &Value, place: &Place<'_>, errors: &mut Errors) -> Option<Node> {
    let mut own = Node::default();
    for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let at = place.path.child("x-kubernetes-validations").index(index);
        own.rules.extend(compile_rule(rule, schema, place, &at, errors));
    }
    let below = |path: Path, uncorrelated| Place { path, resource: false, uncorrelated };
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let child = below(place.path.child("properties").key(name), place.uncorrelated);
        if let Some(found) = node(of, &child, errors) {
            own.properties.insert(name.clone(), found);
        }
    }
    if schema["additionalProperties"].is_object() {
        let child = below(place.path.child("additionalProperties"), place.uncorrelated);
        own.additional = node(&schema["additionalProperties"], &child, errors).map(Box::new);
    }
    if schema["items"].is_object() {
        own.keys = (text(schema, "x-kubernetes-list-type") == "map").then(|| {
            let keys = list(schema, "x-kubernetes-list-map-keys");
            keys.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        });
        let uncorrelated = place.uncorrelated.or(own.keys.is_none().then_some(&place.path));
        let child = below(place.path.child("items"), uncorrelated);
        own.items = node(&schema["items"], &child, errors).map(Box::new);
    }
    let empty =
        own.rules.is_empty() && own.properties.is_empty() && own.additional.is_none() && own.items.is_none();
    (!empty).then(|| Node { schema: schema.clone(), ..own })
}

fn compile_rule(
    rule: &Value,
    schema: &Value,
    place: &Place<'_>,
    at: &Path,
    errors: &mut Errors,
) -> Option<Rule> {
    let found = errors.len();
    let (source, message) = (text(rule, "rule"), text(rule, "message"));
    if source.trim().is_empty() {
        errors.required(&at.child("rule"), "rule is not specified");
        return None;
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&at.child("message"), message, "message must be non-empty if specified");
    } else if message.trim().contains('\n') {
        errors.invalid(&at.child("message"), message, "message must not contain line breaks");
    } else if source.trim().contains('\n') && message.is_empty() {
        errors.required(&at.child("message"), "message must be specified if rule contains line breaks");
    }
    if message.len() > LONGEST_MESSAGE {
        errors.too_long(&at.child("message"), LONGEST_MESSAGE);
    }
    let reason = text(rule, "reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        errors.not_supported(&at.child("reason"), reason, &REASONS);
    }
    let known = if place.resource { Type::Resource(schema) } else { Type::Schema(schema) };
    let optional_old = rule["optionalOldSelf"] == true;
    let old = if optional_old { Type::Dynamic } else { known };
    let types = [("self", known), ("oldSelf", old)];
    let compiled = |source: &str, wanted: &str| {
        let program = Program::compile(source, &VARIABLES)?;
        check_fields(&program, &types, wanted).map(|()| program)
    };
    let program = match compiled(source, "bool") {
        Ok(program) => Some(program),
        Err(why) if why.starts_with("must evaluate") => {
            errors.invalid(&at.child("rule"), shown(rule), "must evaluate to a bool");
            None
        }
        Err(why) => {
            errors.invalid(&at.child("rule"), shown(rule), format!("compilation failed: {why}"));
            None
        }
    };
    let expression = text(rule, "messageExpression");
    let message_program = if expression.is_empty() {
        None
    } else if expression.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.required(&at.child("messageExpression"), why);
        None
    } else {
        compiled(expression, "string")
            .map_err(|why| {
                let why = format!("messageExpression compilation failed: {why}");
                errors.invalid(&at.child("messageExpression"), shown(rule), why);
            })
            .ok()
    };
    let is_transition = program.as_ref().is_some_and(|program| program.uses("oldSelf"));
    if is_transition && let Some(list) = place.uncorrelated {
        let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
        errors.invalid(&at.child("rule"), source, why);
    }
    if optional_old && !is_transition && program.is_some() {
        let why = "may not be set if oldSelf is not used in rule";
        errors.invalid(&at.child("optionalOldSelf"), true, why);
    }
    let field = match text(rule, "fieldPath") {
        "" => Some(Vec::new()),
        path => {
            let steps = field_path(path, schema);
            if steps.is_none() {
                let why = "fieldPath must be a valid path: does not refer to a valid field";
                errors.invalid(&at.child("fieldPath"), path, why);
            }
            steps
        }
    };
    if errors.len() > found {
        return None;
    }
    Some(Rule {
        program: program?,
        message: message.trim().to_owned(),
        message_program,
        reason: reason.to_owned(),
        field: field?,
        is_transition,
        optional_old,
    })
}

/// A rule as upstream prints it in errors.
fn shown(rule: &Value) -> String {
    text(rule, "rule").to_owned()
}

/// Reads a path such as `.a.b['c']` that must exist in the schema.
fn field_path(path: &str, schema: &Value) -> Option<Vec<Step>> {
    let (mut steps, mut rest, mut schema) = (Vec::new(), path.trim(), schema);
    while !rest.is_empty() {
        let (name, quoted) = if let Some(inner) = rest.strip_prefix("['") {
            let (name, after) = inner.split_once("']")?;
            rest = after;
            (name, true)
        } else {
            let inner = rest.strip_prefix('.')?;
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            rest = &inner[end..];
            (&inner[..end], false)
        };
        let known = schema["properties"].get(name);
        schema = match known {
            Some(found) => found,
            None if quoted && schema["additionalProperties"].is_object() => &schema["additionalProperties"],
            None => return None,
        };
        steps.push(if known.is_some() { Step::Field(name.to_owned()) } else { Step::Key(name.to_owned()) });
    }
    (!steps.is_empty()).then_some(steps)
}

/// Checks an object by the rules. `old` is the object before, on an update.
pub(super) fn validate(node: &Node, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let mut run = Run { budget: Budget::default(), errors };
    run.check(node, object, old, None, true);
}

struct Run<'a> {
    budget: Budget,
    errors: &'a mut Errors,
}

impl Run<'_> {
    fn check(
        &mut self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        path: Option<&Path>,
        resource: bool,
    ) {
        if value.is_null() {
            return;
        }
        if !node.rules.is_empty() {
            self.check_here(node, value, old, path, resource);
        }
        let child = |key: &str| path.map_or_else(|| Path::new(key), |path| path.child(key));
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    let (of, at) = match (node.properties.get(key), &node.additional) {
                        (Some(of), _) => (of, child(key)),
                        (None, Some(of)) if node.schema["properties"].get(key).is_none() => {
                            (&**of, path.cloned().unwrap_or_default().key(key))
                        }
                        _ => continue,
                    };
                    let before = old.and_then(|old| old.get(key)).filter(|old| !old.is_null());
                    self.check(of, inner, before, Some(&at), false);
                }
            }
            Value::Array(items) => {
                let Some(of) = &node.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let at = path.cloned().unwrap_or_default().index(index);
                    let before = node.keys.as_ref().and_then(|keys| {
                        let same = |other: &&Value| keys.iter().all(|key| other[key] == item[key]);
                        old?.as_array()?.iter().find(same)
                    });
                    self.check(of, item, before, Some(&at), false);
                }
            }
            _ => {}
        }
    }

    fn check_here(
        &mut self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        path: Option<&Path>,
        resource: bool,
    ) {
        let at = path.cloned().unwrap_or_else(|| Path::new("<nil>"));
        let kind = node.schema["type"].as_str().unwrap_or("object");
        let unchanged = old == Some(value);
        let own = from_json_with_schema(value, &node.schema, resource);
        let before = old.map(|old| from_json_with_schema(old, &node.schema, resource));
        for rule in &node.rules {
            let old_self = match (&before, rule.optional_old) {
                (_, true) => Some(cel::optional(before.clone())),
                (Some(before), false) => Some(before.clone()),
                // There is nothing to look back to.
                (None, false) if rule.is_transition => continue,
                (None, false) => None,
            };
            // What a write does not touch may be worse than the rules allow now.
            if unchanged && !rule.is_transition {
                continue;
            }
            if self.budget.is_spent() {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.invalid(&at, kind, why);
                return;
            }
            let mut variables = vec![("self", own.clone())];
            variables.extend(old_self.map(|old| ("oldSelf", old)));
            let known = Known(variables);
            let text = if rule.message.is_empty() { rule.program.source().trim() } else { &rule.message };
            match rule.program.evaluate(&known, &mut self.budget) {
                Ok(cel::Value::Bool(true)) => {}
                Ok(_) => {
                    let message = self.message(rule, &known);
                    self.errors.push(failure(rule, path, kind, message));
                }
                Err(cel::Error::TooExpensive) => {
                    let why = format!(
                        "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {text}",
                        cel::Error::TooExpensive
                    );
                    self.errors.invalid(&at, kind, why);
                    return;
                }
                Err(error) if error.to_string().starts_with("no such overload") => {
                    let why = format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {text}"
                    );
                    self.errors.invalid(&at, kind, why);
                }
                Err(error) => self.errors.invalid(&at, kind, format!("{error} evaluating rule: {text}")),
            }
        }
    }

    /// Returns the text of a rule that does not hold.
    fn message(&mut self, rule: &Rule, known: &Known) -> String {
        if let Some(program) = &rule.message_program
            && let Ok(value) = program.evaluate(known, &mut self.budget)
            && let Some(Value::String(text)) = to_json(&value)
            && !text.trim().is_empty()
            && !text.trim().contains('\n')
        {
            return text.trim().to_owned();
        }
        if rule.message.is_empty() {
            format!("failed rule: {}", rule.program.source().trim())
        } else {
            rule.message.clone()
        }
    }
}

fn failure(rule: &Rule, path: Option<&Path>, kind: &str, message: String) -> Error {
    let mut at = path.cloned();
    for step in &rule.field {
        at = Some(match (step, at) {
            (Step::Field(name), None) => Path::new(name),
            (Step::Field(name), Some(path)) => path.child(name),
            (Step::Key(key), path) => path.unwrap_or_default().key(key),
        });
    }
    let at = at.unwrap_or_else(|| Path::new("<nil>"));
    let error = |error_kind, value: Value, detail: String| Error {
        kind: error_kind,
        field: at.as_str().to_owned(),
        value,
        detail,
    };
    match rule.reason.as_str() {
        "FieldValueForbidden" => error(ErrorKind::Forbidden, Value::Null, message),
        "FieldValueRequired" => error(ErrorKind::Required, Value::Null, message),
        "FieldValueDuplicate" => error(ErrorKind::Duplicate, kind.into(), String::new()),
        _ => error(ErrorKind::Invalid, kind.into(), message),
    }
}
