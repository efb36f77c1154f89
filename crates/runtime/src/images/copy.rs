//! Copying a layer where overlays cannot be mounted.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

/// Applies an unpacked layer to `root`, as overlayfs would show it.
pub(crate) fn copy_layer(layer: &Path, root: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(layer)? {
        let entry = entry?;
        let (source, target) = (entry.path(), root.join(entry.file_name()));
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        let there = std::fs::symlink_metadata(&target).ok();
        if kind.is_dir() {
            let mut value = [0u8; 1];
            let opaque = rustix::fs::getxattr(&source, "trusted.overlay.opaque", &mut value).is_ok();
            if there.as_ref().is_some_and(|old| opaque || !old.is_dir()) {
                remove(&target)?;
            }
            if !target.is_dir() {
                std::fs::create_dir(&target)?;
            }
            copy_layer(&source, &target)?;
        } else {
            if there.is_some() {
                remove(&target)?;
            }
            if kind.is_char_device() && metadata.rdev() == 0 {
                continue;
            } else if kind.is_symlink() {
                symlink(std::fs::read_link(&source)?, &target)?;
            } else if kind.is_file() {
                std::fs::copy(&source, &target)?;
            } else {
                continue;
            }
        }
        lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        if !kind.is_symlink() {
            // After the owner, since giving a file away takes its set-user-id bit.
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, read, write};

    #[test]
    fn copied_layers_look_as_overlayfs_would_show_them() {
        if !rustix::process::geteuid().is_root() {
            // Making the overlay's marks is for root alone.
            return;
        }
        let (lower, upper, root) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [lower, upper, root] = [&lower, &upper, &root].map(|directory| directory.path());
        create_dir(lower.join("kept")).unwrap();
        create_dir(lower.join("emptied")).unwrap();
        for (path, text) in [("kept/a", "a"), ("kept/b", "old"), ("emptied/c", "c"), ("hidden", "h")] {
            write(lower.join(path), text).unwrap();
        }
        symlink("kept", lower.join("link")).unwrap();
        create_dir(upper.join("kept")).unwrap();
        create_dir(upper.join("emptied")).unwrap();
        write(upper.join("kept/b"), "new").unwrap();
        write(upper.join("emptied/d"), "d").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(upper.join("emptied"), "trusted.overlay.opaque", b"y", flags).unwrap();
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("hidden"), kind, mode, 0).unwrap();
        copy_layer(lower, root).unwrap();
        copy_layer(upper, root).unwrap();
        assert_eq!(read(root.join("link/a")).unwrap(), b"a");
        assert_eq!(read(root.join("kept/b")).unwrap(), b"new");
        assert_eq!(read(root.join("emptied/d")).unwrap(), b"d");
        assert!(!root.join("emptied/c").exists() && !root.join("hidden").exists());
    }
}
