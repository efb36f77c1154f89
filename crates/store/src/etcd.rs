//! The etcd engine: the store of several masters. Its revisions are etcd's revisions.
//!
//! A cluster keeps its keys below one prefix (see [`layout`]) and marks it with its uid. [`wire`] finds a member
//! that serves a call, [`watch`] outlives the loss of one, [`open`] refuses what is not this cluster's store.

mod layout;
mod lease;
mod members;
mod open;
mod proto;
mod restore;
mod watch;
mod wire;

pub use members::{EtcdMember, EtcdMembers};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::layout::Layout;
use self::lease::Leases;
use self::proto::{
    CompactionRequest, CompactionResponse, Compare, DefragmentRequest, DefragmentResponse,
    DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, Request, RequestOp, Response,
    Target, TargetValue, TxnRequest, TxnResponse,
};
use self::watch::Source;
use self::wire::{Kind, Wire, is_compacted, is_future, signed, unsigned};
use crate::{Entry, Error, Events, Expect, Health, Page, Range, Result, Revision, Store, check_write};

const RANGE_PATH: &str = "/etcdserverpb.KV/Range";
const TXN_PATH: &str = "/etcdserverpb.KV/Txn";
const PUT_PATH: &str = "/etcdserverpb.KV/Put";
const COMPACT_PATH: &str = "/etcdserverpb.KV/Compact";
const DEFRAGMENT_PATH: &str = "/etcdserverpb.Maintenance/Defragment";

/// How many entries are asked for at once; fewer when they turn out to be large.
const PAGE: usize = 1000;
/// How often a range of the present begins anew when compaction overtakes it.
const OVERTAKEN: usize = 3;

/// Where the etcd is, and whose keys these are.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// The members, as `https://HOST:PORT`; the first is asked first.
    pub endpoints: Vec<String>,
    /// How to prove who one is; `None` for members that speak plain HTTP.
    pub tls: Option<EtcdTls>,
    /// What every key begins with, such as `/my-cluster`: one segment of a path.
    pub prefix: String,
    /// What tells this cluster from every other one. All its masters give the same.
    pub owner: String,
    /// A file in which this machine remembers the etcd cluster that it used, so that a different one is noticed.
    pub memory: Option<PathBuf>,
}

/// The files of mutual TLS with etcd, in PEM.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// The authority that has signed the members' certificates.
    pub ca: PathBuf,
    /// The certificate that is shown to the members.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A store in etcd.
pub struct EtcdStore {
    source: Source,
    leases: Leases,
    engine: String,
    /// Who wants to know the revision; answered together by one task.
    asking: mpsc::Sender<oneshot::Sender<Result<Revision>>>,
    wanted: tokio::sync::watch::Sender<Revision>,
    tasks: Tasks,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("wire", &self.source.wire).finish_non_exhaustive()
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

impl EtcdStore {
    /// Connects to etcd, checks that it is of a version that this engine knows and that the prefix is this
    /// cluster's, and marks it when it is new.
    ///
    /// # Errors
    /// [`Error::Refused`] when the options, the version or the owner are wrong, [`Error::Unavailable`] when no
    /// member answers in time.
    pub async fn open(options: EtcdOptions, clock: SharedClock, random: Random) -> Result<Self> {
        let layout = Layout::new(&options.prefix)?;
        let tls = options.tls.as_ref().map(open::tls).transpose()?;
        let wire = Arc::new(Wire::new(&options.endpoints, tls, clock.clone(), random)?);
        let version = open::check(&wire, &layout, &options).await?;
        let (wanted, wants) = tokio::sync::watch::channel(wire.newest());
        let reports = version.reports_progress();
        let source = Source { wire: wire.clone(), layout, wanted: wants, reports };
        let tasks = Tasks::new(CancellationToken::new());
        let (asking, asked) = mpsc::channel(1024);
        tasks.spawn("etcd revision", answer_revisions(wire, source.layout.clone(), asked));
        let engine = format!("etcd {version}");
        Ok(Self { source, leases: Leases::new(clock), engine, asking, wanted, tasks })
    }

    fn wire(&self) -> &Wire {
        &self.source.wire
    }

    fn layout(&self) -> &Layout {
        &self.source.layout
    }

