//! The database on disk: opening and checking it, and reading from one consistent view of it.

use std::collections::HashSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use parking_lot::{RwLock, RwLockReadGuard};

use super::Options;
use super::record::{Position, Record};
use super::witness::{self, Witness};
use crate::undo;
use crate::{Change, Entry, Error, Event, Page, Range, Result, Revision};

/// The disk format that this code writes: 2 has `expiry`. It reads format 1, too, which becomes 2.
pub(super) const FORMAT: u64 = 2;

/// The revision that a new store begins at: below is room for what etcd writes before the first key of a store
/// that moves there with its revisions.
const BEGIN: Revision = 1000;

/// With less room than this, tables cannot be written.
const SCARCE: u64 = 1 << 20;

/// How often a table is looked after that is being written, and how many times: five minutes and more.
const FLUSHING: Duration = Duration::from_millis(2);
const FLUSHES: u32 = 150_000;

/// How many of the latest records are read when a store is opened.
const CHECKED: usize = 256;

/// The keyspaces; the committer alone writes them.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) database: Database,
    pub(super) log: Keyspace,
    pub(super) index: Keyspace,
    pub(super) meta: Keyspace,
    pub(super) expiry: Keyspace,
    pub(super) witness: Witness,
}

/// Where a store's counters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
}

/// Where an entry of a page is.
enum Place {
    /// In the log.
    At(Position),
    /// It has changed since, and this is what it was.
    Known(Entry),
}

/// The disk, or why there is none. Each read holds it shared for as long as it lasts; the committer takes it
/// alone when it opens the database anew.
pub(super) struct Slot(RwLock<State>);

enum State {
    Open(Box<Disk>),
    /// It may work again later.
    Unavailable(String),
    /// Only an operator can help.
    Damaged(String),
}

impl State {
    fn of(outcome: Result<Disk>) -> Self {
        match outcome {
            Ok(disk) => Self::Open(Box::new(disk)),
            Err(Error::Damaged(why)) => Self::Damaged(why),
            Err(other) => Self::Unavailable(other.detail()),
        }
    }

    fn error(&self) -> Option<Error> {
        match self {
            Self::Open(_) => None,
            Self::Unavailable(why) => Some(Error::Unavailable(why.clone())),
            Self::Damaged(why) => Some(Error::Damaged(why.clone())),
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("unavailable", &self.is_unavailable()).finish_non_exhaustive()
    }
}

impl Slot {
    pub(super) fn new(disk: Disk) -> Self {
        Self(RwLock::new(State::Open(Box::new(disk))))
    }

    /// Reads with `read` unless there is no disk.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Disk) -> Result<T>) -> Result<T> {
        read(&*self.disk()?)
    }

    /// Returns the disk for as long as the guard is held.
    pub(super) fn disk(&self) -> Result<parking_lot::MappedRwLockReadGuard<'_, Disk>> {
        let state = self.0.read();
        if let Some(error) = state.error() {
            return Err(error);
        }
        RwLockReadGuard::try_map(state, |state| match state {
            State::Open(disk) => Some(&**disk),
            State::Unavailable(_) | State::Damaged(_) => None,
        })
        .map_err(|_| Error::Unavailable("the store is being opened".into()))
    }

    /// Waits for the reads that are under way and closes the database.
    pub(super) fn close(&self, why: &str) {
        *self.0.write() = State::Unavailable(why.to_owned());
    }

    pub(super) fn set(&self, outcome: Result<Disk>) {
        *self.0.write() = State::of(outcome);
    }

    /// Closes the database and opens another in its place. Whoever wants to read meanwhile waits.
    pub(super) fn renew(&self, open: impl FnOnce() -> Result<Disk>) -> Result<()> {
        let mut state = self.0.write();
        *state = State::Unavailable("the store is being opened anew".into());
        *state = State::of(open());
        state.error().map_or(Ok(()), Err)
    }

    pub(super) fn is_unavailable(&self) -> bool {
        matches!(&*self.0.read(), State::Unavailable(_))
    }
}

