//! What can be said of an expression before it is evaluated: its depth, the names in it, fields that a schema
//! does not have, types that do not go together. Errors read as those of Go's CEL.

use std::collections::BTreeSet;

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use kube_cel::cel::parser::ParseErrors;
use serde_json::Value;

use super::Program;
use super::functions::GLOBAL;
use super::value::escape;

/// What is wrong, and the text that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    message: String,
    /// What stands at the place; empty for the beginning.
    found: String,
}

impl Problem {
    pub(super) fn plain(message: &str) -> Self {
        Self { message: message.to_owned(), found: String::new() }
    }

    pub(super) fn undeclared(name: &str) -> Self {
        Self {
            message: format!("undeclared reference to '{name}' (in container '')"),
            found: name.to_owned(),
        }
    }

    /// Returns the error with its place in the source.
    pub(super) fn at(&self, source: &str) -> String {
        let offset = find(source, &self.found);
        let before = &source[..offset];
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        shown(source, line + 1, column + 1, &self.message)
    }
}

/// Finds a name as a word of its own, or a text as it is.
fn find(source: &str, wanted: &str) -> usize {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let word = wanted.chars().last().is_some_and(|c| c.is_alphanumeric() || c == '_');
    source
        .match_indices(wanted)
        .find(|(at, _)| {
            let starts = wanted.starts_with('.') || !is_part(source[..*at].chars().next_back());
            !word || (starts && !is_part(source[at + wanted.len()..].chars().next()))
        })
        .map_or(0, |(at, _)| at)
}

fn shown(source: &str, line: usize, column: usize, message: &str) -> String {
    let text = source.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let dots = ".".repeat(column.saturating_sub(1));
    format!("ERROR: <input>:{line}:{column}: {message}\n | {text}\n | {dots}^")
}

/// Returns the errors of the parser.
pub(super) fn syntax(source: &str, errors: &ParseErrors) -> String {
    let all: Vec<String> = errors
        .errors
        .iter()
        .map(|error| {
            let place = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
            shown(source, place(error.pos.0), place(error.pos.1), &error.msg)
        })
        .collect();
    all.join("\n")
}

