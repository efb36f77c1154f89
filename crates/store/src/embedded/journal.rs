//! The end of the database library's journal after a machine crash. The last batch was cut off, or some of its pages
//! reached the disk and others did not: nobody was told that it is stored, and it goes. The library itself refuses to
//! open then, or drops what comes after damage in the middle without a word, so this looks first.
//!
//! Each batch is synced before the next is written (see [`super::committer`]): a whole batch behind a broken one
//! means that the disk has lost what was acknowledged, and nothing is touched.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

/// What a batch begins with: the tag, how many items there are (4), the sequence number (8). Integers are
/// little-endian.
const START: u8 = 1;
/// The tag, the kind of value, the compression, the keyspace (8), the length of the key (2), of the value (4), and of
/// the value as it stands here (4); then both.
const ITEM: u8 = 2;
/// The tag, the checksum of the items (8), the magic.
const END: u8 = 3;
/// The tag and the keyspace (8).
const CLEAR: u8 = 4;
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const MAGIC: &[u8] = b"FJL\x03";

/// How the journal that is written to ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With the last batch, and perhaps zeros that wait to be written over.
    Whole,
    /// With a part of one batch, from this byte on.
    Torn(u64),
    /// With batches behind what is none, at this byte.
    Damaged(u64),
}

/// Holds the library's lock of a directory while the journals in it are touched and the database is closed.
///
/// # Errors
/// `WouldBlock` when another process has the database open.
pub(super) fn lock(directory: &Path) -> std::io::Result<Option<File>> {
    match File::options().read(true).write(true).open(directory.join("lock")) {
        Ok(file) => {
            file.try_lock()?;
            Ok(Some(file))
        }
        // There is no database yet.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Cuts the torn end off, if there is one.
///
/// # Errors
/// The byte at which the journal is damaged, or why it cannot be read or written.
pub(super) fn mend(directory: &Path) -> std::io::Result<Result<(), (PathBuf, u64)>> {
    let _lock = lock(directory)?;
    // The others were synced as a whole before the next one was begun.
    let Some(path) = journals(directory)?.pop() else { return Ok(Ok(())) };
    match ending(&mut BufReader::with_capacity(64 << 10, File::open(&path)?))? {
        Ending::Whole => Ok(Ok(())),
        Ending::Torn(at) => {
            tracing::warn!(journal = %path.display(), at,
                "the machine went down in the middle of a write that was not acknowledged; what there is of it goes");
            let file = File::options().write(true).open(&path)?;
            file.set_len(at)?;
            file.sync_all()?;
            Ok(Ok(()))
        }
        Ending::Damaged(at) => Ok(Err((path, at))),
    }
}

/// Returns the journals, oldest first.
pub(super) fn journals(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Empties the journals. Only where everything in them is in synced tables, and the database is closed.
///
/// One stays, as the library counts on from the tables' sequence numbers only if there is a journal.
pub(super) fn clear(directory: &Path) -> std::io::Result<()> {
    let _lock = lock(directory)?;
    let mut journals = journals(directory)?;
    let Some(last) = journals.pop() else { return Ok(()) };
    for path in journals {
        std::fs::remove_file(path)?;
    }
    let file = File::options().write(true).open(last)?;
    file.set_len(0)?;
    file.sync_all()?;
    File::open(directory)?.sync_all()
}

/// Returns the bytes that the journals take on the disk: their unused ends take none.
pub(super) fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let sizes = journals(directory).unwrap_or_default().into_iter().filter_map(|path| path.metadata().ok());
    sizes.map(|meta| meta.blocks() * 512).sum()
}

/// Says how a journal ends.
fn ending(journal: &mut (impl Read + Seek)) -> std::io::Result<Ending> {
    let mut scratch = Vec::new();
    let mut at = 0;
    while let Some(length) = batch(journal, &mut scratch)? {
        at += length;
    }
    // Nearly always there is nothing more, or nothing but zeros.
    journal.seek(SeekFrom::Start(at))?;
    let tail = data(journal)?;
    if tail.is_empty() {
        return Ok(Ending::Whole);
    }
    for (place, byte) in tail.iter().enumerate().skip(1) {
        if *byte == START && batch(&mut &tail[place..], &mut scratch)?.is_some() {
            return Ok(Ending::Damaged(at));
        }
    }
    Ok(Ending::Torn(at))
}

/// Reads all that is left up to the zeros at the end.
fn data(input: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let (mut found, mut zeros) = (Vec::new(), 0);
    let (mut block, nothing) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = input.read(&mut block)?;
        let Some(block) = block.get(..read).filter(|block| !block.is_empty()) else { return Ok(found) };
        // There are 64 MB of them; a comparison of blocks takes next to nothing.
        if *block == nothing[..read] {
            zeros += read;
            continue;
        }
        match block.iter().rposition(|byte| *byte != 0) {
            None => zeros += read,
            Some(last) => {
                found.resize(found.len() + zeros, 0);
                found.extend_from_slice(&block[..=last]);
                zeros = read - last - 1;
            }
        }
    }
}

/// Reads a batch and returns its length; `None` where there is no whole one.
fn batch(input: &mut impl Read, scratch: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
    match read_batch(input, scratch) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        outcome => outcome,
    }
}

