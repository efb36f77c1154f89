//! Files that change all at once: they live in a dated directory, and one symbolic link leads to the newest.
//! A reader sees the old files or the new ones, never some of each.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// The link to the newest directory.
const DATA: &str = "..data";

/// A file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Its contents.
    pub(crate) contents: Vec<u8>,
    /// Its permission bits.
    pub(crate) mode: u32,
    /// Its owner, when it is not root.
    pub(crate) owner: Option<u32>,
}

/// Files by their path below the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Makes the files of the volume at `root` exactly `payload`. Does nothing when they are already.
///
/// # Errors
/// When a path leads out of the volume, or the file system refuses.
pub(crate) fn write(root: &Path, payload: &Payload) -> io::Result<()> {
    for path in payload.keys() {
        let sane = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !sane || path.starts_with("..") {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path:?} is not a path in a volume"),
            ));
        }
    }
    let link = root.join(DATA);
    let old = std::fs::read_link(&link).ok();
    if let Some(old) = &old
        && same(&root.join(old), payload)
    {
        return Ok(());
    }
    let new = tempfile::Builder::new().prefix("..").rand_bytes(10).tempdir_in(root)?.keep();
    fs_err::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let target = new.join(path);
        if let Some(parent) = target.parent() {
            fs_err::create_dir_all(parent)?;
        }
        fs_err::write(&target, &file.contents)?;
        fs_err::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
        if let Some(owner) = file.owner {
            std::os::unix::fs::chown(&target, Some(owner), None)?;
        }
    }
    let name = new.file_name().map(PathBuf::from).unwrap_or_default();
    let next = root.join("..data_tmp");
    match fs_err::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, &next)?;
    fs_err::rename(&next, &link)?;
    // What users see at the top leads through the one link that just moved.
    let wanted: std::collections::BTreeSet<&str> =
        payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let visible = root.join(name);
        if std::fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new(DATA).join(name), &visible)?;
        }
    }
    for entry in fs_err::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("..") && !wanted.contains(text.as_ref()) {
            fs_err::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        match fs_err::remove_dir_all(root.join(old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn same(directory: &Path, payload: &Payload) -> bool {
    let mut found = Vec::new();
    if list(directory, directory, &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let path = directory.join(path);
        let mode = std::fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o7777);
        // A group may have been given more since.
        mode.is_ok_and(|mode| mode & file.mode == file.mode)
            && std::fs::read(&path).is_ok_and(|contents| contents == file.contents)
    })
}

fn list(top: &Path, directory: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            list(top, &path, into)?;
        } else {
            into.push(path.strip_prefix(top).unwrap_or(&path).to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                ((*path).to_owned(), File { contents: text.as_bytes().into(), mode: 0o644, owner: None })
            })
            .collect()
    }

    #[test]
    fn files_change_together_and_old_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).ok();
        write(root.path(), &payload(&[("a", "1"), ("d/b", "2")])).unwrap();
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        let first = std::fs::read_link(root.path().join(DATA)).unwrap();
        write(root.path(), &payload(&[("a", "1"), ("d/b", "2")])).unwrap();
        assert_eq!(std::fs::read_link(root.path().join(DATA)).unwrap(), first, "nothing changed");
        write(root.path(), &payload(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!((read("a").as_deref(), read("c").as_deref(), read("d/b")), (Some("3"), Some("4"), None));
        assert!(!root.path().join(first).exists());
        assert!(std::fs::symlink_metadata(root.path().join("d")).is_err());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "..data"] {
            assert!(write(root.path(), &payload(&[(path, "1")])).is_err(), "{path:?}");
        }
    }
}
