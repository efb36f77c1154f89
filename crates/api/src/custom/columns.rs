//! The columns of custom kinds: `additionalPrinterColumns` and the JSON paths in them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::registry::{Cells, Column};
use crate::value::{list, text};
use crate::{meta, time};

/// A column and where its cells come from.
#[derive(Debug, Clone)]
pub(super) struct PrinterColumn {
    pub(super) column: Column,
    path: Vec<Step>,
}

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// Items whose field has this value.
    Where(String, String),
}

/// Returns the columns of a version: the name, then those of the definition, or the age.
pub(super) fn columns(version: &Value) -> Vec<PrinterColumn> {
    let name = PrinterColumn { column: crate::registry::NAME, path: vec![] };
    let mut columns = vec![name];
    for column in list(version, "additionalPrinterColumns") {
        let own = |key: &str| text(column, key).to_owned().into();
        columns.push(PrinterColumn {
            column: Column {
                name: own("name"),
                ty: own("type"),
                format: own("format"),
                description: own("description"),
                priority: column["priority"]
                    .as_i64()
                    .and_then(|value| i32::try_from(value).ok())
                    .unwrap_or(0),
            },
            path: parse(text(column, "jsonPath")),
        });
    }
    if columns.len() == 1 {
        columns.push(PrinterColumn {
            column: Column { ty: "date".into(), ..crate::registry::AGE },
            path: parse(".metadata.creationTimestamp"),
        });
    }
    columns
}

/// Returns how the cells of these columns are made.
pub(super) fn cells(columns: Vec<PrinterColumn>) -> Cells {
    Cells::Closure(Arc::new(move |object: &Value, now: Timestamp| {
        columns
            .iter()
            .map(|column| {
                if column.path.is_empty() {
                    return meta::name(object).into();
                }
                let mut found = vec![object];
                for step in &column.path {
                    found = found.into_iter().flat_map(|value| follow(value, step)).collect();
                }
                cell(&column.column.ty, &found, now)
            })
            .collect()
    }))
}

fn cell(ty: &str, found: &[&Value], now: Timestamp) -> Value {
    let Some(first) = found.first().filter(|first| !first.is_null()) else { return Value::Null };
    match ty {
        "date" => time::age(first.as_str().unwrap_or_default(), now).into(),
        "string" if found.len() > 1 => {
            found.iter().map(|value| plain(value)).collect::<Vec<_>>().join(",").into()
        }
        "string" => plain(first).into(),
        _ => (*first).clone(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => value.get(index).into_iter().collect(),
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(field, wanted) => value
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| item.get(field).is_some_and(|found| plain(found) == *wanted))
            .collect(),
    }
}

/// Reads the part of JSON path that printer columns use: `.a.b[0].c[*]['d'][?(@.type=="Ready")].status`.
fn parse(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            // A filter may hold brackets in its text only, which no known definition does.
            let Some((inside, after)) = inner.split_once(']') else { return steps };
            rest = after;
            let unquoted = inside.trim_matches(['\'', '"']);
            if let Some(filter) = inside.strip_prefix("?(@.").and_then(|filter| filter.strip_suffix(')')) {
                if let Some((field, wanted)) = filter.split_once("==") {
                    let wanted = wanted.trim().trim_matches(['\'', '"']);
                    steps.push(Step::Where(field.trim().to_owned(), wanted.to_owned()));
                }
            } else if inside == "*" {
                steps.push(Step::All);
            } else if let Ok(index) = inside.parse() {
                steps.push(Step::Index(index));
            } else {
                steps.push(Step::Field(unquoted.to_owned()));
            }
        } else {
            rest = rest.trim_start_matches('.');
            let mut name = String::new();
            let mut letters = rest.char_indices();
            let mut end = rest.len();
            while let Some((index, letter)) = letters.next() {
                match letter {
                    '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
                    '.' | '[' => {
                        end = index;
                        break;
                    }
                    letter => name.push(letter),
                }
            }
            rest = &rest[end..];
            match name.as_str() {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_paths_of_columns_are_read() {
        let field = |name: &str| Step::Field(name.into());
        for (path, steps) in [
            (".spec.replicas", vec![field("spec"), field("replicas")]),
            (
                r".metadata.labels.example\.com/x",
                vec![field("metadata"), field("labels"), field("example.com/x")],
            ),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                vec![
                    field("status"),
                    field("conditions"),
                    Step::Where("type".into(), "Ready".into()),
                    field("status"),
                ],
            ),
            (".a[0]['b'][*]", vec![field("a"), Step::Index(0), field("b"), Step::All]),
            ("[", vec![]),
        ] {
            assert_eq!(parse(path), steps, "{path}");
        }
    }
}
