//! The pods of this node. `manager` knows which there are, `worker` is the task of one; `plan` and `status`
//! decide, `start` acts; the other modules each make one part of a container from the API's description.

mod container;
mod env;
mod expand;
mod hooks;
mod images;
mod labels;
mod last_words;
#[cfg(test)]
mod lifecycle;
mod manager;
mod model;
mod plan;
mod probes;
mod resources;
mod sandbox;
mod security;
mod start;
mod status;
#[cfg(test)]
mod testing;
mod worker;

pub(crate) use env::{field_value, references as environment_references, resource_value};
pub(crate) use images::Images;
pub(crate) use manager::{Pods, Snapshot, informer, run};
pub(crate) use model::find_container;
pub(crate) use sandbox::HOST_PORTS;
