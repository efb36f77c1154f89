//! nftables without the `nft` program: a plain model of one table, the difference between two of them, and
//! an encoder that commits it to the kernel in one transaction.
//!
//! Everything above renders a whole [`Table`] from its own model, and [`Committer`] brings the kernel there.
//! To add an expression: a variant in `model.rs` with its text, and its attributes in `encode.rs`.

mod commit;
mod diff;
mod encode;
mod model;

pub(crate) use commit::Committer;
pub(crate) use model::{
    Data, DataType, Field, Hook, Reject, Rule, Set, Statement, Table, Type, Value, Verdict,
};
