//! What stands between the store and its disk: how much room there is, which revision was acknowledged last, and
//! making sure that what the kernel holds is on the disk after it failed to put it there.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::journal;
use crate::{Error, Result, Revision};

/// Remembers the last acknowledged revision outside of the database. The database library takes a damaged end of
/// its journal for a write that was cut off, which it drops; this tells one from the other. Written after each
/// commit and never synced: it cannot be ahead of what is durable, and a machine crash may leave it behind.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

const NAME: &str = "acknowledged";

impl Witness {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(NAME);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        Ok(Self { file: file.map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))? })
    }

    /// Returns the revision that was acknowledged last, as far as that is known.
    pub(super) fn seen(&self) -> Option<Revision> {
        let mut bytes = [0; 16];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (revision, check) = bytes.split_at(8);
        let revision = Revision::from_be_bytes(revision.try_into().ok()?);
        // Torn or foreign bytes say nothing.
        (check == (!revision).to_be_bytes()).then_some(revision)
    }

    pub(super) fn note(&self, revision: Revision) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&revision.to_be_bytes());
        bytes[8..].copy_from_slice(&(!revision).to_be_bytes());
        if let Err(error) = self.file.write_all_at(&bytes, 0) {
            tracing::debug!(%error, "noting the acknowledged revision");
        }
    }
}

/// Returns how many bytes the file system of `path` has left for us.
pub(super) fn room(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes the journals anew. After a failed fsync the kernel counts pages as clean that never reached the disk:
/// they can be read, but the next fsync leaves them out. A copy makes them dirty again.
pub(super) fn rewrite_journals(directory: &Path) -> std::io::Result<()> {
    let _lock = journal::lock(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        let copy = path.with_extension("rewritten");
        let (mut from, mut to) = (File::open(&path)?, File::create(&copy)?);
        let length = from.metadata()?.len();
        // Not by the kernel: it may share the blocks on disk, which are the ones that cannot be trusted.
        let mut block = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let read = from.read(&mut block)?;
            if read == 0 {
                break;
            }
            // The journal's unused end is a hole and stays one.
            if block[..read].iter().any(|byte| *byte != 0) {
                to.write_all_at(&block[..read], at)?;
            }
            at += read as u64;
        }
        to.set_len(length)?;
        to.flush()?;
        to.sync_all()?;
        std::fs::rename(&copy, &path)?;
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_believed_only_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let witness = Witness::open(directory.path()).unwrap();
        assert_eq!(witness.seen(), None);
        witness.note(77);
        assert_eq!(Witness::open(directory.path()).unwrap().seen(), Some(77));
        std::fs::write(directory.path().join(NAME), [7; 12]).unwrap();
        assert_eq!(witness.seen(), None);
        std::fs::write(directory.path().join(NAME), [7; 16]).unwrap();
        assert_eq!(witness.seen(), None);
    }

    #[test]
    fn a_rewritten_journal_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.jnl");
        let mut bytes = vec![0; 5 << 20];
        bytes[3] = 7;
        bytes[(3 << 20) + 1] = 9;
        std::fs::write(&path, &bytes).unwrap();
        rewrite_journals(directory.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
