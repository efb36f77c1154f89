//! The `control-plane` program: wires store, API server, controllers and scheduler. Holds no logic.

mod config;
mod program;

pub use config::{Config, Pki};
pub use program::main;
