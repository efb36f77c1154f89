//! How the units of a machine are, whoever runs them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the units are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Each unit by its name.
    pub(crate) units: BTreeMap<String, UnitStatus>,
}

/// How one unit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnitStatus {
    /// Where it is in its life.
    pub(crate) state: UnitState,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// What it said of itself last, or how it ended.
    pub(crate) text: String,
    /// Its process while it runs, as the node counts.
    pub(crate) pid: Option<i32>,
}

/// Where a unit is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UnitState {
    /// A unit that it comes after is not ready.
    Waiting,
    /// It runs and has not said yet that it is ready.
    Starting,
    /// It said that it is ready.
    Ready,
    /// It ended, and is started again soon.
    Failed,
}
