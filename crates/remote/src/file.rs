//! A file for a machine, and what came of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};

/// Is told how many bytes of how many are done.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Where a file's contents come from.
#[derive(Clone)]
pub enum Source {
    /// From memory.
    Bytes(Bytes),
    /// From a file of this machine, which must not change meanwhile.
    Path(PathBuf),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The contents may be a key.
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A file as it should be on a machine.
#[derive(Clone)]
pub struct File {
    pub(crate) path: String,
    pub(crate) source: Source,
    pub(crate) mode: u32,
    pub(crate) owner: Option<(String, String)>,
    pub(crate) root: bool,
    pub(crate) noted: bool,
    pub(crate) progress: Option<Progress>,
}

impl File {
    /// Returns a file of mode 0600 that root writes; directories above it are made, with mode 0755.
    pub fn new(path: impl Into<String>, source: impl Into<Source>) -> Self {
        Self {
            path: path.into(),
            source: source.into(),
            mode: 0o600,
            owner: None,
            root: true,
            noted: false,
            progress: None,
        }
    }

    /// Sets the mode, such as 0o755.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets owner and group, by name or number. Without, they are those of whoever writes.
    #[must_use]
    pub fn owner(mut self, user: impl Into<String>, group: impl Into<String>) -> Self {
        self.owner = Some((user.into(), group.into()));
        self
    }

    /// Writes it as the user that is logged in, instead of root.
    #[must_use]
    pub fn as_user(mut self) -> Self {
        self.root = false;
        self
    }

    /// Notes its checksum beside it, as `.NAME.sum`, for the next upload to believe while inode, size and time of
    /// change are the same: for a big file that stays, which would take seconds to read where a processor is emulated.
    #[must_use]
    pub fn noted(mut self) -> Self {
        self.noted = true;
        self
    }

    /// Sets whom to tell how far it is.
    #[must_use]
    pub fn progress(mut self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// The path on the machine.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Fails when the far side could not be told this unmistakably.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |why: &str| Err(Error::Invalid(format!("the path {:?} for an upload {why}", self.path)));
        if !self.path.starts_with('/') {
            return bad("does not start with /");
        }
        // sha256sum writes names with such signs in another form, and the parameters are lines.
        if self.path.chars().any(|c| c.is_control() || c == '\\') {
            return bad("has a control character or a backslash in it");
        }
        if self.path.split('/').skip(1).any(|part| part.is_empty() || part == "." || part == "..") {
            return bad("has an empty part, . or .. in it");
        }
        if self.path.rsplit('/').next().is_some_and(|name| name.len() > 200) {
            return bad("has a name of more than 200 bytes");
        }
        if self.mode > 0o7777 {
            return Err(Error::Invalid(format!("{}: the mode {:o} is no file mode", self.path, self.mode)));
        }
        if let Some((user, group)) = &self.owner {
            let name = |name: &str| {
                !name.is_empty()
                    && !name.starts_with('-')
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            };
            if !name(user) || !name(group) {
                return Err(Error::Invalid(format!("{}: {user}:{group} is no owner and group", self.path)));
            }
        }
        Ok(())
    }

    /// Owner and group as the far side is told them; `-` for none.
    pub(crate) fn owner_line(&self) -> String {
        self.owner.as_ref().map_or_else(|| "-".into(), |(user, group)| format!("{user}:{group}"))
    }

    pub(crate) fn report(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(done, total);
        }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .field("source", &self.source)
            .field("mode", &format_args!("{:o}", self.mode))
            .field("owner", &self.owner)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What an upload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uploaded {
    /// The contents, the mode or the owner were not right before.
    pub changed: bool,
    /// How many bytes of contents crossed the link, as they crossed it.
    pub sent: u64,
    /// How many bytes were there from a broken transfer.
    pub resumed: u64,
    /// The contents crossed the link compressed.
    pub compressed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_be_misread_is_refused_before_anything_is_done() {
        for path in ["etc/x", "/etc/../x", "/etc//x", "/etc/x/", "/a\nb", "/a\\b", "/"] {
            assert!(File::new(path, "").check().is_err(), "{path:?}");
        }
        assert!(File::new("/x", "").owner("-R", "root").check().is_err());
        assert!(File::new("/x", "").owner("root", "a b").check().is_err());
        assert!(File::new("/x", "").mode(0o100_644).check().is_err());
        File::new("/etc/kubernetes/a file's name", "").mode(0o644).owner("root", "0").check().unwrap();
    }

    #[test]
    fn contents_are_not_in_debug_output() {
        assert!(!format!("{:?}", File::new("/x", "secret")).contains("secret"));
    }
}
