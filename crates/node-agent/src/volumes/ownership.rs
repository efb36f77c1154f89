//! `fsGroup`: files of a volume belong to the pod's group.

use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

/// Gives everything at and below `path` to `group`. Files that only containers read get no write permission.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn give_to_group(path: &Path, group: i64, read_only: bool) -> io::Result<()> {
    let group = u32::try_from(group).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    walk(path, group, read_only)
}

fn walk(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs_err::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mode = meta.permissions().mode() & 0o7777;
    mode |= if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mode |= 0o2110;
    }
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in fs_err::read_dir(path)? {
            walk(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
