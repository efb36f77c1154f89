//! The messages that cross the socket, declared by hand: only those calls and fields that are used.
//!
//! Numbers and types are those of the published interfaces; fields left out are skipped when they arrive.
//! To use a further field, add it here with its number from the interface's `.proto` file.

pub(super) mod containerd;
pub(super) mod cri;
