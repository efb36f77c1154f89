//! `subPath`: a file or directory inside a volume, opened so that no symbolic link leads out of it, and bound
//! to a place of its own, so that it cannot be exchanged between the check and the mount.

use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Binds `sub` of the volume at `volume` to `target` and returns it. A missing directory is made.
///
/// # Errors
/// When `sub` leads out of the volume, or the kernel refuses.
pub(crate) fn prepare(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("subPath {sub:?} must be a path inside the volume"));
    }
    let fail = |doing: &str, error: &dyn std::fmt::Display| {
        format!("failed to prepare subPath {sub:?} of {}: {doing}: {error}", volume.display())
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(CWD, volume, directory, Mode::empty()).map_err(|error| fail("opening", &error))?;
    let open = || {
        rustix::fs::openat2(
            &root,
            relative,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH,
        )
    };
    let file = match open() {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => {
            let mut at = rustix::io::dup(&root).map_err(|error| fail("opening", &error))?;
            for part in relative.components() {
                let Component::Normal(name) = part else { continue };
                match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(fail("making it", &error)),
                }
                at = rustix::fs::openat2(&at, name, directory, Mode::empty(), ResolveFlags::BENEATH)
                    .map_err(|error| fail("making it", &error))?;
            }
            open().map_err(|error| fail("opening", &error))?
        }
        Err(error) => return Err(fail("opening", &error)),
    };
    let is_directory =
        rustix::fs::fstat(&file).is_ok_and(|meta| meta.st_mode & libc::S_IFMT == libc::S_IFDIR);
    let already = std::fs::symlink_metadata(target).is_ok();
    if !already {
        if is_directory {
            fs_err::create_dir_all(target).map_err(|error| fail("making the target", &error))?;
        } else {
            if let Some(parent) = target.parent() {
                fs_err::create_dir_all(parent).map_err(|error| fail("making the target", &error))?;
            }
            fs_err::File::create(target).map_err(|error| fail("making the target", &error))?;
        }
    }
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| fail("binding", &error))?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_never_leads_out_of_its_volume() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("link")).unwrap();
        for sub in ["../x", "/etc", "link/passwd", "a/../../x"] {
            assert!(prepare(&volume, sub, &root.path().join("t")).is_err(), "{sub}");
        }
    }
}
