//! A store made of a snapshot: with the revisions that everything had, and no history before.

use std::io::Read;
use std::path::{Path, PathBuf};

use fjall::PersistMode;

use super::disk::Disk;
use super::record::{Position, Record};
use super::{EmbeddedStore, Options};
use crate::snapshot::{self, Summary};
use crate::{Error, Result, Revision};

/// How many entries go into one batch.
const BATCH: usize = 1000;

impl EmbeddedStore {
    /// Makes a store in `path`, where nothing may be yet, of the snapshot that `input` has. What is in there has the
    /// revisions that it had; the store itself begins at `least` or at the snapshot's revision, whichever is later:
    /// where a store was before, give a revision after its last one, so that whoever has seen what came after the
    /// snapshot is told to read again.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is something in `path`, [`Error::Damaged`] when the snapshot is not whole.
    /// Nothing is in `path` then.
    pub fn restore(path: &Path, input: &mut dyn Read, least: Revision) -> Result<Summary> {
        let unavailable = |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => std::fs::remove_dir(path).map_err(unavailable)?,
            Ok(false) => {
                return Err(Error::Refused(format!(
                    "{} is not empty; move what is there away to restore a snapshot",
                    path.display()
                )));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unavailable(error)),
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".restoring");
        let building: PathBuf = path.with_file_name(name);
        if building.exists() {
            // Of a restore that was cut off.
            std::fs::remove_dir_all(&building).map_err(unavailable)?;
        }
        let built = build(&building, input, least);
        let summary = match built {
            Ok(summary) => summary,
            Err(error) => {
                drop(std::fs::remove_dir_all(&building));
                return Err(error);
            }
        };
        std::fs::rename(&building, path).map_err(unavailable)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(unavailable)?;
        }
        Ok(summary)
    }
}

fn build(path: &Path, input: &mut dyn Read, least: Revision) -> Result<Summary> {
    let (disk, _) = Disk::open(path, &Options::default())?;
    let failed = |error: &fjall::Error| disk.failed(error);
    let mut batch = disk.database.batch();
    let summary = snapshot::read(input, |_, entry| {
        let position = Position { created: entry.create_revision, modified: entry.mod_revision };
        batch.insert(&disk.index, entry.key.as_bytes(), position.encode());
        let record = Record {
            deleted: false,
            created: entry.create_revision,
            previous: 0,
            key: entry.key,
            value: entry.value,
        };
        batch.insert(&disk.log, entry.mod_revision.to_be_bytes(), record.encode());
        if batch.len() >= 2 * BATCH {
            std::mem::replace(&mut batch, disk.database.batch()).commit().map_err(|error| failed(&error))?;
        }
        Ok(())
    })?;
    let revision = summary.header.revision.max(least).to_be_bytes();
    batch.insert(&disk.meta, "revision", revision);
    batch.insert(&disk.meta, "compacted", revision);
    batch.durability(Some(PersistMode::SyncAll)).commit().map_err(|error| failed(&error))?;
    let entries = disk.verify()?;
    if entries != summary.entries {
        return Err(
            disk.damaged(&format!("{entries} of the snapshot's {} entries are there", summary.entries))
        );
    }
    Ok(summary)
}
