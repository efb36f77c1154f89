//! Image files: names, the content-addressed store, unpacking, loading and pulling.
//!
//! Works without an engine: `cluster image load` writes into the same store that engines read. One store serves
//! all nodes of a host at once; every change to it happens under a file lock, and every layer appears whole or
//! not at all.

mod copy;
mod executable;
mod load;
mod model;
mod pull;
mod reference;
mod store;
mod unpack;

pub use executable::from_executable;
pub use load::{load, load_directory, load_reader};
pub use pull::pull;
pub use reference::Reference;
pub use store::Store;

pub(crate) use copy::copy_layer;
pub(crate) use executable::{configuration, write_layer};
pub(crate) use load::{Found, read_directory, unpack_archive};
pub(crate) use model::{ImageConfig, InUse};
pub(crate) use unpack::hex;