    /// Does `success` when `key` is as expected; returns the revision and what it did, or the conflict.
    async fn when(
        &self,
        key: &str,
        expect: Revision,
        success: Vec<RequestOp>,
    ) -> Result<(Revision, Vec<proto::ResponseOp>)> {
        let path = self.layout().path(key);
        let compare = Compare {
            target: Target::Mod as i32,
            key: path.clone(),
            value: Some(TargetValue::ModRevision(signed(expect))),
        };
        let look =
            RequestOp { request: Some(Request::Range(RangeRequest { key: path, ..Default::default() })) };
        let request = TxnRequest { compare: vec![compare], success, failure: vec![look] };
        let answer: TxnResponse = self.wire().call(Kind::Write, TXN_PATH, request).await?;
        if answer.succeeded {
            let revision = answer.header.map_or(0, |header| unsigned(header.revision));
            return Ok((revision, answer.responses));
        }
        let current = match first_range(answer.responses) {
            Some(kv) => self.layout().entry(&kv),
            None => None,
        };
        Err(Error::Conflict { key: key.to_owned(), current })
    }

    async fn write(&self, key: &str, value: Bytes, expect: Expect, lease: i64) -> Result<Entry> {
        check_write(key, &value)?;
        let path = self.layout().path(key);
        let put = Request::Put(PutRequest { key: path.clone(), value: value.clone(), lease });
        // What follows in a transaction sees what came before: this tells when the key was created.
        let look = Request::Range(RangeRequest { key: path, keys_only: true, ..Default::default() });
        let expect = match expect {
            Expect::Absent => 0,
            Expect::Revision(revision) => revision,
        };
        let success = [put, look].map(|request| RequestOp { request: Some(request) }).into();
        let (revision, responses) = self.when(key, expect, success).await?;
        let created = first_range(responses).map_or(revision, |kv| unsigned(kv.create_revision));
        Ok(Entry { key: Arc::from(key), value, create_revision: created, mod_revision: revision })
    }

    /// Puts the oldest revision that is still there into an error that says that another one is not.
    async fn explain(&self, error: Error, asked: Revision) -> Error {
        if is_compacted(&error) {
            let oldest = watch::oldest(&self.source, asked).await.unwrap_or(asked + 1);
            return Error::Compacted { asked, oldest };
        }
        if is_future(&error) {
            return Error::Future { asked, current: self.wire().newest() };
        }
        error
    }

    /// Reads the pages of a range until it is complete or has as many entries as were asked for.
    async fn pages(&self, range: &Range, page: &mut usize) -> Result<Page> {
        let (mut key, range_end) = self.layout().range(&range.prefix, range.after.as_deref());
        let mut revision = range.revision.unwrap_or(0);
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let most = if range.limit == 0 { usize::MAX } else { range.limit - entries.len() };
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: i64::try_from(most.min(*page)).unwrap_or(i64::MAX),
                revision: signed(revision),
                ..Default::default()
            };
            let answer: RangeResponse = self.wire().call(Kind::Read, RANGE_PATH, request).await?;
            if revision == 0 {
                revision = answer.header.as_ref().map_or(0, |header| unsigned(header.revision));
            }
            let found = answer.kvs.len();
            let last = answer.kvs.last().map(|kv| [&kv.key[..], b"\0"].concat());
            entries.extend(answer.kvs.iter().filter_map(|kv| self.layout().entry(kv)));
            let enough = range.limit != 0 && entries.len() >= range.limit;
            match last {
                Some(next) if answer.more && !enough => key = next,
                _ => {
                    let remaining =
                        usize::try_from(unsigned(answer.count)).unwrap_or(usize::MAX).saturating_sub(found);
                    return Ok(Page { entries, revision, remaining });
                }
            }
        }
    }
}

fn first_range(responses: Vec<proto::ResponseOp>) -> Option<KeyValue> {
    responses.into_iter().find_map(|response| match response.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    })
}

