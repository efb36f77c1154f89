//! Expressions in CEL: compiled once, evaluated within a budget.
//!
//! Parsing, evaluation and Kubernetes' function libraries are the crate `kube-cel`'s. Added here: the macros it
//! lacks and the counting of loop steps ([`rewrite`]), checks before anything is evaluated ([`check`]), and the
//! way from JSON and back ([`value`]). Custom kinds and admission policies are built on this.

mod authorizer;
mod check;
mod functions;
mod rewrite;
mod value;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use kube_cel::cel::common::ast::IdedExpr;
use kube_cel::cel::context::VariableResolver;
use kube_cel::cel::parser::Parser;
use kube_cel::cel::{Context, ExecutionError};

pub use authorizer::{Authorizer, Question, authorizer};
pub use check::{Type, check_fields};
pub use functions::optional;
pub use kube_cel::cel::Value;
pub use kube_cel::cel::objects::Opaque;
pub use value::{from_json, from_json_with_schema, is_duration, to_json};

/// The longest expression that is read, in bytes.
const LONGEST: usize = 16 << 10;
/// The deepest expression that is accepted.
const DEEPEST: usize = 100;
/// The deepest expression that is evaluated on the stack of the caller, of which a level takes some 25 KiB in a
/// debug build. Deeper ones are rare and get a thread of their own.
const SHALLOW: usize = 24;
/// The stack of a thread that compiles: parsing recurses before the depth is known. Enough for `LONGEST`. Pages
/// that are not touched cost nothing.
const COMPILE_STACK: usize = 256 << 20;
/// The stack of a thread that evaluates.
const EVALUATE_STACK: usize = 32 << 20;
/// What the evaluation of one expression may cost, in visited nodes; upstream's limit for one call is this, too.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What all expressions for one request may cost together; upstream's limit.
pub const REQUEST_LIMIT: u64 = 10_000_000;

/// An expression that has been read and checked.
#[derive(Debug)]
pub struct Program {
    source: String,
    ast: IdedExpr,
    /// The variables of the surroundings that it uses.
    uses: BTreeSet<String>,
    nodes: u64,
    depth: usize,
}

/// Why an evaluation came to no result, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The expression does not fit the data.
    #[error("{0}")]
    Failed(String),
    /// It would take too long.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooExpensive,
}

/// What the expressions of one request may still cost.
#[derive(Debug)]
pub struct Budget(u64);

impl Default for Budget {
    fn default() -> Self {
        Self(REQUEST_LIMIT)
    }
}

