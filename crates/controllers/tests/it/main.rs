//! The controllers and the scheduler against the real API server in the same process, with a simulated kubelet.

mod garbage;
mod kit;
mod runs;
mod services;
mod workloads;
