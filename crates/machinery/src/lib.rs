//! What every room of the house stands on: time, randomness, retry, tasks, files, TLS and the accept loop.
//!
//! These are the seams through which a process meets the outside. Code above this crate never reads the
//! wall clock, the global random source or a raw socket by itself, so that a test can hold them.
//! This crate knows nothing of Kubernetes.

pub mod clock;
pub mod files;
pub mod log;
pub mod names;
pub mod retry;
pub mod serve;
#[cfg(target_os = "linux")]
pub mod service;
pub mod spdy;
pub mod tasks;
pub mod tls;