/// Calls `each` with every expression directly within this one.
pub(super) fn children<'a>(expr: &'a IdedExpr, each: &mut dyn FnMut(&'a IdedExpr)) {
    match &expr.expr {
        Expr::Call(called) => {
            called.target.iter().for_each(|target| each(target));
            called.args.iter().for_each(each);
        }
        Expr::Comprehension(of) => {
            for part in [&of.iter_range, &of.accu_init, &of.loop_cond, &of.loop_step, &of.result] {
                each(part);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(each),
        Expr::Map(map) => {
            for entry in &map.entries {
                entry_parts(&entry.expr, each);
            }
        }
        Expr::Struct(of) => {
            for entry in &of.entries {
                entry_parts(&entry.expr, each);
            }
        }
        Expr::Select(select) => each(&select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn entry_parts<'a>(entry: &'a EntryExpr, each: &mut dyn FnMut(&'a IdedExpr)) {
    match entry {
        EntryExpr::StructField(field) => each(&field.value),
        EntryExpr::MapEntry(entry) => {
            each(&entry.key);
            each(&entry.value);
        }
    }
}

/// As [`children`], to change them.
pub(super) fn children_mut(expr: &mut IdedExpr, each: &mut dyn FnMut(&mut IdedExpr)) {
    let mut entry = |entry: &mut EntryExpr| match entry {
        EntryExpr::StructField(field) => each(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            each(&mut entry.key);
            each(&mut entry.value);
        }
    };
    match &mut expr.expr {
        Expr::Map(map) => map.entries.iter_mut().for_each(|one| entry(&mut one.expr)),
        Expr::Struct(of) => of.entries.iter_mut().for_each(|one| entry(&mut one.expr)),
        Expr::Call(called) => {
            called.target.iter_mut().for_each(|target| each(target));
            called.args.iter_mut().for_each(each);
        }
        Expr::Comprehension(of) => {
            let of = &mut **of;
            for part in
                [&mut of.iter_range, &mut of.accu_init, &mut of.loop_cond, &mut of.loop_step, &mut of.result]
            {
                each(part);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(each),
        Expr::Select(select) => each(&mut select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

/// Returns how deep an expression is nested.
pub(super) fn depth(expr: &IdedExpr) -> usize {
    let mut deepest = 0;
    children(expr, &mut |child| deepest = deepest.max(depth(child)));
    deepest + 1
}

/// Returns the variables that an expression uses; refuses names that stand for nothing.
pub(super) fn names(expr: &IdedExpr, variables: &[String]) -> Result<BTreeSet<String>, Problem> {
    let mut uses = BTreeSet::new();
    walk(expr, variables, &mut Vec::new(), &mut uses)?;
    Ok(uses)
}

fn walk<'a>(
    expr: &'a IdedExpr,
    variables: &[String],
    bound: &mut Vec<&'a str>,
    uses: &mut BTreeSet<String>,
) -> Result<(), Problem> {
    match &expr.expr {
        Expr::Ident(name) if bound.contains(&name.as_str()) => Ok(()),
        Expr::Ident(name) if variables.contains(name) => {
            uses.insert(name.clone());
            Ok(())
        }
        Expr::Ident(name) => Err(Problem::undeclared(name)),
        Expr::Comprehension(of) => {
            walk(&of.iter_range, variables, bound, uses)?;
            walk(&of.accu_init, variables, bound, uses)?;
            bound.extend([of.iter_var.as_str(), of.accu_var.as_str()]);
            for part in [&of.loop_cond, &of.loop_step, &of.result] {
                walk(part, variables, bound, uses)?;
            }
            bound.truncate(bound.len() - 2);
            Ok(())
        }
        Expr::Call(called) => {
            let operator = called.func_name.contains(['_', '@']) || called.func_name == "!_";
            match &called.target {
                None if !operator && !GLOBAL.contains(&called.func_name.as_str()) => {
                    return Err(Problem::undeclared(&called.func_name));
                }
                Some(target) => match &target.expr {
                    // A library, such as `math`: whether it has the function is seen when it is called.
                    Expr::Ident(name) if !variables.contains(name) && !bound.contains(&name.as_str()) => {
                        const LIBRARIES: [&str; 11] = [
                            "math",
                            "sets",
                            "optional",
                            "lists",
                            "base64",
                            "strings",
                            "format",
                            "jsonpatch",
                            "cel",
                            "semver",
                            "ip",
                        ];
                        if !LIBRARIES.contains(&name.as_str()) {
                            return Err(Problem::undeclared(name));
                        }
                    }
                    _ => walk(target, variables, bound, uses)?,
                },
                None => {}
            }
            called.args.iter().try_for_each(|arg| walk(arg, variables, bound, uses))
        }
        _ => {
            let mut inner = Vec::new();
            children(expr, &mut |child| inner.push(child));
            inner.into_iter().try_for_each(|child| walk(child, variables, bound, uses))
        }
    }
}

/// What is known of a value before there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type<'a> {
    /// Nothing.
    Dynamic,
    /// What a schema describes.
    Schema(&'a Value),
    /// The top of a resource that a schema describes, with its name.
    Resource(&'a Value),
    /// A scalar, by the language's name for it.
    Scalar(&'static str),
}

impl<'a> Type<'a> {
    /// Returns the language's name of a scalar or container.
    fn name(self) -> Option<&'static str> {
        match self {
            Type::Dynamic => None,
            Type::Scalar(name) => Some(name),
            Type::Resource(_) => Some("object"),
            Type::Schema(schema) => {
                if schema["x-kubernetes-int-or-string"] == true || schema["nullable"] == true {
                    return None;
                }
                match (schema["type"].as_str()?, schema["format"].as_str()) {
                    ("integer", _) => Some("int"),
                    ("number", _) => Some("double"),
                    ("boolean", _) => Some("bool"),
                    ("string", Some("date-time" | "date")) => Some("timestamp"),
                    ("string", Some("duration")) => Some("duration"),
                    ("string", Some("byte")) => Some("bytes"),
                    ("string", _) => Some("string"),
                    ("array", _) => Some("list"),
                    _ => Some("object"),
                }
            }
        }
    }

    fn field(self, name: &str) -> Result<Self, Problem> {
        let problem = |message: String| Problem { message, found: format!(".{name}") };
        let schema = match self {
            Type::Resource(_) if matches!(name, "apiVersion" | "kind") => return Ok(Type::Scalar("string")),
            Type::Resource(_) if name == "metadata" => return Ok(Type::Dynamic),
            Type::Resource(schema) | Type::Schema(schema) => schema,
            _ => return Ok(Type::Dynamic),
        };
        if schema["x-kubernetes-embedded-resource"] == true {
            return Ok(Type::Dynamic);
        }
        if let Some(properties) = schema["properties"].as_object()
            && let Some((_, found)) = properties.iter().find(|(own, _)| escape(own) == name)
        {
            return Ok(Type::Schema(found));
        }
        let additional = &schema["additionalProperties"];
        if additional.is_object() {
            return Ok(Type::Schema(additional));
        }
        match self.name() {
            Some("object") if *additional == true => Ok(Type::Dynamic),
            Some("object") => Err(problem(format!("undefined field '{name}'"))),
            Some(scalar) => Err(problem(format!("type '{scalar}' does not support field selection"))),
            None => Ok(Type::Dynamic),
        }
    }

    fn item(self) -> Self {
        match self {
            Type::Schema(schema) if schema["items"].is_object() => Type::Schema(&schema["items"]),
            Type::Schema(schema) if schema["additionalProperties"].is_object() => {
                Type::Schema(&schema["additionalProperties"])
            }
            _ => Type::Dynamic,
        }
    }
}

/// Checks an expression against what is known of its variables, and that it can be of the type `wanted`.
///
/// # Errors
/// What is wrong with it and where, as upstream's compiler says it.
pub fn check_fields(program: &Program, known: &[(&str, Type<'_>)], wanted: &str) -> Result<(), String> {
    let mut bound = known.to_vec();
    let found = infer(program.ast(), &mut bound).map_err(|problem| problem.at(program.source()))?;
    match found.name() {
        Some(name) if name != wanted => Err(format!("must evaluate to a {wanted}")),
        _ => Ok(()),
    }
}

fn infer<'a>(expr: &'a IdedExpr, bound: &mut Vec<(&'a str, Type<'a>)>) -> Result<Type<'a>, Problem> {
    Ok(match &expr.expr {
        Expr::Ident(name) => {
            bound.iter().rev().find(|(known, _)| known == name).map_or(Type::Dynamic, |(_, found)| *found)
        }
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(_) => Type::Scalar("bool"),
            LiteralValue::Int(_) => Type::Scalar("int"),
            LiteralValue::UInt(_) => Type::Scalar("uint"),
            LiteralValue::Double(_) => Type::Scalar("double"),
            LiteralValue::String(_) => Type::Scalar("string"),
            LiteralValue::Bytes(_) => Type::Scalar("bytes"),
            LiteralValue::Null => Type::Dynamic,
        },
        Expr::Select(select) => {
            let found = infer(&select.operand, bound)?.field(&select.field)?;
            if select.test { Type::Scalar("bool") } else { found }
        }
        Expr::Comprehension(of) => {
            let over = infer(&of.iter_range, bound)?;
            let start = infer(&of.accu_init, bound)?;
            // A loop over nothing gives its start a name; what others collect is of no use here.
            let is_name = matches!(&of.iter_range.expr, Expr::List(list) if list.elements.is_empty());
            let collected = if is_name || start.name() == Some("bool") { start } else { Type::Dynamic };
            bound.push((of.iter_var.as_str(), over.item()));
            bound.push((of.accu_var.as_str(), collected));
            for part in [&of.loop_cond, &of.loop_step] {
                infer(part, bound)?;
            }
            let result = infer(&of.result, bound)?;
            bound.truncate(bound.len() - 2);
            result
        }
        Expr::Call(called) => {
            if let Some(target) = &called.target {
                infer(target, bound)?;
            }
            let mut args = Vec::with_capacity(called.args.len());
            for arg in &called.args {
                args.push(infer(arg, bound)?);
            }
            of_call(&called.func_name, &args)?
        }
        Expr::List(_) => {
            each(expr, bound)?;
            Type::Scalar("list")
        }
        Expr::Map(_) => {
            each(expr, bound)?;
            Type::Scalar("object")
        }
        Expr::Struct(_) | Expr::Unspecified => Type::Dynamic,
    })
}

fn each<'a>(expr: &'a IdedExpr, bound: &mut Vec<(&'a str, Type<'a>)>) -> Result<(), Problem> {
    let mut inner = Vec::new();
    children(expr, &mut |child| inner.push(child));
    inner.into_iter().try_for_each(|child| infer(child, bound).map(drop))
}

fn of_call<'a>(function: &str, args: &[Type<'a>]) -> Result<Type<'a>, Problem> {
    let differ = || match args {
        [a, b] => a.name().zip(b.name()).filter(|(a, b)| a != b),
        _ => None,
    };
    let problem = |(a, b): (&str, &str)| {
        let operator = function.trim_matches('_');
        Problem {
            message: format!("found no matching overload for '{function}' applied to '({a}, {b})'"),
            found: operator.to_owned(),
        }
    };
    Ok(match function {
        operators::EQUALS | operators::NOT_EQUALS => match differ() {
            Some(found) => return Err(problem(found)),
            None => Type::Scalar("bool"),
        },
        operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
            // Numbers of different types can be compared.
            let numbers = |(a, b): &(&str, &str)| {
                let is = |name: &str| matches!(name, "int" | "uint" | "double");
                is(a) && is(b)
            };
            match differ().filter(|pair| !numbers(pair)) {
                Some(found) => return Err(problem(found)),
                None => Type::Scalar("bool"),
            }
        }
        operators::LOGICAL_AND | operators::LOGICAL_OR => {
            let names: Vec<&str> = args.iter().map(|arg| arg.name().unwrap_or("bool")).collect();
            match names[..] {
                [a, b] if a != "bool" || b != "bool" => return Err(problem((a, b))),
                _ => Type::Scalar("bool"),
            }
        }
        operators::LOGICAL_NOT | operators::IN | operators::NOT_STRICTLY_FALSE => Type::Scalar("bool"),
        operators::ADD
        | operators::SUBSTRACT
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO => {
            let times = |name: &str| matches!(name, "timestamp" | "duration");
            match differ() {
                Some((a, b)) if !times(a) && !times(b) => return Err(problem((a, b))),
                Some(_) => Type::Dynamic,
                None => match args.first().and_then(|first| first.name()) {
                    Some("timestamp") => Type::Dynamic,
                    Some(name) => Type::Scalar(name),
                    None => Type::Dynamic,
                },
            }
        }
        operators::INDEX => args.first().map_or(Type::Dynamic, |of| of.item()),
        "size" | "int" | "indexOf" | "lastIndexOf" => Type::Scalar("int"),
        "startsWith" | "endsWith" | "contains" | "matches" => Type::Scalar("bool"),
        "lowerAscii" | "upperAscii" | "trim" | "join" | "substring" | "replace" => Type::Scalar("string"),
        _ => Type::Dynamic,
    })
}
