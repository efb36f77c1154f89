//! Streams over one HTTP connection, as kubectl opens them for exec, attach and port-forward: SPDY/3.1 and
//! WebSocket. Everything above this module sees plain readers and writers.

pub(crate) mod upgrade;
pub(crate) mod websocket;
