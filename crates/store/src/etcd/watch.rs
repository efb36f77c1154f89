//! A watch that outlives connections: it resumes at another member behind the last change that it passed on.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use http::uri::PathAndQuery;
use machinery::retry::Backoff;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic_prost::ProstCodec;

use super::PUT_PATH;
use super::layout::Layout;
use super::proto::{
    PutRequest, PutResponse, WatchCreateRequest, WatchEvent, WatchKind, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use super::wire::{Kind, Wire, signed, unsigned, with_leader};
use crate::{Batch, Change, Entry, Error, Event, Events, Result, Revision};

const WATCH_PATH: &str = "/etcdserverpb.Watch/Watch";
/// How long changes may be on their way before etcd is asked whether there are any.
const ON_THE_WAY: Duration = Duration::from_millis(20);
/// The largest part of a watch's answer; etcd cuts at 1.5 MB when it may.
const ANSWER_BYTES: usize = 64 << 20;
/// etcd opens a stream at once; a member that does not is of no use.
const OPENING: Duration = Duration::from_secs(3);

/// What a watch needs of its store.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) wire: Arc<Wire>,
    pub(super) layout: Layout,
    /// The highest revision that somebody wants the watches to reach.
    pub(super) wanted: watch::Receiver<Revision>,
    /// Whether etcd's progress reports can be believed (see [`super::open`]).
    pub(super) reports: bool,
}

/// Streams the changes under `prefix` after the revision `after`.
pub(super) fn follow(source: Source, prefix: String, after: Revision) -> Events {
    let follower =
        Follower { source, prefix, seen: after, open: None, failures: 0, parts: Vec::new(), ended: false };
    Box::pin(stream::unfold(follower, |mut follower| async {
        let item = follower.next().await?;
        Some((item, follower))
    }))
}

/// Returns the oldest revision that etcd still has, when it has forgotten `asked`.
pub(super) async fn oldest(source: &Source, asked: Revision) -> Option<Revision> {
    let mut follower = Follower {
        // Nobody waits for how far this one is.
        source: Source { wanted: watch::channel(0).1, ..source.clone() },
        prefix: "/".into(),
        seen: asked,
        open: None,
        failures: 0,
        parts: Vec::new(),
        ended: false,
    };
    let clock = source.wire.clock.clone();
    tokio::select! {
        item = follower.next() => match item {
            Some(Err(Error::Compacted { oldest, .. })) => Some(oldest),
            _ => None,
        },
        () = clock.after(OPENING) => None,
    }
}

struct Follower {
    source: Source,
    prefix: String,
    /// Every change up to here was passed on.
    seen: Revision,
    open: Option<Open>,
    failures: u32,
    /// The parts of an answer that etcd has cut.
    parts: Vec<WatchEvent>,
    ended: bool,
}

struct Open {
    member: usize,
    answers: Streaming<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
    created: bool,
}

/// What made a follower look up.
enum Woken {
    Answer(Result<Option<WatchResponse>, tonic::Status>),
    Behind,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Batch>> {
        if self.ended {
            return None;
        }
        loop {
            if self.open.is_none() {
                self.reopen().await;
            }
            let Some(open) = &mut self.open else { continue };
            let woken = tokio::select! {
                biased;
                answer = open.answers.message() => Woken::Answer(answer),
                () = behind(&mut self.source.wanted, self.seen, &self.source.wire) => Woken::Behind,
            };
            let member = open.member;
            match woken {
                Woken::Answer(Ok(Some(answer))) => match self.take(member, answer) {
                    Ok(Some(batch)) => {
                        self.failures = 0;
                        self.seen = batch.revision;
                        return Some(Ok(batch));
                    }
                    Ok(None) => {}
                    Err(Stop::Resume(why)) => self.lost(member, &why),
                    Err(Stop::End(error)) => {
                        self.ended = true;
                        return Some(Err(error));
                    }
                },
                Woken::Answer(Ok(None)) => self.lost(member, "the member ended the watch"),
                Woken::Answer(Err(status)) => self.lost(member, status.message()),
                Woken::Behind => self.ask_for_progress().await,
            }
        }
    }

    fn lost(&mut self, member: usize, why: &str) {
        let endpoint = self.source.wire.endpoint(member);
        tracing::info!(endpoint, why, seen = self.seen, "the watch of etcd is resumed");
        self.open = None;
        self.parts.clear();
        self.source.wire.leave(member);
    }

