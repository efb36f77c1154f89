//! Kernel parameters of the calling thread's network namespace.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::{Error, Result};

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Returns a parameter's value, such as that of `net/ipv4/ip_forward`.
pub(crate) fn read(name: &str) -> Result<String> {
    let text = fs_err::read_to_string(path(name))
        .map_err(Error::io(format!("reading the kernel parameter {name}")))?;
    Ok(text.trim().into())
}

/// Sets a parameter, unless it has that value already: `/proc/sys` may be read-only then.
pub(crate) fn set(name: &str, value: &str, config: &str) -> Result<()> {
    let context = format!("setting the kernel parameter {name} to {value}");
    match read(name) {
        Ok(found) if found == value => return Ok(()),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Err(Error::Missing { context, config: config.into() });
        }
        _ => {}
    }
    fs_err::write(path(name), value).map_err(Error::io(context))
}

/// What every node needs: forwarding, and no dropping of packets whose way back is another one.
pub(crate) fn prepare_forwarding() -> Result<()> {
    set("net/ipv4/ip_forward", "1", "CONFIG_INET and CONFIG_PROC_SYSCTL")?;
    // The strictest of `all` and the interface's own value counts, and 2 (loose) overrules 1 (strict).
    for name in ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter"] {
        if read(name)? == "1" {
            set(name, "2", "CONFIG_INET")?;
        }
    }
    Ok(())
}
