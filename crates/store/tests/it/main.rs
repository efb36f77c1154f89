//! The suite that every engine passes.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod contract;
mod crash;
mod disk;
mod embedded_faults;
mod engines;
mod etcd;
mod etcd_faults;
mod history;
mod kit;
mod moving;
mod power;
mod storms;
mod suite;
mod tidying;