    /// Opens the stream at some member; waits a little after each failure.
    async fn reopen(&mut self) {
        let wire = self.source.wire.clone();
        if self.failures > 0 {
            wire.clock.after(Backoff::QUICK.delay(self.failures - 1, &wire.random)).await;
        }
        self.failures = self.failures.saturating_add(1);
        let (member, channel) = wire.current();
        let (requests, outgoing) = mpsc::channel(4);
        let (key, range_end) = self.source.layout.everything();
        let create = WatchCreateRequest {
            key,
            range_end,
            // One revision early, so that etcd itself says when anything after `seen` may be forgotten: it
            // accepts the very revision of a compaction, but the deletion that happened at it may be gone.
            start_revision: signed(self.seen.max(1)),
            progress_notify: self.source.reports,
            prev_kv: true,
            fragment: true,
        };
        let request = WatchRequest { kind: Some(WatchKind::Create(create)) };
        if requests.try_send(request).is_err() {
            return;
        }
        let opening = async {
            let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES);
            grpc.ready().await.map_err(|error| error.to_string())?;
            grpc.streaming(
                with_leader(ReceiverStream::new(outgoing)),
                PathAndQuery::from_static(WATCH_PATH),
                ProstCodec::<WatchRequest, WatchResponse>::default(),
            )
            .await
            .map_err(|status| status.message().to_owned())
        };
        let opened = tokio::select! {
            opened = opening => opened,
            () = wire.clock.after(OPENING) => Err(format!("no stream within {OPENING:?}")),
        };
        match opened {
            Ok(answers) => {
                let answers = answers.into_inner();
                self.open = Some(Open { member, answers, requests, created: false });
            }
            Err(why) => self.lost(member, &why),
        }
    }

    /// Makes a batch of an answer; `None` when there is nothing to pass on yet.
    fn take(&mut self, member: usize, answer: WatchResponse) -> Result<Option<Batch>, Stop> {
        self.source.wire.check(member, answer.header.as_ref()).map_err(Stop::End)?;
        if answer.canceled {
            let oldest = unsigned(answer.compact_revision);
            return Err(if oldest > 0 {
                Stop::End(Error::Compacted { asked: self.seen, oldest })
            } else {
                Stop::Resume(answer.cancel_reason)
            });
        }
        if answer.created {
            if let Some(open) = &mut self.open {
                open.created = true;
            }
            return Ok(None);
        }
        let report = answer.events.is_empty() && self.parts.is_empty();
        self.parts.extend(answer.events);
        if answer.fragment {
            return Ok(None);
        }
        if report {
            let revision = unsigned(answer.header.map_or(0, |header| header.revision));
            let news = self.source.reports && revision > self.seen;
            return Ok(news.then_some(Batch { events: Vec::new(), revision }));
        }
        let parts = std::mem::take(&mut self.parts);
        let mut revision = self.seen;
        let mut events = Vec::with_capacity(parts.len());
        for part in parts {
            let Some(kv) = part.kv else { continue };
            let at = unsigned(kv.mod_revision);
            if at <= self.seen {
                continue;
            }
            revision = revision.max(at);
            let Some(entry) = self.source.layout.entry(&kv) else { continue };
            if !entry.key.starts_with(&self.prefix) {
                continue;
            }
            let previous = part.previous.as_ref().and_then(|kv| self.source.layout.entry(kv));
            events.push(Event { revision: at, change: self.change(part.kind, entry, previous)? });
        }
        Ok((revision > self.seen).then_some(Batch { events, revision }))
    }

    fn change(&self, kind: i32, entry: Entry, previous: Option<Entry>) -> Result<Change, Stop> {
        // Compaction may have been faster than this watch and have taken what was there before.
        let overtaken = || Stop::End(Error::Compacted { asked: self.seen, oldest: entry.mod_revision });
        match (kind, previous) {
            (1, Some(previous)) => Ok(Change::Delete { previous }),
            (1, None) => Err(overtaken()),
            (_, None) if entry.create_revision != entry.mod_revision => Err(overtaken()),
            (_, previous) => Ok(Change::Put { entry, previous }),
        }
    }

    /// Makes etcd say how far this watch is.
    async fn ask_for_progress(&mut self) {
        if self.source.reports {
            let Some(open) = &self.open else { return };
            if open.created {
                let report = WatchRequest { kind: Some(WatchKind::Progress(WatchProgressRequest {})) };
                // A full queue means that enough is asked already.
                drop(open.requests.try_send(report));
            }
            return;
        }
        // A write that the watch is going to see: everything before it has been seen by then.
        let mark = PutRequest { key: self.source.layout.mark(), value: bytes::Bytes::new(), lease: 0 };
        let written = self.source.wire.call::<_, PutResponse>(Kind::Read, PUT_PATH, mark).await;
        if let Err(error) = written {
            tracing::debug!(%error, "writing the mark that a watch waits for");
        }
    }
}

/// How an answer ends a watch.
enum Stop {
    /// Go on at another member.
    Resume(String),
    /// The watcher has to begin anew.
    End(Error),
}

/// Completes when `seen` has been behind what somebody wants for longer than changes are on their way.
async fn behind(wanted: &mut watch::Receiver<Revision>, seen: Revision, wire: &Wire) {
    if wanted.wait_for(|wanted| *wanted > seen).await.is_err() {
        // The store is gone, but whoever holds the stream may go on reading it.
        return std::future::pending().await;
    }
    wire.clock.after(ON_THE_WAY).await;
}
