//! The data that crosses the [`Runtime`](crate::Runtime) trait.

mod container;
mod error;
mod image;
mod resources;
mod sandbox;
mod session;

pub use container::{
    ContainerConfig, ContainerState, ContainerStatus, Mount, Propagation, Seccomp, Security,
};
pub use error::{Error, Result};
pub use image::{Image, RegistryAuth};
pub use resources::{Resources, Stats};
pub use sandbox::{DnsConfig, HostNamespaces, SandboxConfig, SandboxState, SandboxStatus};
pub use session::{
    ContainerEvent, ContainerEventKind, Duplex, ExecConfig, ExecOutput, Reader, Session, TerminalSize, Writer,
};
