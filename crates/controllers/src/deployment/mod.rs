//! Deployments: a replica set for each version of the template, and the way from one to the next.

mod engine;
mod revision;
mod rolling;
mod status;

pub(crate) use engine::start;
pub(crate) use rolling::resolve;
