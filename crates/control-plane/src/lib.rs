//! The `control-plane` program: wires store, API server, controllers and scheduler. Holds no logic.

mod config;
mod leading;
mod program;
mod shared;

pub use config::{Audit, Config, Etcd, FrontProxy, Pki, StoreConfig};
pub use program::main;
