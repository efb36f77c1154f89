//! The `control-plane` program: wires store, API server, controllers and scheduler. Holds no logic.

mod config;
mod leading;
mod program;

pub use config::{Config, Etcd, Pki, StoreConfig};
pub use program::main;
