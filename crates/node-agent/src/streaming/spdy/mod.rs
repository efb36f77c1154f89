//! The server's side of SPDY/3.1: what clients of Kubernetes before WebSockets speak. Streams are opened by
//! the client only. Like every implementation that Kubernetes meets, it leaves flow control to TCP.

mod connection;
mod frame;
mod headers;

pub(crate) use connection::{Connection, Stream};
