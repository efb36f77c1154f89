//! Replication controllers and replica sets: one engine keeps the number of pods.

mod decide;
mod engine;
mod kinds;

pub(crate) use engine::start;
