//! The API server: HTTP, discovery, access, admission, REST verbs, watches, proxying. Runs no control loops.
//!
//! One generic registry serves every kind from its descriptor (`api::registry`); a kind has no handler here.
//! A request goes through [`ApiServer::service`], over TLS or in process: authentication, authorization,
//! then [`rest`] for resources or [`paths`] for everything else. Reads come from the watch cache
//! ([`cache`]), writes go to the store.

pub mod access;
pub mod admission;
mod aggregate;
pub mod audit;
mod body;
mod bootstrap;
pub mod cache;
mod config;
mod convert;
mod custom;
mod decode;
mod discovery;
mod flow;
mod identity;
mod masters;
mod metrics;
mod negotiate;
mod openapi;
mod path;
mod paths;
mod proxy;
mod respond;
mod rest;
mod server;
mod services;
pub mod testing;
mod upkeep;
mod watch;

pub use access::UserInfo;
pub use body::{Body, BodyError};
pub use config::{Config, FrontProxy, KubeletClient, Pki};
pub use path::{Query, RequestInfo, Target};
pub use server::{ApiServer, ApiService, OpenError};