/// Says of a failure at `path` whether it may pass or what is on disk cannot be trusted, and what to do.
pub(super) fn explain(path: &Path, error: &fjall::Error) -> Error {
    let shown = path.display();
    let io = |error: &std::io::Error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            return locked(path);
        }
        let advice = match error.kind() {
            std::io::ErrorKind::StorageFull => "; make room on that disk, the store goes on by itself",
            std::io::ErrorKind::ReadOnlyFilesystem => {
                "; the file system is read-only: look for disk errors in the kernel's log and mount it writable again"
            }
            std::io::ErrorKind::PermissionDenied => "; the control plane must own that directory",
            _ => "",
        };
        Error::Unavailable(format!("{shown}: {error}{advice}"))
    };
    match error {
        fjall::Error::Locked => locked(path),
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            // What was cut off ends too early, or holds what nobody wrote.
            match error.kind() {
                std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::NotFound => damaged(path, &error.to_string()),
                _ => io(error),
            }
        }
        fjall::Error::Poisoned => {
            // What failed was in the background, and only the library's own log has it; this is the usual cause.
            let full = match witness::room(path) {
                Some(room) if room < SCARCE => {
                    format!(": No space left on the disk, {room} bytes; make room")
                }
                _ => String::new(),
            };
            Error::Unavailable(format!("{shown}: an earlier write failed{full}; the store is opened anew"))
        }
        other => damaged(path, &format!("{other:?}")),
    }
}

fn locked(path: &Path) -> Error {
    Error::Unavailable(format!(
        "{} is in use by another process; stop the other control plane first",
        path.display()
    ))
}

pub(super) fn damaged(path: &Path, what: &str) -> Error {
    Error::Damaged(format!(
        "{}: {what}; restore a snapshot, or move the directory away to begin with an empty store",
        path.display()
    ))
}

impl Disk {
    /// Opens the database in `path`, creating it when there is none, and checks that it is whole.
    pub(super) fn open(path: &Path, options: &Options) -> Result<(Self, Counters)> {
        if !path.exists() {
            let made = std::fs::create_dir_all(path).and_then(|()| {
                // A store whose name is lost is lost as a whole.
                let above = path.parent().filter(|above| !above.as_os_str().is_empty());
                std::fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
            });
            made.map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
        }
        let mended = super::journal::mend(path).map_err(|error| explain(path, &fjall::Error::Io(error)))?;
        mended.map_err(|(journal, at)| {
            damaged(path, &format!("{} cannot be read at byte {at}, and writes follow", journal.display()))
        })?;
        // Damage may make the library panic, which must not look like a fault of ours.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Self::connect(path, options)));
        let disk = opened.map_err(|_| damaged(path, "the database library gave up on what it found"))??;
        let counters = disk.check()?;
        Ok((disk, counters))
    }

