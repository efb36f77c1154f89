//! The real QEMU with the smallest Linux in it, under software emulation.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod failures;
mod guest;
mod image;
mod kit;
mod life;
mod network;
mod overlay;
mod probe;
mod web;
