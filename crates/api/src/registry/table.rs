//! Tables: what `kubectl get` prints.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: Cow<'static, str>,
    /// `name` for the primary name, else mostly empty.
    pub format: Cow<'static, str>,
    /// What the column shows.
    pub description: Cow<'static, str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// Returns a column of texts.
    #[must_use]
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self::of(name, "string", "", description, 0)
    }

    /// Returns a column of numbers.
    #[must_use]
    pub const fn number(name: &'static str, description: &'static str) -> Self {
        Self::of(name, "integer", "", description, 0)
    }

    /// Returns the same column for `-o wide` only.
    #[must_use]
    pub const fn wide(name: &'static str, description: &'static str) -> Self {
        Self::of(name, "string", "", description, 1)
    }

    /// Returns a column.
    #[must_use]
    pub const fn of(
        name: &'static str,
        ty: &'static str,
        format: &'static str,
        description: &'static str,
        priority: i32,
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            ty: Cow::Borrowed(ty),
            format: Cow::Borrowed(format),
            description: Cow::Borrowed(description),
            priority,
        }
    }

    /// Returns the column as a `TableColumnDefinition`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.ty,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// The first column of every table.
pub(crate) const NAME: Column =
    Column::of("Name", "string", "name", "The object's name, unique in its namespace.", 0);
/// The last column of most tables.
pub(crate) const AGE: Column = Column::text("Age", "How long ago the object was created.");

/// A function that makes the cells of a row.
pub type CellsFn = dyn Fn(&Value, Timestamp) -> Vec<Value> + Send + Sync;

/// How the cells of a row are made: from the object and the present time.
#[derive(Clone)]
pub enum Cells {
    /// By a function.
    Function(fn(&Value, Timestamp) -> Vec<Value>),
    /// By a closure: the columns of a custom kind.
    Closure(Arc<CellsFn>),
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cells")
    }
}

/// The columns of a kind and how rows are made.
#[derive(Debug, Clone)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// Makes a row's cells, one for each column.
    pub cells: Cells,
}

impl Table {
    /// Returns a table whose rows a function makes.
    #[must_use]
    pub fn new(columns: Vec<Column>, cells: fn(&Value, Timestamp) -> Vec<Value>) -> Self {
        Self { columns, cells: Cells::Function(cells) }
    }

    /// Returns the table of kinds that have none of their own: name and creation time.
    #[must_use]
    pub fn generic() -> Self {
        let columns = vec![NAME, Column::of("Created At", "date", "", "When the object was created.", 0)];
        Self::new(columns, |object, _| {
            let meta = &object["metadata"];
            vec![meta["name"].clone(), meta["creationTimestamp"].clone()]
        })
    }

    /// Returns the cells of an object's row.
    #[must_use]
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.cells {
            Cells::Function(cells) => cells(object, now),
            Cells::Closure(cells) => cells(object, now),
        }
    }
}
