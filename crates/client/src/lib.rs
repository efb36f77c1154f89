//! How the house talks to the Kubernetes API: connections, shared informers, work queues, events, leadership.
//!
//! A process makes one [`Informers`] from its client; everything in it that reads kind K shares the one watch
//! and the one cache behind [`Informers::of`]. Controllers map deltas to keys in a [`WorkQueue`] and decide
//! from the caches. This crate decides nothing about any kind.

pub mod connect;
mod informer;
mod key;
mod leader;
mod queue;
mod recorder;
mod reflect;
mod registry;

pub use informer::{Delta, IndexFn, Informer, Notice, Subscription};
pub use key::Key;
pub use leader::Leadership;
pub use queue::WorkQueue;
pub use recorder::{EventType, Recorder};
pub use reflect::{Selection, Sink};
pub use registry::Informers;
