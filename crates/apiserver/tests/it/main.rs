//! The API server as its clients see it: `kube` over the in-process transport, and bare HTTP where the
//! exact answer matters.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod applying;
mod bad_requests;
mod basics;
mod custom;
mod extending;
mod hooks;
mod kit;
mod malformed;
mod negotiating;
mod options;
mod policies;
mod proxying;
mod watching;
mod webhooks;
mod writing;
