//! Containers on one node: a trait shaped like the CRI, and two engines behind it.
//!
//! The node agent speaks only to [`Runtime`]. This crate never talks to the API server and knows pods only
//! as sandboxes with labels. [`builtin::Engine`] runs containers by itself, [`cri::Engine`] has the node's containerd
//! run them; [`images`] keeps and reads image
//! files and works without an engine, too. A program that opens an engine must call [`helper_main`] before
//! anything else in its `main`: the engine runs that same executable again as shim of each container.

pub mod builtin;
mod cgroup;
pub mod cri;
mod helper;
pub mod images;
mod interface;
mod loopback;
mod sysctl;
mod types;

pub use helper::helper_main;
pub use interface::{Runtime, SandboxNetwork};
pub use types::*;
