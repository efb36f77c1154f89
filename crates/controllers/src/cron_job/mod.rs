//! Cron jobs: a job each time that a schedule names.

mod engine;
mod schedule;

pub(crate) use engine::start;
