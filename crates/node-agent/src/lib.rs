//! The `node-agent` program: pods, volumes, probes, the kubelet API, the service proxy and cluster DNS.
//!
//! It speaks to containers only through `runtime::Runtime` and to the kernel's network only through the
//! `network` crate. [`run`] wires the parts; each pod is one task.

#[cfg(target_os = "linux")]
mod agent;
#[cfg(target_os = "linux")]
mod collect;
mod config;
#[cfg(target_os = "linux")]
mod end;
#[cfg(target_os = "linux")]
mod http;
#[cfg(target_os = "linux")]
mod kubelet;
#[cfg(target_os = "linux")]
mod node;
#[cfg(target_os = "linux")]
mod objects;
#[cfg(target_os = "linux")]
mod pods;
#[cfg(target_os = "linux")]
mod quantity;
#[cfg(target_os = "linux")]
mod rotate;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod streaming;
#[cfg(target_os = "linux")]
mod volumes;
#[cfg(target_os = "linux")]
mod wiring;

pub use config::{Config, ImageCollection, Pki, RuntimeChoice};
#[cfg(target_os = "linux")]
pub use run::{main, run};
