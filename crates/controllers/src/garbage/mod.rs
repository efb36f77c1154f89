//! The garbage collector: what is owned goes when its owners are gone.
//!
//! [`graph`] keeps who owns whom, from metadata watches of every resource; [`engine`] decides about one object
//! after asking the API server for the truth.

mod engine;
mod graph;

pub(crate) use engine::start;
