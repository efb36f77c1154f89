//! Stateful sets: pods with names that last, made and replaced in order.

mod decide;
mod engine;

pub(crate) use engine::start;
