//! A snapshot in a new etcd, with the revisions that everything had. etcd gives out revisions itself, one for
//! each write: the writes are made in the order of their revisions, and writes of the mark fill the gaps.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::proto::{PutRequest, PutResponse};
use super::wire::Kind;
use super::{EtcdStore, PUT_PATH};
use crate::snapshot::{self, Summary};
use crate::{Error, Result, Revision, Store};

/// How many writes of the mark are under way at once: etcd syncs them together.
const TOGETHER: usize = 128;

impl EtcdStore {
    /// Writes the snapshot that `input` has into this store, where nothing may be yet. Nobody else may write to
    /// this etcd meanwhile.
    ///
    /// # Errors
    /// [`Error::Refused`] when there are keys already, or etcd is beyond the snapshot's first revision, or
    /// somebody else writes. What was written by then is no store: begin again with an empty etcd.
    pub async fn restore(&self, input: &mut (dyn Read + Send)) -> Result<Summary> {
        // The key and its value at each revision; a key that was changed since it was created is there twice.
        let mut steps: BTreeMap<Revision, (String, Bytes)> = BTreeMap::new();
        let summary = snapshot::read(input, |_, entry| {
            let key = entry.key.to_string();
            if entry.create_revision != entry.mod_revision {
                steps.insert(entry.create_revision, (key.clone(), Bytes::new()));
            }
            match steps.insert(entry.mod_revision, (key, entry.value)) {
                None => Ok(()),
                Some((other, _)) => Err(Error::Refused(format!(
                    "{} and {other} have the same revision, which only one write can have here",
                    entry.key
                ))),
            }
        })?;
        let page = self.range(crate::Range { prefix: "/".into(), limit: 1, ..Default::default() }).await?;
        if !page.entries.is_empty() {
            return Err(Error::Refused("there are keys in this etcd prefix; restore to an empty one".into()));
        }
        let first = steps.keys().next().copied().unwrap_or(summary.header.revision);
        if page.revision >= first {
            return Err(Error::Refused(format!(
                "this etcd is at revision {} already, and the snapshot begins at {first}; restore to a new etcd",
                page.revision
            )));
        }
        let mut at = page.revision;
        for (revision, (key, value)) in steps {
            self.fill(&mut at, revision - 1).await?;
            let path = self.layout().path(&key);
            self.step(path, value).await?;
            at += 1;
            self.expect(at).await?;
        }
        self.fill(&mut at, summary.header.revision).await?;
        self.expect(at).await?;
        self.compact(at).await?;
        Ok(summary)
    }

    /// Counts up to `until`.
    async fn fill(&self, at: &mut Revision, until: Revision) -> Result<()> {
        let marks = (*at..until).map(|_| self.step(self.layout().mark(), Bytes::new()));
        stream::iter(marks).buffer_unordered(TOGETHER).try_collect::<Vec<()>>().await?;
        *at = until.max(*at);
        Ok(())
    }

    async fn step(&self, key: Vec<u8>, value: Bytes) -> Result<()> {
        let put = PutRequest { key, value, lease: 0 };
        let _: PutResponse = self.wire().call(Kind::Write, PUT_PATH, put).await?;
        Ok(())
    }

    /// Makes sure that nobody else has counted.
    async fn expect(&self, at: Revision) -> Result<()> {
        let newest = self.wire().newest();
        if newest == at {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "etcd is at revision {newest} instead of {at}: somebody else writes to it; begin again with an empty etcd"
        )))
    }
}
