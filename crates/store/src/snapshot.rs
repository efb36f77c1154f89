//! Snapshots: everything under a prefix at one revision, in one file that says when it is not whole.
//!
//! The format is the same for every engine, so that a store can move from one to another with its revisions:
//! a line of magic, a header in JSON, the entries, and at the end their number and a SHA-256 of all before.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
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

/// Writes everything under `prefix` as it is now to `out`, while the store goes on being written to.
///
/// # Errors
/// When the store fails, or `out` does ([`Error::Unavailable`]). What was written by then is no snapshot.
pub async fn save(
    store: &dyn Store,
    prefix: &str,
    taken: jiff::Timestamp,
    out: &mut (dyn Write + Send),
) -> Result<Summary> {
    let mut writer = Writer { out, digest: Sha256::new() };
    let engine = store.health().await?.engine;
    let mut range = Range { prefix: prefix.into(), limit: PAGE, ..Range::default() };
    let mut header: Option<Header> = None;
    let (mut entries, mut bytes) = (0, 0);
    loop {
        let page = store.range(range.clone()).await?;
        if header.is_none() {
            let begun = Header {
                engine: engine.clone(),
                revision: page.revision,
                taken: taken.to_string(),
                prefix: prefix.into(),
            };
            writer.put(MAGIC)?;
            writer
                .sized(&serde_json::to_vec(&begun).map_err(|error| Error::Unavailable(error.to_string()))?)?;
            header = Some(begun);
        }
        for entry in &page.entries {
            writer.put(&[ENTRY])?;
            writer.put(&entry.create_revision.to_be_bytes())?;
            writer.put(&entry.mod_revision.to_be_bytes())?;
            writer.sized(entry.key.as_bytes())?;
            writer.sized(&entry.value)?;
            entries += 1;
            bytes += (entry.key.len() + entry.value.len()) as u64;
        }
        range.revision = Some(page.revision);
        match page.entries.last() {
            Some(last) if page.remaining > 0 => range.after = Some(last.key.to_string()),
            _ => break,
        }
    }
    writer.put(&[END])?;
    writer.put(&u64::to_be_bytes(entries))?;
    let checksum = writer.digest.clone().finalize();
    writer.put(&checksum)?;
    writer.out.flush().map_err(|error| cannot_write(&error))?;
    let header = header.ok_or_else(|| Error::Unavailable("the store gave no first page".into()))?;
    Ok(Summary { header, entries, bytes, checksum: hex(&checksum) })
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

fn cannot_write(error: &std::io::Error) -> Error {
    Error::Unavailable(format!("writing the snapshot: {error}"))
}

fn cannot_read(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Damaged("the snapshot ends too early".into()),
        _ => Error::Unavailable(format!("reading the snapshot: {error}")),
    }
}

struct Writer<'a> {
    out: &'a mut (dyn Write + Send),
    digest: Sha256,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes).map_err(|error| cannot_write(&error))
    }

    fn sized(&mut self, bytes: &[u8]) -> Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put(&length.to_be_bytes())?;
        self.put(bytes)
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
    use proptest::prelude::*;

    use super::*;
    use crate::{Expect, MemoryStore};

    async fn saved() -> (Vec<u8>, Summary) {
        let store = MemoryStore::new();
        for number in 0..1200 {
            let key = format!("/registry/{number:04}");
            store.put(&key, Bytes::from(format!("value {number}")), Expect::Absent).await.unwrap();
        }
        store.put("/elsewhere", Bytes::from("x"), Expect::Absent).await.unwrap();
        let mut file = Vec::new();
        let summary = save(&store, "/registry/", jiff::Timestamp::UNIX_EPOCH, &mut file).await.unwrap();
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
