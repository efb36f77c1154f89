//! Makes of a parsed expression the one that is evaluated: macros that the parser does not know are expanded,
//! objects become maps, and every step of a loop counts what it costs.

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue,
    MapEntryExpr, MapExpr, SelectExpr, operators,
};

use super::check::Problem;
use super::functions::{PAIRS, PUT, TICK};

/// The names that stand for types, and the texts that [`super::functions::name_of`] has for them.
const TYPES: [&str; 9] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type"];
/// What a loop with two variables collects in.
const RESULT: &str = "@result";

type Outcome<T = ()> = Result<T, Problem>;

fn made(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

fn ident(name: &str) -> IdedExpr {
    made(Expr::Ident(name.to_owned()))
}

fn call(function: &str, args: Vec<IdedExpr>) -> IdedExpr {
    made(Expr::Call(CallExpr { func_name: function.to_owned(), target: None, args }))
}

fn method(target: IdedExpr, function: &str, args: Vec<IdedExpr>) -> IdedExpr {
    made(Expr::Call(CallExpr { func_name: function.to_owned(), target: Some(Box::new(target)), args }))
}

fn flag(value: bool) -> IdedExpr {
    made(Expr::Literal(LiteralValue::Boolean(value.into())))
}

fn number(value: i64) -> IdedExpr {
    made(Expr::Literal(LiteralValue::Int(value.into())))
}

fn take(expr: &mut IdedExpr) -> IdedExpr {
    std::mem::take(expr)
}

/// Counts the nodes of an expression, which is what evaluating it once costs, loops aside.
pub(super) fn count(expr: &IdedExpr) -> u64 {
    let mut sum = 1;
    super::check::children(expr, &mut |child| sum += count(child));
    sum
}

/// Rewrites an expression in place. `variables` are the names that have values of their own.
pub(super) fn rewrite(expr: &mut IdedExpr, variables: &[String]) -> Outcome {
    // What is known as `variables.a` or `authorizer.requestResource` is one variable.
    if let Expr::Select(SelectExpr { operand, field, .. }) = &expr.expr
        && let Expr::Ident(name) = &operand.expr
    {
        let dotted = format!("{name}.{field}");
        if variables.contains(&dotted) {
            expr.expr = Expr::Ident(dotted);
            return Ok(());
        }
    }
    if let Expr::Call(called) = &mut expr.expr
        && let Some(expanded) = expand(called)?
    {
        *expr = expanded;
    }
    match &mut expr.expr {
        Expr::Ident(name) if TYPES.contains(&name.as_str()) && !variables.contains(name) => {
            expr.expr = Expr::Literal(LiteralValue::String(name.as_str().into()));
        }
        Expr::Struct(of) => {
            if of.type_name != "JSONPatch" && of.type_name.split('.').next() != Some("Object") {
                return Err(Problem::undeclared(&of.type_name));
            }
            let entries = std::mem::take(&mut of.entries).into_iter().map(entry).collect();
            expr.expr = Expr::Map(MapExpr { entries });
            return rewrite(expr, variables);
        }
        Expr::Call(called) => {
            if let Some(target) = &mut called.target {
                // The receiver of `math.greatest(…)` is a name, not a value.
                if !matches!(target.expr, Expr::Ident(_)) {
                    rewrite(target, variables)?;
                }
            }
            for arg in &mut called.args {
                rewrite(arg, variables)?;
            }
            if called.func_name == operators::OPT_SELECT {
                // The interpreter fails on a field that is not there; its index does not.
                called.func_name = operators::OPT_INDEX.to_owned();
            }
        }
        Expr::Select(select) => {
            rewrite(&mut select.operand, variables)?;
            let optional = matches!(&select.operand.expr,
                Expr::Call(called) if called.func_name == operators::OPT_INDEX);
            if optional {
                let field = made(Expr::Literal(LiteralValue::String(select.field.as_str().into())));
                let found = call(operators::OPT_INDEX, vec![take(&mut select.operand), field]);
                *expr = if select.test { method(found, "hasValue", vec![]) } else { found };
            }
        }
        Expr::List(list) => list.elements.iter_mut().try_for_each(|one| rewrite(one, variables))?,
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    rewrite(&mut entry.key, variables)?;
                    rewrite(&mut entry.value, variables)?;
                }
            }
        }
        Expr::Comprehension(of) => {
            // A variable of the loop hides one of the surroundings.
            let inner: Vec<String> = variables
                .iter()
                .filter(|name| **name != of.iter_var && **name != of.accu_var)
                .cloned()
                .collect();
            rewrite(&mut of.iter_range, variables)?;
            rewrite(&mut of.accu_init, variables)?;
            for part in [&mut of.loop_cond, &mut of.loop_step, &mut of.result] {
                rewrite(part, &inner)?;
            }
            let cost = i64::try_from(count(&of.loop_step) + 1).unwrap_or(i64::MAX);
            of.loop_cond = call(TICK, vec![take(&mut of.loop_cond), number(cost)]);
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
    Ok(())
}