impl Budget {
    /// Says whether nothing is left.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// Finds the variables that an expression uses; the values of others are never made.
pub trait Variables: Send + Sync {
    /// Returns a variable; `None` when there is none of this name.
    ///
    /// # Errors
    /// When it has no value.
    fn get(&self, name: &str) -> Option<Result<Value, Error>>;
}

impl Program {
    /// Reads an expression that may use the `variables`. A name such as `variables.a` stands for a field of
    /// a variable that is looked up by itself.
    ///
    /// # Errors
    /// What is wrong with it and where, as upstream's compiler says it.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!(
                "expression is too long: it has {} bytes, at most {LONGEST} are read",
                source.len()
            ));
        }
        let names: Vec<String> = variables.iter().map(|&name| name.to_owned()).collect();
        let text = source.to_owned();
        let compile = move || {
            let parser = Parser::new().enable_optional_syntax(true);
            let mut ast = parser.parse(&text).map_err(|errors| check::syntax(&text, &errors))?;
            if check::depth(&ast) > DEEPEST {
                return Err(format!("expression recursion limit exceeded: {DEEPEST}"));
            }
            rewrite::rewrite(&mut ast, &names).map_err(|problem| problem.at(&text))?;
            let uses = check::names(&ast, &names).map_err(|problem| problem.at(&text))?;
            let nodes = rewrite::count(&ast);
            let depth = check::depth(&ast);
            if depth > DEEPEST * 2 {
                return Err(format!("expression recursion limit exceeded: {DEEPEST}"));
            }
            Ok(Self { source: text, ast, uses, nodes, depth })
        };
        // A thread of its own: its stack is deep enough, and what goes wrong in the parser stays there.
        let thread = std::thread::Builder::new().name("cel".into()).stack_size(COMPILE_STACK).spawn(compile);
        match thread.map(std::thread::JoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the expression cannot be read".to_owned()),
            Err(error) => Err(format!("compiling the expression: {error}")),
        }
    }

    /// Returns the text of the expression.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Says whether the expression uses a variable.
    #[must_use]
    pub fn uses(&self, variable: &str) -> bool {
        self.uses.contains(variable)
    }

    /// Returns the expression as it is evaluated, for [`check_fields`].
    pub(crate) fn ast(&self) -> &IdedExpr {
        &self.ast
    }

    /// Evaluates the expression and takes its cost from the budget.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn evaluate(&self, variables: &dyn Variables, budget: &mut Budget) -> Result<Value, Error> {
        let before = budget.0.min(CALL_LIMIT);
        let Some(left) = before.checked_sub(self.nodes) else {
            budget.0 = budget.0.saturating_sub(before);
            return Err(Error::TooExpensive);
        };
        let mut context = BASE.new_inner_scope();
        let mut failures = Vec::new();
        for name in &self.uses {
            match variables.get(name) {
                Some(Ok(value)) => context.add_variable_from_value(name, value),
                Some(Err(error)) => failures.push((name.as_str(), error)),
                None => {}
            }
        }
        let resolver = Resolver { failures, asked: AtomicUsize::new(usize::MAX) };
        context.set_variable_resolver(&resolver);
        let run = || {
            let outer = functions::set_budget(left);
            let result = context.resolve(&self.ast);
            (result, functions::set_budget(outer))
        };
        let (result, left) = if self.depth <= SHALLOW {
            run()
        } else {
            let on_its_own = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().stack_size(EVALUATE_STACK);
                let thread = thread.spawn_scoped(scope, run).map_err(|error| error.to_string())?;
                thread.join().map_err(|_| "the evaluation failed".to_owned())
            });
            on_its_own.map_err(Error::Failed)?
        };
        budget.0 = budget.0.saturating_sub(before - left);
        if left == 0 {
            return Err(Error::TooExpensive);
        }
        result.map_err(|error| match resolver.failures.get(resolver.asked.load(Ordering::Relaxed)) {
            Some((_, failure)) => failure.clone(),
            None => Error::Failed(words(&error)),
        })
    }
}

/// Is asked for the variables that have no value. One that is never looked at does no harm.
struct Resolver<'a> {
    failures: Vec<(&'a str, Error)>,
    /// Which of them was looked at last.
    asked: AtomicUsize,
}

impl VariableResolver for Resolver<'_> {
    fn resolve(&self, name: &str) -> Option<Value> {
        if let Some(index) = self.failures.iter().position(|(failed, _)| *failed == name) {
            self.asked.store(index, Ordering::Relaxed);
        }
        None
    }
}

/// All functions; evaluations add their variables on top.
static BASE: LazyLock<Context<'static>> = LazyLock::new(functions::context);

/// Says what went wrong as Go's CEL says it.
fn words(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::NotSupportedAsMethod { .. }
        | ExecutionError::ValuesNotComparable(..)
        | ExecutionError::UnsupportedUnaryOperator(..)
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnsupportedMapIndex(..)
        | ExecutionError::UnsupportedListIndex(..)
        | ExecutionError::UnsupportedIndex(..) => "no such overload".to_owned(),
        ExecutionError::UndeclaredReference(name) => format!("no such attribute(s): {name}"),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(index) => {
            format!("index out of bounds: {}", to_json(index).unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// Variables that are all known.
#[derive(Debug, Default)]
pub struct Known(pub Vec<(&'static str, Value)>);

impl Variables for Known {
    fn get(&self, name: &str) -> Option<Result<Value, Error>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// Returns a text as an expression sees it.
#[must_use]
pub fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

#[cfg(test)]
mod tests;
