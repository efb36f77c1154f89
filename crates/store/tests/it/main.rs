//! The suite that every engine passes.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod crash;
mod suite;