    fn connect(path: &Path, options: &Options) -> Result<Self> {
        let explain = |error: fjall::Error| explain(path, &error);
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .open()
            .map_err(explain)?;
        let keyspace = |name: &str| {
            let memtable = options.memtable_bytes;
            database
                .keyspace(name, move || KeyspaceCreateOptions::default().max_memtable_size(memtable))
                .map_err(explain)
        };
        let disk = Self {
            path: path.into(),
            log: keyspace("log")?,
            index: keyspace("index")?,
            meta: keyspace("meta")?,
            expiry: keyspace("expiry")?,
            witness: Witness::open(path)?,
            database: database.clone(),
        };
        // The library syncs what it makes in these, and not their names in here.
        for directory in [path.join("keyspaces"), path.into()] {
            let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| explain(fjall::Error::Io(error)))?;
        }
        Ok(disk)
    }

    pub(super) fn keyspaces(&self) -> [&Keyspace; 4] {
        [&self.log, &self.index, &self.meta, &self.expiry]
    }

    /// Writes what is fresh into tables.
    ///
    /// The library's own function for this waits for ever when the table cannot be written.
    #[expect(clippy::disallowed_methods, reason = "the library tells of no event")]
    pub(super) fn flush(&self) -> Result<()> {
        for keyspace in self.keyspaces() {
            keyspace.rotate_memtable().map_err(|error| self.failed(&error))?;
            let mut looks = 0;
            while keyspace.sealed_memtable_count() > 0 {
                looks += 1;
                if looks > FLUSHES {
                    let left = keyspace.sealed_memtable_count();
                    return Err(Error::Unavailable(format!(
                        "{}: {left} tables are not written after minutes; look for disk errors in the kernel's log",
                        self.path.display()
                    )));
                }
                // Says whether the library's thread has failed; there is nothing to wait on.
                self.database.persist(PersistMode::Buffer).map_err(|error| self.failed(&error))?;
                std::thread::sleep(FLUSHING);
            }
        }
        Ok(())
    }

    /// Writes every table anew without what was replaced. A table is only made smaller so.
    pub(super) fn rewrite(&self) -> Result<()> {
        self.flush()?;
        self.keyspaces()
            .into_iter()
            .try_for_each(Keyspace::major_compact)
            .map_err(|error| self.failed(&error))
    }

    /// Returns the bytes that the tables take.
    pub(super) fn tables(&self) -> u64 {
        self.keyspaces().into_iter().map(Keyspace::disk_space).sum()
    }

    pub(super) fn failed(&self, error: &fjall::Error) -> Error {
        explain(&self.path, error)
    }

    pub(super) fn damaged(&self, what: &str) -> Error {
        damaged(&self.path, what)
    }

    pub(super) fn number(&self, view: &impl Readable, name: &str) -> Result<Option<u64>> {
        let Some(bytes) = view.get(&self.meta, name).map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        let bytes =
            bytes.as_ref().try_into().map_err(|_| self.damaged(&format!("meta {name:?} is not a number")))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    pub(super) fn counters(&self, view: &impl Readable) -> Result<Counters> {
        let revision = self.number(view, "revision")?;
        let revision = revision.ok_or_else(|| self.damaged("the counter of revisions is missing"))?;
        Ok(Counters { revision, compacted: self.number(view, "compacted")?.unwrap_or(0) })
    }

    pub(super) fn record(&self, view: &impl Readable, revision: Revision) -> Result<Record> {
        let bytes = view
            .get(&self.log, revision.to_be_bytes())
            .map_err(|error| self.failed(&error))?
            .ok_or_else(|| self.damaged(&format!("the record of revision {revision} is missing")))?;
        Record::decode(&bytes)
            .ok_or_else(|| self.damaged(&format!("the record of revision {revision} is not readable")))
    }

    fn position(&self, view: &impl Readable, key: &str) -> Result<Option<Position>> {
        let Some(bytes) = view.get(&self.index, key).map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        Position::decode(&bytes)
            .map(Some)
            .ok_or_else(|| self.damaged(&format!("the index of {key} is not readable")))
    }

    pub(super) fn entry(&self, view: &impl Readable, key: &str) -> Result<Option<Entry>> {
        let Some(position) = self.position(view, key)? else { return Ok(None) };
        let record = self.record(view, position.modified)?;
        self.fits(key, position, &record)?;
        Ok(Some(record.into_entry(position.modified)))
    }

    /// Makes sure that the index and the record that it leads to are of one write.
    fn fits(&self, key: &str, position: Position, record: &Record) -> Result<()> {
        if *record.key != *key || record.deleted || record.created != position.created {
            return Err(self.damaged(&format!("the index of {key} leads to another's record")));
        }
        Ok(())
    }

    /// Reads every entry whose key begins with `prefix`, in key order.
    pub(super) fn entries(&self, view: &impl Readable, prefix: &str) -> impl Iterator<Item = Result<Entry>> {
        view.prefix(&self.index, prefix).map(|guard| {
            let (key, position) = guard.into_inner().map_err(|error| self.failed(&error))?;
            let position = Position::decode(&position)
                .ok_or_else(|| self.damaged("an entry of the index is not readable"))?;
            let record = self.record(view, position.modified)?;
            self.fits(&String::from_utf8_lossy(&key), position, &record)?;
            Ok(record.into_entry(position.modified))
        })
    }

    /// Returns a page of what there was before the changes `later`. Reads the records of the page alone.
    pub(super) fn page(
        &self,
        view: &impl Readable,
        range: &Range,
        revision: Revision,
        later: &[Event],
    ) -> Result<Page> {
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let start = match &range.after {
            Some(after) if **after >= *range.prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(range.prefix.as_bytes()),
        };
        let before = undo::before(later, &range.prefix);
        let mut places: Vec<(Arc<str>, Place)> = Vec::new();
        let mut remaining = 0;
        for guard in view.range::<&[u8], _>(&self.index, (start, Bound::Unbounded)) {
            let (key, position) = guard.into_inner().map_err(|error| self.failed(&error))?;
            if !key.starts_with(range.prefix.as_bytes()) {
                break;
            }
            let unreadable = || self.damaged("an entry of the index is not readable");
            let key = std::str::from_utf8(&key).map_err(|_| unreadable())?;
            if before.contains_key(key) {
                continue;
            }
            // What has changed since may come in between.
            if places.len() >= limit && before.is_empty() {
                remaining += 1;
                continue;
            }
            places.push((key.into(), Place::At(Position::decode(&position).ok_or_else(unreadable)?)));
        }
        if !before.is_empty() {
            let after = range.after.as_deref();
            let known = before.into_iter().filter(|(key, _)| after.is_none_or(|after| **key > *after));
            places.extend(known.filter_map(|(key, entry)| Some((key, Place::Known(entry?)))));
            places.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            remaining = places.len().saturating_sub(limit);
            places.truncate(limit);
        }
        Ok(Page { entries: self.read(view, places)?, revision, remaining })
    }

    /// Reads entries in the order of their revisions, in which they lie: a block of many is unpacked once.
    fn read(&self, view: &impl Readable, places: Vec<(Arc<str>, Place)>) -> Result<Vec<Entry>> {
        let mut entries: Vec<(usize, Entry)> = Vec::with_capacity(places.len());
        let mut positions = Vec::new();
        for (number, (key, place)) in places.into_iter().enumerate() {
            match place {
                Place::Known(entry) => entries.push((number, entry)),
                Place::At(position) => positions.push((position, number, key)),
            }
        }
        positions.sort_unstable_by_key(|(position, ..)| position.modified);
        for (position, number, key) in positions {
            let record = self.record(view, position.modified)?;
            self.fits(&key, position, &record)?;
            entries.push((number, record.into_entry(position.modified)));
        }
        entries.sort_unstable_by_key(|(number, _)| *number);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Returns the changes in `(after, until]`.
    pub(super) fn changes(
        &self,
        view: &impl Readable,
        after: Revision,
        until: Revision,
    ) -> Result<Vec<Event>> {
        if after >= until {
            return Ok(Vec::new());
        }
        let range = (after + 1).to_be_bytes()..=until.to_be_bytes();
        view.range(&self.log, range)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(|error| self.failed(&error))?;
                let revision = self.revision_of(&key)?;
                let record = Record::decode(&value).ok_or_else(|| {
                    self.damaged(&format!("the record of revision {revision} is not readable"))
                })?;
                self.event(view, revision, record)
            })
            .collect()
    }

    fn revision_of(&self, key: &[u8]) -> Result<Revision> {
        let bytes = key.try_into().map_err(|_| self.damaged("a key of the log is not a revision"))?;
        Ok(Revision::from_be_bytes(bytes))
    }

    fn event(&self, view: &impl Readable, revision: Revision, record: Record) -> Result<Event> {
        let previous = match record.previous {
            0 => None,
            at => Some(self.record(view, at)?.into_entry(at)),
        };
        let change = if record.deleted {
            let previous = previous.ok_or_else(|| {
                self.damaged(&format!("revision {revision} deletes a key that was never there"))
            })?;
            Change::Delete { previous }
        } else {
            Change::Put { entry: record.into_entry(revision), previous }
        };
        Ok(Event { revision, change })
    }

    fn mark(&self, fresh: bool) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "format", FORMAT.to_be_bytes());
        if fresh {
            batch.insert(&self.meta, "revision", BEGIN.to_be_bytes());
        }
        batch.commit().map_err(|error| self.failed(&error))
    }

    /// Checks that format, counters, records, index and witness fit together.
    fn check(&self) -> Result<Counters> {
        let view = self.database.snapshot();
        match self.number(&view, "format")? {
            Some(FORMAT) => {}
            Some(1) => self.mark(self.number(&view, "revision")?.is_none())?,
            Some(newer) if newer > FORMAT => {
                return Err(Error::Refused(format!(
                    "{} was written in format {newer} by a newer version; this one reads format {FORMAT}: \
                     install the newer version again",
                    self.path.display()
                )));
            }
            Some(other) => return Err(self.damaged(&format!("format {other} is not known"))),
            None if view.first_key_value(&self.log).is_some() => {
                return Err(self.damaged("there are records but no format"));
            }
            None => self.mark(true)?,
        }
        let view = self.database.snapshot();
        let counters = self.counters(&view)?;
        let Counters { revision, compacted } = counters;
        if compacted > revision {
            return Err(self.damaged(&format!("compacted up to {compacted}, but only at {revision}")));
        }
        if let Some(seen) = self.witness.seen()
            && seen > revision
        {
            return Err(self.damaged(&format!(
                "revision {seen} was acknowledged, but what is there ends at {revision}: the latest {} writes are lost",
                seen - revision
            )));
        }
        self.check_latest(&view, counters)?;
        Ok(counters)
    }

    /// Checks that every revision after the compaction point has its record, and the index the newest of each key.
    fn check_latest(&self, view: &impl Readable, Counters { revision, compacted }: Counters) -> Result<()> {
        let mut expected = revision;
        let mut newer: HashSet<Arc<str>> = HashSet::new();
        for guard in view.range(&self.log, (compacted + 1).to_be_bytes()..).rev().take(CHECKED) {
            let (key, value) = guard.into_inner().map_err(|error| self.failed(&error))?;
            let found = self.revision_of(&key)?;
            if found > revision {
                return Err(self.damaged(&format!("the log is ahead of its counter, which says {revision}")));
            }
            if found != expected {
                return Err(self.damaged(&format!("the record of revision {expected} is missing")));
            }
            let record = Record::decode(&value)
                .ok_or_else(|| self.damaged(&format!("the record of revision {found} is not readable")))?;
            if newer.insert(record.key.clone()) {
                let known = self.position(view, &record.key)?.map(|position| position.modified);
                if known != (!record.deleted).then_some(found) {
                    return Err(self
                        .damaged(&format!("the index has {} at {known:?}, the log at {found}", record.key)));
                }
            }
            expected -= 1;
        }
        if expected == revision && revision > compacted.max(BEGIN) {
            return Err(self.damaged(&format!("the record of revision {revision} is missing")));
        }
        Ok(())
    }

    /// Reads everything and checks that it fits together; what a restored or suspect store is put through.
    pub(super) fn verify(&self) -> Result<u64> {
        let view = self.database.snapshot();
        let counters = self.counters(&view)?;
        let mut entries = 0;
        for entry in self.entries(&view, "") {
            let entry = entry?;
            if entry.mod_revision > counters.revision || entry.create_revision > entry.mod_revision {
                return Err(self.damaged(&format!("{} has revisions that cannot be", entry.key)));
            }
            entries += 1;
        }
        let mut at = counters.compacted;
        while at < counters.revision {
            let until = counters.revision.min(at + CHECKED as u64);
            self.changes(&view, at, until)?;
            at = until;
        }
        Ok(entries)
    }
}