/// Answers everybody who asked before one read began with what this read said.
async fn answer_revisions(
    wire: Arc<Wire>,
    layout: Layout,
    mut asked: mpsc::Receiver<oneshot::Sender<Result<Revision>>>,
) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, 1024).await > 0 {
        let look = RangeRequest { key: layout.owner(), count_only: true, ..Default::default() };
        let answer = wire.call::<_, RangeResponse>(Kind::Read, RANGE_PATH, look).await;
        for one in waiting.drain(..) {
            let told = match &answer {
                Ok(answer) => Ok(answer.header.as_ref().map_or(0, |header| unsigned(header.revision))),
                Err(error) => Err(error.duplicate()),
            };
            // Whoever asked may have gone away.
            let _gone = one.send(told);
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision)> {
        let look = RangeRequest { key: self.layout().path(key), ..Default::default() };
        let answer: RangeResponse = self.wire().call(Kind::Read, RANGE_PATH, look).await?;
        let revision = answer.header.as_ref().map_or(0, |header| unsigned(header.revision));
        Ok((answer.kvs.first().and_then(|kv| self.layout().entry(kv)), revision))
    }

    async fn range(&self, range: Range) -> Result<Page> {
        let mut page = PAGE;
        let mut overtaken = 0;
        loop {
            match self.pages(&range, &mut page).await {
                Err(Error::Unavailable(text)) if text.contains("message length too large") && page > 16 => {
                    page /= 4;
                }
                Err(error) if is_compacted(&error) && range.revision.is_none() && overtaken < OVERTAKEN => {
                    overtaken += 1;
                }
                Err(error) => return Err(self.explain(error, range.revision.unwrap_or(0)).await),
                Ok(page) => return Ok(page),
            }
        }
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        self.write(key, value, expect, 0).await
    }

    async fn put_for(&self, key: &str, value: Bytes, expect: Expect, life: Duration) -> Result<Entry> {
        check_write(key, &value)?;
        let lease = self.leases.lasting(self.wire(), life).await?;
        self.write(key, value, expect, lease).await
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision> {
        let delete = Request::DeleteRange(DeleteRangeRequest { key: self.layout().path(key) });
        // A revision of 0 would mean that the key must not be there, and deleting it would succeed.
        if expect == 0 {
            return Err(Error::Conflict { key: key.to_owned(), current: self.get(key).await?.0 });
        }
        Ok(self.when(key, expect, vec![RequestOp { request: Some(delete) }]).await?.0)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events> {
        if after > self.wire().newest() {
            let current = self.revision().await?;
            if after > current {
                return Err(Error::Future { asked: after, current });
            }
        }
        // The first answer says whether `after` is still there, so that the caller hears of it here.
        if let Some(oldest) = self.forgotten(after).await? {
            return Err(Error::Compacted { asked: after, oldest });
        }
        Ok(watch::follow(self.source.clone(), prefix.to_owned(), after))
    }

    async fn revision(&self) -> Result<Revision> {
        let stopped = || Error::Unavailable("the store has stopped".into());
        let (answer, answered) = oneshot::channel();
        self.asking.send(answer).await.map_err(|_| stopped())?;
        let revision = answered.await.map_err(|_| stopped())??;
        self.wanted.send_if_modified(|wanted| {
            let more = revision > *wanted;
            *wanted = revision.max(*wanted);
            more
        });
        Ok(revision)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        if revision == 0 {
            return Ok(());
        }
        let request = CompactionRequest { revision: signed(revision), physical: false };
        match self.wire().call::<_, CompactionResponse>(Kind::Read, COMPACT_PATH, request).await {
            Ok(_) => Ok(()),
            // Another master was faster.
            Err(error) if is_compacted(&error) => Ok(()),
            Err(error) => Err(self.explain(error, revision).await),
        }
    }

    async fn defragment(&self) -> Result<()> {
        // One after the other: a member serves nobody while it does this.
        for member in 0..self.wire().len() {
            let _: DefragmentResponse =
                self.wire().ask(Kind::Upkeep, member, DEFRAGMENT_PATH, DefragmentRequest {}).await?;
        }
        Ok(())
    }

    async fn health(&self) -> Result<Health> {
        let revision = self.revision().await?;
        let (size, used, members) = open::members(self.wire()).await;
        Ok(Health { engine: self.engine.clone(), revision, size, used, members })
    }
}

impl EtcdStore {
    /// Returns the oldest revision when `after` lies before it.
    async fn forgotten(&self, after: Revision) -> Result<Option<Revision>> {
        let look = RangeRequest {
            key: self.layout().owner(),
            revision: signed(after.max(1)),
            count_only: true,
            ..Default::default()
        };
        match self.wire().call::<_, RangeResponse>(Kind::Read, RANGE_PATH, look).await {
            Ok(_) => Ok(None),
            Err(error) if is_compacted(&error) => {
                Ok(Some(watch::oldest(&self.source, after).await.unwrap_or(after + 1)))
            }
            Err(error) => Err(error),
        }
    }
}
