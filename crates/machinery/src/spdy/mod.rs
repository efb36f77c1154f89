//! SPDY/3.1, both sides: what Kubernetes' streams were before WebSockets, and what containerd still speaks. Only the
//! client opens streams. Like every implementation that Kubernetes meets, it leaves flow control to TCP.

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, Stream};
