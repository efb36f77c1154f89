//! The node's network against a real kernel: nodes and pods are network namespaces that the tests make.
//! They need root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and fail without it.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod dns;
mod lab;
mod loadbalancer;
mod pods;
mod policy;
mod proxy;
