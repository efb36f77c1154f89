//! What this executable does when the engine runs it again: a container's shim, an exec, the first process of a
//! shared process table, a CNI plugin.
//!
//! Each runs in a process of its own with a single thread, because it forks and changes namespaces. None of this
//! uses tokio, and the shim, of which there is one per container, touches as little memory as it can.

pub(crate) mod bundle;
mod confine;
mod exec;
mod log;
mod pause;
mod propagation;
pub(crate) mod protocol;
mod runner;
mod seccomp;
mod seccomp_default;
mod shim;
pub(crate) mod spec;
mod streams;
mod users;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::cri::cni;

/// The first argument that makes the executable a helper.
pub(crate) const MARK: &str = "runtime-helper";

/// Runs as a helper if the arguments (with the program's name first) say so; otherwise returns `None` at once.
/// To be called first in `main`, before there is a second thread.
#[must_use]
pub fn helper_main(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    let called = arguments.next()?;
    let called = Path::new(&called).file_name()?;
    if called == cni::PLUGIN || called == cni::LOOPBACK {
        return Some(cni::plugin::main(called));
    }
    if arguments.next()? != MARK {
        return None;
    }
    let kind = arguments.next();
    let rest: Vec<OsString> = arguments.collect();
    Some(match kind.as_ref().and_then(|kind| kind.to_str()) {
        Some("shim") => shim::main(&rest),
        Some("exec") => exec::main(&rest),
        Some("pause") => pause::main(&rest),
        Some("pause-init") => pause::init(),
        _ => ExitCode::from(2),
    })
}
