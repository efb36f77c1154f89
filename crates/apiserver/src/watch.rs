//! The stream of a watch: which events a client sees, as which type, and in which bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use futures::future::BoxFuture;
use machinery::clock::SharedClock;
use serde_json::{Value, json};

use crate::body::BodyError;
use crate::cache::{Event, Forgotten, Object, Watcher};
use crate::negotiate::Format;

pub(crate) mod socket;

/// How often a client that asked for bookmarks is told how far it is.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How many events are taken at a time; between two batches other tasks get their turn.
const BATCH: usize = 256;
/// The annotation on the bookmark that ends the initial state of a streamed list.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// What an event is to this watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Added,
    Modified,
    Deleted,
}

impl Type {
    /// Where an event keeps the frame of this type and format.
    fn slot(self, format: Format) -> usize {
        self as usize + if format == Format::Protobuf { 3 } else { 0 }
    }

    fn head(self) -> &'static [u8] {
        match self {
            Self::Added => br#"{"type":"ADDED","object":"#,
            Self::Modified => br#"{"type":"MODIFIED","object":"#,
            Self::Deleted => br#"{"type":"DELETED","object":"#,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Whether an object is in what the client selected.
pub(crate) type Select = Box<dyn Fn(&Object) -> bool + Send + Sync>;

/// Makes what is shown of an object; the flag is true for the first one.
pub(crate) type Make = Box<dyn Fn(&Value, bool) -> Value + Send + Sync>;

/// Brings an event into the version that the client asked for.
pub(crate) type Convert =
    Box<dyn Fn(Arc<Event>) -> BoxFuture<'static, Result<Arc<Event>, Status>> + Send + Sync>;

/// What the objects of a watch are shown as.
pub(crate) enum Encoding {
    /// Objects as the cache holds them: the bytes of each event are shared by all watchers of a format.
    Shared,
    /// Something else, made for this watcher; `first` is true until an object was encoded.
    Made(Make),
}

/// What a client asked for.
pub(crate) struct Watch {
    pub(crate) watcher: Watcher,
    /// What is there already, to be sent first.
    pub(crate) initial: Vec<Arc<Object>>,
    /// Whether the end of `initial` is announced.
    pub(crate) announce: bool,
    pub(crate) select: Select,
    pub(crate) encoding: Encoding,
    /// JSON or protobuf.
    pub(crate) format: Format,
    /// `None` where events are in the right version already.
    pub(crate) convert: Option<Convert>,
    /// Whether each event is to be a frame of its own.
    pub(crate) apart: bool,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
    /// apiVersion and kind of what is watched, for bookmarks.
    pub(crate) type_meta: (String, String),
    pub(crate) clock: SharedClock,
}

struct Running {
    watch: Watch,
    ready: VecDeque<Bytes>,
    first: bool,
    ended: bool,
    /// The revision of the last bookmark.
    told: u64,
    deadline: BoxFuture<'static, ()>,
    bookmark: BoxFuture<'static, ()>,
}

impl Watch {
    /// Returns the frames.
    pub(crate) fn frames(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        let wait = |clock: &SharedClock, duration: Duration| -> BoxFuture<'static, ()> {
            let clock = clock.clone();
            Box::pin(async move { clock.after(duration).await })
        };
        let mut running = Running {
            deadline: wait(&self.clock, self.timeout),
            bookmark: wait(&self.clock, BOOKMARKS.min(self.timeout.saturating_sub(Duration::from_secs(2)))),
            ready: VecDeque::new(),
            first: true,
            ended: false,
            told: 0,
            watch: self,
        };
        for object in std::mem::take(&mut running.watch.initial) {
            if (running.watch.select)(&object) {
                let frame = running.frame(Type::Added, &object);
                running.ready.push_back(frame);
            }
        }
        if running.watch.announce {
            let frame = running.bookmark_frame(running.watch.watcher.after(), true);
            running.ready.push_back(frame);
        }
        futures::stream::unfold(running, move |mut running| async move {
            loop {
                if let Some(frame) = running.ready.pop_front() {
                    let frame = if running.watch.apart { frame } else { running.gather(frame) };
                    return Some((Ok(frame), running));
                }
                if running.ended {
                    return None;
                }
                tokio::select! {
                    biased;
                    () = &mut running.deadline => running.end(),
                    events = running.watch.watcher.next(BATCH) => match events {
                        Ok(events) => running.take_all(events).await,
                        Err(forgotten) => running.cut(forgotten),
                    },
                    () = &mut running.bookmark, if running.watch.bookmarks => {
                        running.bookmark = wait(&running.watch.clock, BOOKMARKS);
                        running.tell();
                    }
                }
            }
        })
    }
}

impl Running {
    /// Joins what is ready into one chunk, so that a burst costs one write and not one for each event.
    fn gather(&mut self, first: Bytes) -> Bytes {
        if self.ready.is_empty() {
            return first;
        }
        let size = first.len() + self.ready.iter().map(Bytes::len).sum::<usize>();
        let mut chunk = BytesMut::with_capacity(size.min(128 << 10));
        chunk.put_slice(&first);
        while let Some(next) = self.ready.front()
            && chunk.len() + next.len() <= 128 << 10
        {
            chunk.put_slice(next);
            self.ready.pop_front();
        }
        chunk.freeze()
    }

