//! Snapshots: everything under a prefix at one revision, in one file that says when it is not whole.
//!
//! The format is the same for every engine, so that a store can move from one to another with its revisions:
//! a line of magic, a header in JSON, the entries, and at the end their number and a SHA-256 of all before.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Entry, Error, Range, Result, Revision, Store};

const MAGIC: &[u8] = b"cluster store snapshot 1\n";
/// How many entries are read from the store at once.
const PAGE: usize = 500;
/// Before each entry, and before the end.
const ENTRY: u8 = 1;
const END: u8 = 0;
/// No header, key or value is longer; a length beyond is damage.
const LONGEST: u32 = 16 << 20;

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The engine that it was taken from, with its version.
    pub engine: String,
    /// The revision at which everything is as it is in here.
    pub revision: Revision,
    /// When it was taken, in RFC 3339.
    pub taken: String,
    /// What every key begins with.
    pub prefix: String,
}

/// What is in a snapshot that was read to its end and found whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What it says of itself.
    pub header: Header,
    /// How many entries there are.
    pub entries: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// The SHA-256 that it ends with, in hexadecimal.
    pub checksum: String,
}

/// Returns everything under `prefix` as it is now as the blocks of a snapshot, while the store goes on being written
/// to. A snapshot that ends with an error, or before the stream does, is none, and is found not to be.
pub fn stream(
    store: Arc<dyn Store>,
    prefix: &str,
    taken: jiff::Timestamp,
) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    let range = Range { prefix: prefix.into(), limit: PAGE, ..Range::default() };
    let begin = Saving { store, taken, range, digest: Sha256::new(), entries: 0 };
    stream::try_unfold(Some(begin), async |saving| match saving {
        None => Ok(None),
        Some(saving) => saving.block().await.map(Some),
    })
}

/// A snapshot that is being taken.
struct Saving {
    store: Arc<dyn Store>,
    taken: jiff::Timestamp,
    /// What comes next; its revision is set once the first page is there.
    range: Range,
    digest: Sha256,
    entries: u64,
}

impl Saving {
    /// Returns the next block, and what goes on after it.
    async fn block(mut self) -> Result<(Bytes, Option<Self>)> {
        let page = self.store.range(self.range.clone()).await?;
        let mut block = Vec::new();
        if self.range.revision.is_none() {
            let header = Header {
                engine: self.store.health().await?.engine,
                revision: page.revision,
                taken: self.taken.to_string(),
                prefix: self.range.prefix.clone(),
            };
            let header =
                serde_json::to_vec(&header).map_err(|error| Error::Unavailable(error.to_string()))?;
            block.extend_from_slice(MAGIC);
            sized(&mut block, &header);
        }
        for entry in &page.entries {
            block.push(ENTRY);
            block.extend_from_slice(&entry.create_revision.to_be_bytes());
            block.extend_from_slice(&entry.mod_revision.to_be_bytes());
            sized(&mut block, entry.key.as_bytes());
            sized(&mut block, &entry.value);
            self.entries += 1;
        }
        self.range.revision = Some(page.revision);
        let more = page.entries.last().filter(|_| page.remaining > 0);
        self.range.after = more.map(|last| last.key.to_string());
        if more.is_some() {
            self.digest.update(&block);
            return Ok((block.into(), Some(self)));
        }
        block.push(END);
        block.extend_from_slice(&self.entries.to_be_bytes());
        self.digest.update(&block);
        block.extend_from_slice(&self.digest.finalize());
        Ok((block.into(), None))
    }
}

/// Appends the length of `bytes`, and `bytes`. No store takes what is longer than a length can say.
fn sized(block: &mut Vec<u8>, bytes: &[u8]) {
    block.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    block.extend_from_slice(bytes);
}

