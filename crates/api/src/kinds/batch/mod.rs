//! Work that ends: jobs and cron jobs.

pub(super) mod cronjob;
pub(super) mod job;
mod schedule;
