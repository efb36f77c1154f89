//! The node's network against a real kernel: nodes and pods are network namespaces that the tests make.
//! They need root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and fail without it.

mod dns;
mod lab;
mod loadbalancer;
mod pods;
mod proxy;
