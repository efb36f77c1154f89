//! The `node-agent` program: pods, volumes, probes, the kubelet API, the service proxy and cluster DNS.

mod config;

pub use config::{Config, Pki, RuntimeChoice};
