//! The functions that expressions may call, and the budget that their loops draw on.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use kube_cel::cel::{Context, ExecutionError, ResolveResult, Value};

thread_local! {
    /// What the evaluation that runs on this thread may still cost. An evaluation never waits, so that it
    /// begins and ends on one thread.
    static BUDGET: Cell<u64> = const { Cell::new(0) };
}

/// Replaces the budget of this thread; returns what was left of the one before.
pub(super) fn set_budget(budget: u64) -> u64 {
    BUDGET.replace(budget)
}

/// The function that every step of a loop calls: the step's condition, and what the step costs.
pub(super) const TICK: &str = "@tick";
/// The function that makes pairs of what a loop with two variables goes over.
pub(super) const PAIRS: &str = "@pairs";
/// The function that returns a map with one more entry.
pub(super) const PUT: &str = "@put";
/// The most items that a function may make of nothing.
const LONGEST_RANGE: i64 = 100_000;

/// The functions without a receiver's name before them, for the check of names; receivers are not checked,
/// since what they are called on is only known when they are called.
pub(super) const GLOBAL: [&str; 32] = [
    "size",
    "max",
    "min",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "bytes",
    "double",
    "int",
    "uint",
    "duration",
    "timestamp",
    "dyn",
    "type",
    "bool",
    "cidr",
    "ip",
    "isIP",
    "isCIDR",
    "quantity",
    "isQuantity",
    "semver",
    "isSemver",
    "url",
    "isURL",
    "sets",
    "list",
    "map",
    "has",
    "getHost",
];

/// Returns an optional value, such as `oldSelf` of a rule that asks for one.
#[must_use]
pub fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// Returns a context with all functions.
pub(super) fn context() -> Context<'static> {
    let mut context = Context::default().with_all();
    context.add_function(TICK, tick);
    context.add_function(PAIRS, pairs);
    context.add_function(PUT, put);
    context.add_function("lists.range", range);
    context.add_function("dyn", |value: Value| -> ResolveResult { Ok(value) });
    context.add_function("bool", to_bool);
    super::authorizer::register(&mut context);
    context.add_function("type", |value: Value| -> ResolveResult { Ok(super::text(name_of(&value))) });
    context
}

fn tick(condition: Value, cost: i64) -> ResolveResult {
    let cost = u64::try_from(cost).unwrap_or(1);
    let left = BUDGET.get().saturating_sub(cost);
    BUDGET.set(left);
    if left == 0 {
        return Err(ExecutionError::function_error(TICK, "actual cost limit exceeded"));
    }
    Ok(condition)
}

fn pairs(over: Value) -> ResolveResult {
    let pair = |key: Value, value: &Value| Value::List(Arc::new(vec![key, value.clone()]));
    match over {
        Value::List(items) => {
            let numbered = items.iter().zip(0_i64..).map(|(item, index)| pair(Value::Int(index), item));
            Ok(Value::List(Arc::new(numbered.collect())))
        }
        Value::Map(map) => {
            let mut entries: Vec<(&Key, &Value)> = map.map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            let entries = entries.into_iter().map(|(key, value)| pair(from_key(key), value));
            Ok(Value::List(Arc::new(entries.collect())))
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn from_key(key: &Key) -> Value {
    match key {
        Key::Int(number) => Value::Int(*number),
        Key::Uint(number) => Value::UInt(*number),
        Key::Bool(flag) => Value::Bool(*flag),
        Key::String(text) => Value::String(text.clone()),
    }
}

fn put(map: Value, key: Value, value: Value) -> ResolveResult {
    let Value::Map(map) = map else { return Err(ExecutionError::NoSuchOverload) };
    let mut new: HashMap<Key, Value> = (*map.map).clone();
    let key: Key = key.try_into().map_err(|_| ExecutionError::NoSuchOverload)?;
    if new.insert(key, value).is_some() {
        return Err(ExecutionError::function_error("transformMap", "insert failed: key already exists"));
    }
    Ok(Value::Map(Map { map: Arc::new(new) }))
}

fn range(count: i64) -> ResolveResult {
    if !(0..=LONGEST_RANGE).contains(&count) {
        let why = format!("range argument must be between 0 and {LONGEST_RANGE}");
        return Err(ExecutionError::function_error("lists.range", why));
    }
    let left = BUDGET.get().saturating_sub(count.unsigned_abs());
    BUDGET.set(left);
    Ok(Value::List(Arc::new((0..count).map(Value::Int).collect())))
}

fn to_bool(This(value): This<Value>, Arguments(_): Arguments) -> ResolveResult {
    match value {
        Value::Bool(flag) => Ok(Value::Bool(flag)),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(ExecutionError::function_error("bool", "type conversion error from 'string' to 'bool'")),
        },
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// Returns the name of a value's type; `type(x) == int` compares it with the name that `int` stands for.
pub(super) fn name_of(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Null => "null_type",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        _ => "dyn",
    }
}