fn read_batch(input: &mut impl Read, scratch: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
    let mut start = [0; START_BYTES];
    input.read_exact(&mut start)?;
    let [START, a, b, c, d, ..] = start else { return Ok(None) };
    let mut length = START_BYTES as u64;
    let mut checksum = Xxh3::new();
    for _ in 0..u32::from_le_bytes([a, b, c, d]) {
        let mut item = [0; ITEM_BYTES];
        input.read_exact(&mut item[..CLEAR_BYTES])?;
        let head = match item[0] {
            ITEM => ITEM_BYTES,
            CLEAR => CLEAR_BYTES,
            _ => return Ok(None),
        };
        input.read_exact(&mut item[CLEAR_BYTES..head])?;
        checksum.update(&item[..head]);
        length += head as u64;
        if head == ITEM_BYTES {
            let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = item;
            let rest =
                u64::from(u16::from_le_bytes([k0, k1])) + u64::from(u32::from_le_bytes([v0, v1, v2, v3]));
            // Grows with what is there, not with what a broken length says.
            scratch.clear();
            if input.by_ref().take(rest).read_to_end(scratch)? as u64 != rest {
                return Ok(None);
            }
            checksum.update(scratch);
            length += rest;
        }
    }
    let mut end = [0; 9 + MAGIC.len()];
    input.read_exact(&mut end)?;
    let whole = end[0] == END && end[1..9] == checksum.digest().to_le_bytes() && end[9..] == *MAGIC;
    Ok(whole.then_some(length + end.len() as u64))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use fjall::{KeyspaceCreateOptions, PersistMode};
    use proptest::prelude::*;

    use super::*;

    fn content(path: &Path) -> Vec<u8> {
        data(&mut File::open(path).unwrap()).unwrap()
    }

    fn ending(bytes: &[u8]) -> Ending {
        super::ending(&mut Cursor::new(bytes)).unwrap()
    }

    /// A journal that the library has written, and where its batches end.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let directory = tempfile::tempdir().unwrap();
        let database = fjall::Database::builder(directory.path()).open().unwrap();
        let keyspace = database.keyspace("k", KeyspaceCreateOptions::default).unwrap();
        let mut ends = vec![0];
        for number in 0..12_usize {
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            for item in 0..=number % 5 {
                batch.insert(
                    &keyspace,
                    format!("key {item}"),
                    vec![u8::try_from(number).unwrap(); number * 11],
                );
            }
            batch.remove(&keyspace, "key 0");
            batch.commit().unwrap();
            let path = journals(directory.path()).unwrap().pop().unwrap();
            ends.push(content(&path).len());
        }
        let path = journals(directory.path()).unwrap().pop().unwrap();
        (content(&path), ends)
    }

    #[test]
    fn what_the_library_writes_is_read() {
        let (bytes, ends) = written();
        assert_eq!(ending(&bytes), Ending::Whole);
        let mut at = 0;
        for end in &ends[1..] {
            assert_eq!(batch(&mut &bytes[at..], &mut Vec::new()).unwrap(), Some((end - at) as u64));
            at = *end;
        }
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn a_cut_anywhere_is_torn_at_the_batch_that_it_cuts() {
        let (bytes, ends) = written();
        for cut in 0..bytes.len() {
            let whole = ends[ends.partition_point(|end| *end <= cut) - 1];
            let expected = if whole == cut { Ending::Whole } else { Ending::Torn(whole as u64) };
            assert_eq!(ending(&bytes[..cut]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn pages_of_the_last_batch_that_are_missing_tear_it_and_damage_before_it_is_damage() {
        let (bytes, ends) = written();
        let last = ends[ends.len() - 2];
        for at in (last..bytes.len() - 1).step_by(13) {
            let mut torn = bytes.clone();
            let until = (at + 64).min(bytes.len() - 1);
            torn[at..until].fill(0);
            assert_eq!(
                ending(&torn),
                if torn == bytes { Ending::Whole } else { Ending::Torn(last as u64) },
                "at {at}"
            );
        }
        for at in (0..last).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let first = ends[ends.partition_point(|end| *end <= at) - 1];
            // The sequence number of a batch has no checksum in this format.
            let unseen = (5..START_BYTES).contains(&(at - first));
            let expected = if unseen { Ending::Whole } else { Ending::Damaged(first as u64) };
            assert_eq!(ending(&damaged), expected, "at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes: Vec<u8>, items: u32) {
            let _ending = ending(&bytes);
            let head = [&[START][..], &items.to_le_bytes(), &[0; 8]].concat();
            bytes.splice(0..0, head);
            let _ending = ending(&bytes);
        }
    }
}
