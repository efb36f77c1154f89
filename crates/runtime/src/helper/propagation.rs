//! How mounts that are made later travel between a container and its node.
#![expect(unsafe_code, reason = "open_tree and move_mount have no safe form in the library used here")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::mount::MsFlags;

use crate::{Mount, Propagation};

/// Opens the sources of mounts that work both ways, while this process still is in the node's mount namespace.
pub(super) fn open_shared(mounts: &[Mount]) -> Result<Vec<(PathBuf, OwnedFd)>, String> {
    let both_ways = mounts.iter().filter(|mount| mount.propagation == Propagation::Bidirectional);
    both_ways.map(|mount| Ok((mount.host_path.clone(), open_tree(&mount.host_path)?))).collect()
}

/// Returns how the container's mount namespace hears of the node's.
pub(super) fn of_namespace(mounts: &[Mount]) -> MsFlags {
    if mounts.iter().any(|mount| mount.propagation != Propagation::Private) {
        MsFlags::MS_SLAVE
    } else {
        MsFlags::MS_PRIVATE
    }
}

/// Puts what [`open_shared`] opened over the copies that hear only one way.
pub(super) fn attach_shared(shared: Vec<(PathBuf, OwnedFd)>) -> Result<(), String> {
    for (path, tree) in shared {
        let target = c_string(&path)?;
        // SAFETY: both strings end in zero and live until the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        if result < 0 {
            return Err(format!("sharing {}: {}", path.display(), io::Error::last_os_error()));
        }
    }
    Ok(())
}

fn open_tree(path: &std::path::Path) -> Result<OwnedFd, String> {
    let name = c_string(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.unsigned_abs();
    // SAFETY: the string ends in zero and lives until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(format!("opening {}: {}", path.display(), io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_string(path: &std::path::Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("{} has a zero byte", path.display()))
}
