//! The `control-plane` program: wires store, API server, controllers and scheduler. Holds no logic.

mod config;

pub use config::{Config, Pki};