    async fn take_all(&mut self, events: Vec<Arc<Event>>) {
        for event in events {
            let event = match &self.watch.convert {
                None => event,
                Some(convert) => match convert(event).await {
                    Ok(event) => event,
                    Err(status) => {
                        // The client must list again: what it would miss cannot be made up for.
                        self.ended = true;
                        self.ready.push_back(error_frame(&status, self.watch.format));
                        return;
                    }
                },
            };
            self.take(&event);
        }
    }

    /// Decides what an event is to this watcher: entering its selection is ADDED, leaving it DELETED.
    fn take(&mut self, event: &Event) {
        let select = &self.watch.select;
        let is = !event.deleted && select(&event.object);
        let was = event.previous.as_ref().is_some_and(|previous| select(previous));
        let kind = match (was, is) {
            (false, false) => return,
            (false, true) => Type::Added,
            (true, true) => Type::Modified,
            (true, false) => Type::Deleted,
        };
        let frame = match (&self.watch.encoding, &event.previous) {
            // What leaves the selection is shown as it last was in it, as of now.
            (_, Some(previous)) if kind == Type::Deleted && !event.deleted => {
                self.frame(kind, &previous.at(event.revision))
            }
            (Encoding::Shared, _) => {
                let format = self.watch.format;
                event.frame(kind.slot(format), || shared_frame(kind, &event.object, format))
            }
            _ => self.frame(kind, &event.object),
        };
        self.ready.push_back(frame);
    }

    fn frame(&mut self, kind: Type, object: &Object) -> Bytes {
        match &self.watch.encoding {
            Encoding::Shared => shared_frame(kind, object, self.watch.format),
            Encoding::Made(make) => {
                let made = make(&object.value(), std::mem::take(&mut self.first));
                frame(kind.name(), made, self.watch.format)
            }
        }
    }

    fn bookmark_frame(&self, revision: u64, end_of_initial: bool) -> Bytes {
        let (api_version, kind) = &self.watch.type_meta;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        match &self.watch.encoding {
            Encoding::Shared => frame("BOOKMARK", object, self.watch.format),
            Encoding::Made(make) => {
                let mut made = make(&object, false);
                // A table says its version in its own metadata.
                made["metadata"] = object["metadata"].clone();
                frame("BOOKMARK", made, self.watch.format)
            }
        }
    }

    /// Sends a bookmark, unless there is something to send first or nothing new to say.
    fn tell(&mut self) {
        if let Some(position) = self.watch.watcher.position()
            && position > self.told
        {
            self.told = position;
            let frame = self.bookmark_frame(position, false);
            self.ready.push_back(frame);
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.watch.bookmarks {
            self.tell();
        }
    }

    /// The watcher fell behind what is kept: it is told so and must list again.
    fn cut(&mut self, forgotten: Forgotten) {
        self.ended = true;
        let status = Status::too_old(forgotten.asked, forgotten.oldest);
        self.ready.push_back(error_frame(&status, self.watch.format));
    }
}

/// Returns the frame that ends a watch with an error.
pub(crate) fn error_frame(status: &Status, format: Format) -> Bytes {
    frame("ERROR", status.to_value(), format)
}

fn shared_frame(kind: Type, object: &Object, format: Format) -> Bytes {
    if format == Format::Protobuf {
        return frame(kind.name(), object.value(), format);
    }
    let head = kind.head();
    let mut frame = BytesMut::with_capacity(head.len() + object.bytes.len() + 2);
    frame.put_slice(head);
    frame.put_slice(&object.bytes);
    frame.put_slice(b"}\n");
    frame.freeze()
}

/// Encodes an event: a line of JSON, or a message with its length before it.
fn frame(kind: &str, object: Value, format: Format) -> Bytes {
    if format == Format::Protobuf {
        return match api::protobuf::encode(&object) {
            Ok(object) => api::protobuf::watch_frame(kind, &object).into(),
            Err(error) => {
                tracing::error!(%error, "encoding an event in protobuf");
                let status = Status::internal(format!("encoding protobuf: {error}"));
                let status = api::protobuf::encode(&status.to_value()).unwrap_or_default();
                api::protobuf::watch_frame("ERROR", &status).into()
            }
        };
    }
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}
