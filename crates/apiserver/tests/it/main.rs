//! The API server as its clients see it: `kube` over the in-process transport, and bare HTTP where the
//! exact answer matters.

mod applying;
mod basics;
mod kit;
mod proxying;
mod watching;
mod writing;
