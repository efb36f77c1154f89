//! End to end: real clusters on this machine, stock clients. Needs root, and what `tests/run` prepares.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod artifacts;
mod clients;
mod images;
mod lab;
mod life;
mod machine;
mod masters;
mod node;
mod nodes;
mod registry;
mod transcript;
mod tutorial;
mod vm;