/// Reads a snapshot to its end and hands each entry to `each`.
///
/// # Errors
/// [`Error::Damaged`] when it is not a snapshot, not whole, or not as it was written. `each` may have been called
/// by then: restore to where nothing is yet, or [`inspect`] first.
pub fn read(input: &mut dyn Read, mut each: impl FnMut(&Header, Entry) -> Result<()>) -> Result<Summary> {
    let mut reader = Reader { input, digest: Sha256::new() };
    let mut magic = [0; MAGIC.len()];
    reader.fill(&mut magic)?;
    if magic != MAGIC {
        return Err(Error::Damaged("this is not a snapshot of a store, or one of another version".into()));
    }
    let header: Header = serde_json::from_slice(&reader.sized()?)
        .map_err(|error| Error::Damaged(format!("the snapshot's header is not readable: {error}")))?;
    let (mut entries, mut bytes) = (0, 0);
    let mut last: Option<Arc<str>> = None;
    loop {
        match reader.byte()? {
            ENTRY => {}
            END => break,
            _ => return Err(Error::Damaged(format!("the snapshot is damaged after {entries} entries"))),
        }
        let (create_revision, mod_revision) = (reader.number()?, reader.number()?);
        let key = String::from_utf8(reader.sized()?)
            .map_err(|_| Error::Damaged(format!("the key after {entries} entries is not text")))?;
        let entry =
            Entry { key: key.into(), value: Bytes::from(reader.sized()?), create_revision, mod_revision };
        let sound = entry.key.starts_with(&header.prefix)
            && last.as_ref().is_none_or(|last| *last < entry.key)
            && (1..=mod_revision).contains(&create_revision)
            && mod_revision <= header.revision;
        if !sound {
            return Err(Error::Damaged(format!("the snapshot's entry {} cannot be", entry.key)));
        }
        entries += 1;
        bytes += (entry.key.len() + entry.value.len()) as u64;
        last = Some(entry.key.clone());
        each(&header, entry)?;
    }
    let count = reader.number()?;
    let computed = reader.digest.clone().finalize();
    let mut written = [0; 32];
    reader.fill(&mut written)?;
    if count != entries || computed[..] != written {
        return Err(Error::Damaged(
            "the snapshot's checksum does not fit: it was changed after it was saved".into(),
        ));
    }
    if reader.input.read(&mut [0]).map_err(|error| cannot_read(&error))? != 0 {
        return Err(Error::Damaged("there is more behind the snapshot's end".into()));
    }
    Ok(Summary { header, entries, bytes, checksum: hex(&written) })
}

/// Reads a snapshot to its end and says what is in it.
///
/// # Errors
/// [`Error::Damaged`] when it is not whole.
pub fn inspect(input: &mut dyn Read) -> Result<Summary> {
    read(input, |_, _| Ok(()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cannot_read(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Damaged("the snapshot ends too early".into()),
        _ => Error::Unavailable(format!("reading the snapshot: {error}")),
    }
}

struct Reader<'a> {
    input: &'a mut dyn Read,
    digest: Sha256,
}

impl Reader<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(|error| cannot_read(&error))?;
        self.digest.update(&*bytes);
        Ok(())
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.fill(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn sized(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > LONGEST {
            return Err(Error::Damaged("the snapshot is damaged: a length in it cannot be".into()));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{Expect, MemoryStore};

    async fn saved() -> (Vec<u8>, Summary) {
        let store = Arc::new(MemoryStore::new());
        for number in 0..1200 {
            let key = format!("/registry/{number:04}");
            store.put(&key, Bytes::from(format!("value {number}")), Expect::Absent).await.unwrap();
        }
        store.put("/elsewhere", Bytes::from("x"), Expect::Absent).await.unwrap();
        let blocks = stream(store, "/registry/", jiff::Timestamp::UNIX_EPOCH);
        let blocks: Vec<Bytes> = blocks.try_collect().await.unwrap();
        assert_eq!(blocks.len(), 3, "of {PAGE} entries each");
        let file = blocks.concat();
        let summary = inspect(&mut &*file).unwrap();
        (file, summary)
    }

    #[tokio::test]
    async fn a_snapshot_has_everything_under_its_prefix() {
        let (file, summary) = saved().await;
        let mut keys = Vec::new();
        let read = read(&mut &*file, |_, entry| {
            keys.push(entry.key.to_string());
            Ok(())
        });
        assert_eq!(read.unwrap(), summary);
        assert_eq!((summary.entries, summary.header.revision), (1200, 1201));
        assert_eq!(keys, (0..1200).map(|number| format!("/registry/{number:04}")).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn every_change_of_a_byte_and_every_cut_is_found() {
        let (file, _) = saved().await;
        for at in (0..file.len()).step_by(97).chain(file.len() - 60..file.len()) {
            let mut bad = file.clone();
            bad[at] ^= 0x10;
            assert!(matches!(inspect(&mut &*bad), Err(Error::Damaged(_))), "byte {at}");
            assert!(matches!(inspect(&mut &file[..at]), Err(Error::Damaged(_))), "cut at {at}");
        }
        assert!(inspect(&mut [&file[..], b"x"].concat().as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(tail: Vec<u8>) {
            let _refused = inspect(&mut &*tail);
            let _refused = inspect(&mut &*[MAGIC, &tail].concat());
            let header = br#"{"engine":"","revision":9,"taken":"","prefix":"/"}"#;
            let length = u32::try_from(header.len()).unwrap().to_be_bytes();
            let _refused = inspect(&mut &*[MAGIC, &length, header, &tail].concat());
        }
    }
}
