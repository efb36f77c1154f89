//! Virtual machines by QEMU: their description, their life, their networks, and the images that they boot.
//!
//! A caller describes a [`Machine`], asks [`probe`] how fast this host can run it, and calls [`start`]. The
//! machine outlives the caller; whoever knows its directory finds it again as an [`Instance`]. All that exists
//! outside that directory (the disk, the console's log, the taps) is named by the caller beforehand, so that a
//! journal can hold it before it is there. This crate knows nothing of Kubernetes, of clusters or of Ignition.

mod acceleration;
#[cfg(target_os = "linux")]
mod arguments;
mod error;
pub mod image;
#[cfg(target_os = "linux")]
mod life;
mod machine;
pub mod overlay;
#[cfg(target_os = "linux")]
mod probe;
pub mod qmp;
#[cfg(target_os = "linux")]
pub mod tap;

pub use acceleration::Acceleration;
pub use error::{Error, Result, StartFailure};
#[cfg(target_os = "linux")]
pub use life::{Instance, PowerOff, StartOptions, State, destroy, start};
pub use machine::{Card, DirectBoot, Disk, FirmwareFile, Forward, Link, Mac, Machine, Protocol};
#[cfg(target_os = "linux")]
pub use probe::{probe, try_guest};
