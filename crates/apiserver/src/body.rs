//! The bodies of responses: whole, a list that is put together while it is sent, or a stream.

use std::collections::VecDeque;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use http_body::{Frame, SizeHint};

use crate::cache::Object;

/// How much of a list is put together at a time.
const BLOCK: usize = 64 << 10;

/// Bodies below this size are not worth compressing.
const GZIP_FROM: u64 = 128 << 10;

/// An error of a body that has begun: the connection is cut, which is all that can be said then.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    List(List),
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>),
}

struct List {
    head: Bytes,
    objects: VecDeque<Arc<Object>>,
    tail: &'static [u8],
    left: u64,
    begun: bool,
}

impl Body {
    /// A body without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    /// A stream of frames; each is sent as soon as it is there.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream)))
    }

    /// Keeps `guard` until the body has been sent, or nobody wants it any more.
    pub(crate) fn holding<T: Send + 'static>(self, guard: T) -> Self {
        Self::stream(futures::stream::unfold((self, guard), |(mut body, guard)| async move {
            loop {
                let frame =
                    std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context));
                match frame.await? {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => return Some((Ok(data), (body, guard))),
                        Err(_) => continue,
                    },
                    Err(error) => return Some((Err(error), (body, guard))),
                }
            }
        }))
    }

    /// Compresses the body while it is sent. Returns it as it is when it is too small to be worth it or has no known size.
    pub(crate) fn gzip(self) -> Result<Self, Self> {
        let size = http_body::Body::size_hint(&self).exact().unwrap_or(0);
        if size < GZIP_FROM {
            return Err(self);
        }
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let blocks = futures::stream::unfold((self, Some(encoder)), |(mut body, mut encoder)| async move {
            loop {
                let mut working = encoder.take()?;
                let frame =
                    std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context));
                let out = match frame.await {
                    Some(Ok(frame)) => {
                        let data = frame.into_data().unwrap_or_default();
                        working.write_all(&data).map(|()| std::mem::take(working.get_mut())).inspect(|_| {
                            encoder = Some(working);
                        })
                    }
                    Some(Err(error)) => return Some((Err(error), (body, None))),
                    None => working.finish(),
                };
                match out {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Some((Ok(Bytes::from(bytes)), (body, encoder))),
                    Err(error) => return Some((Err(error.into()), (body, None))),
                }
            }
        });
        Ok(Self::stream(blocks))
    }

    /// `head`, the objects' bytes with commas between, `]}`.
    pub(crate) fn list(head: Bytes, objects: Vec<Arc<Object>>) -> Self {
        let tail: &[u8] = b"]}\n";
        let items: usize = objects.iter().map(|object| object.bytes.len()).sum();
        let left = (head.len() + items + objects.len().saturating_sub(1) + tail.len()) as u64;
        Self(Inner::List(List { head, objects: objects.into(), tail, left, begun: false }))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl List {
    fn block(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut block = BytesMut::with_capacity(BLOCK.min(usize::try_from(self.left).unwrap_or(BLOCK)));
        block.put_slice(&std::mem::take(&mut self.head));
        while block.len() < BLOCK {
            let Some(object) = self.objects.pop_front() else {
                block.put_slice(self.tail);
                break;
            };
            if std::mem::replace(&mut self.begun, true) {
                block.put_u8(b',');
            }
            block.put_slice(&object.bytes);
        }
        self.left = self.left.saturating_sub(block.len() as u64);
        Some(block.freeze())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::List(list) => Poll::Ready(list.block().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream(stream) => stream.as_mut().poll_next(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::List(list) => list.left == 0,
            Inner::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Inner::List(list) => SizeHint::with_exact(list.left),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Inner::Whole(_) => "Body::Whole",
            Inner::List(_) => "Body::List",
            Inner::Stream(_) => "Body::Stream",
        })
    }
}
