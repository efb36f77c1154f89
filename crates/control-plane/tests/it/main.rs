//! The program as a whole: several masters over a real etcd.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

#[path = "../../../store/tests/it/etcd.rs"]
mod etcd;
mod master;
mod masters;
