//! The controllers and the scheduler against the real API server in the same process, with a simulated kubelet.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod garbage;
mod kit;
mod runs;
mod services;
mod workloads;
