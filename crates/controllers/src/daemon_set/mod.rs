//! Daemon sets: a pod on every node that fits.

mod decide;
mod engine;

pub(crate) use engine::start;