/// Makes of a field of an object an entry of a map.
fn entry(field: IdedEntryExpr) -> IdedEntryExpr {
    let IdedEntryExpr { id, expr } = field;
    let expr = match expr {
        EntryExpr::StructField(field) => EntryExpr::MapEntry(MapEntryExpr {
            key: made(Expr::Literal(LiteralValue::String(unescape(&field.field).as_str().into()))),
            value: field.value,
            optional: field.optional,
        }),
        other => other,
    };
    IdedEntryExpr { id, expr }
}

fn unescape(name: &str) -> String {
    let plain = name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/");
    let plain = plain.replace("__underscores__", "__");
    match plain.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")) {
        Some(word) => word.to_owned(),
        None => plain,
    }
}

/// Expands a macro; `None` for what is none.
fn expand(called: &mut CallExpr) -> Outcome<Option<IdedExpr>> {
    let Some(target) = called.target.as_deref_mut() else { return Ok(None) };
    let name = called.func_name.clone();
    let is_cel = matches!(&target.expr, Expr::Ident(name) if name == "cel");
    let args = &mut called.args;
    Ok(Some(match (name.as_str(), args.len()) {
        ("bind", 3) if is_cel => {
            let variable = variable(&args[0])?;
            bind(&variable, take(&mut args[1]), take(&mut args[2]))
        }
        ("optMap" | "optFlatMap", 2) => {
            let variable = variable(&args[0])?;
            let target = take(target);
            let body = bind(&variable, method(target.clone(), "value", vec![]), take(&mut args[1]));
            let body = if name == "optMap" { method(ident("optional"), "of", vec![body]) } else { body };
            let none = method(ident("optional"), "none", vec![]);
            call(operators::CONDITIONAL, vec![method(target, "hasValue", vec![]), body, none])
        }
        ("all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap", 3)
        | ("transformList" | "transformMap", 4) => {
            let (first, second) = (variable(&args[0])?, variable(&args[1])?);
            let pair = format!("@pair of {first} and {second}");
            let last = args.len() - 1;
            let mut body = take(&mut args[last]);
            let mut filter = (last == 3).then(|| take(&mut args[2]));
            for (index, name) in [(0, &first), (1, &second)] {
                let place = call(operators::INDEX, vec![ident(&pair), number(index)]);
                substitute(&mut body, name, &place);
                if let Some(filter) = &mut filter {
                    substitute(filter, name, &place);
                }
            }
            let over = call(PAIRS, vec![take(target)]);
            two_variables(&name, over, &pair, filter, body)
        }
        _ => return Ok(None),
    }))
}

fn variable(expr: &IdedExpr) -> Outcome<String> {
    match &expr.expr {
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err(Problem::plain("argument must be a simple name")),
    }
}

/// Gives a value a name within an expression: a loop over nothing, whose result sees its start.
fn bind(variable: &str, value: IdedExpr, body: IdedExpr) -> IdedExpr {
    made(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: made(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: variable.to_owned(),
        accu_init: value,
        loop_cond: flag(false),
        loop_step: ident(variable),
        result: body,
    })))
}

fn two_variables(
    name: &str,
    over: IdedExpr,
    pair: &str,
    filter: Option<IdedExpr>,
    body: IdedExpr,
) -> IdedExpr {
    let result = || ident(RESULT);
    let not_false = |expr| call(operators::NOT_STRICTLY_FALSE, vec![expr]);
    let one = || number(1);
    let when = |filter: Option<IdedExpr>, step: IdedExpr| match filter {
        Some(filter) => call(operators::CONDITIONAL, vec![filter, step, result()]),
        None => step,
    };
    let (init, condition, step, end) = match name {
        "all" => {
            (flag(true), not_false(result()), call(operators::LOGICAL_AND, vec![result(), body]), result())
        }
        "exists" => {
            let going_on = not_false(call(operators::LOGICAL_NOT, vec![result()]));
            (flag(false), going_on, call(operators::LOGICAL_OR, vec![result(), body]), result())
        }
        "existsOne" | "exists_one" => {
            let more = call(operators::ADD, vec![result(), one()]);
            let step = call(operators::CONDITIONAL, vec![body, more, result()]);
            (number(0), flag(true), step, call(operators::EQUALS, vec![result(), one()]))
        }
        "transformList" => {
            let one = made(Expr::List(ListExpr::new(vec![body])));
            let step = when(filter, call(operators::ADD, vec![result(), one]));
            (made(Expr::List(ListExpr::new(Vec::new()))), flag(true), step, result())
        }
        _ => {
            let key = call(operators::INDEX, vec![ident(pair), number(0)]);
            let step = when(filter, call(PUT, vec![result(), key, body]));
            (made(Expr::Map(MapExpr::default())), flag(true), step, result())
        }
    };
    made(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: over,
        iter_var: pair.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: init,
        loop_cond: condition,
        loop_step: step,
        result: end,
    })))
}

/// Puts `place` where `name` stands, but not within a loop whose own variable has that name.
fn substitute(expr: &mut IdedExpr, name: &str, place: &IdedExpr) {
    if matches!(&expr.expr, Expr::Ident(found) if found == name) {
        *expr = place.clone();
        return;
    }
    if let Expr::Comprehension(of) = &mut expr.expr
        && (of.iter_var == name || of.accu_var == name)
    {
        substitute(&mut of.iter_range, name, place);
        return substitute(&mut of.accu_init, name, place);
    }
    super::check::children_mut(expr, &mut |child| substitute(child, name, place));
}
