//! The suite that every engine passes.

mod crash;
mod suite;
