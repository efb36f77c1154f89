//! Seccomp profiles as filters for the kernel.

use crate::Seccomp;

/// A program for the kernel.
pub(super) type Filter = seccompiler::BpfProgram;

/// Returns the filters that make up a profile; none for no profile.
pub(super) fn filters(profile: &Seccomp, _capabilities: u64, _names: &[&str]) -> Result<Vec<Filter>, String> {
    match profile {
        Seccomp::Unconfined => Ok(Vec::new()),
        Seccomp::RuntimeDefault => Err("the seccomp profile RuntimeDefault is not built yet".to_owned()),
        Seccomp::Localhost(path) => {
            Err(format!("the seccomp profile {} cannot be used: Localhost is not built yet", path.display()))
        }
    }
}

/// Puts the filters on this process, for good.
pub(super) fn install(filters: &[Filter]) -> Result<(), String> {
    for filter in filters {
        seccompiler::apply_filter(filter)
            .map_err(|error| format!("installing the seccomp filter: {error}"))?;
    }
    Ok(())
}
