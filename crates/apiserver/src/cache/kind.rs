//! The cache of one resource: its objects in key order and the ring of its latest changes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use store::Revision;
use tokio::sync::watch;

use super::object::{FieldsOf, Object};

/// How many changes of a kind are kept for watchers that resume or lag.
const RING_EVENTS: usize = 10_000;
/// How many bytes of objects these may hold on to; at least [`RING_LEAST`] are kept all the same.
const RING_BYTES: usize = 8 << 20;
/// See [`RING_BYTES`].
const RING_LEAST: usize = 128;

/// A change of one object.
#[derive(Debug)]
pub struct Event {
    /// The change's revision.
    pub revision: Revision,
    /// The object after the change; of a deletion its last state, as of the deletion's revision.
    pub object: Arc<Object>,
    /// The object before the change, if it existed.
    pub previous: Option<Arc<Object>>,
    /// Whether the object is gone now.
    pub deleted: bool,
    /// The encoded watch frames of this event, made by the first watcher that needs each.
    frames: [OnceLock<Bytes>; 6],
}

impl Event {
    pub(crate) fn new(object: Arc<Object>, previous: Option<Arc<Object>>, deleted: bool) -> Self {
        Self { revision: object.revision, object, previous, deleted, frames: Default::default() }
    }

    /// Returns this event's frame of type ADDED (0), MODIFIED (1) or DELETED (2) in JSON, or in protobuf (3 to
    /// 5), shared by all watchers.
    pub(crate) fn frame(&self, slot: usize, make: impl FnOnce() -> Bytes) -> Bytes {
        self.frames[slot].get_or_init(make).clone()
    }
}

/// Is told of every change before anybody can read it: the key, the object unless it is gone, and what was
/// there before.
pub(crate) type Observer = Box<dyn Fn(&str, Option<&Object>, Option<&Object>) + Send + Sync>;

/// The cache of one resource. Written by the one task that follows the store, read by all requests.
pub struct Kind {
    /// The resource with its group, such as `deployments.apps`: the first part of its keys.
    pub id: Arc<str>,
    fields: OnceLock<FieldsOf>,
    observer: OnceLock<Observer>,
    state: RwLock<State>,
    /// The sequence number of the next change; what sleeping watchers wait on.
    next: watch::Sender<u64>,
    /// The revision up to which every change of every kind has been applied.
    progress: watch::Receiver<Revision>,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// The sequence number of the ring's first event.
    first: u64,
    /// Every change after this revision is in the ring.
    floor: Revision,
    /// The revision of the last change.
    revision: Revision,
}

/// Objects found by a list.
#[derive(Debug)]
pub(crate) struct Slice {
    /// In key order.
    pub(crate) objects: Vec<Arc<Object>>,
    /// The revision at which this is true.
    pub(crate) revision: Revision,
    /// The key to go on after, when there is more.
    pub(crate) next: Option<Arc<str>>,
    /// How many keys of the scope follow.
    pub(crate) remaining: usize,
}

/// Why the cache cannot say how things stood, or what happened since, a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// What was asked for.
    pub(crate) asked: Revision,
    /// The oldest revision that can be had.
    pub(crate) oldest: Revision,
}

impl Kind {
    pub(super) fn new(id: Arc<str>, floor: Revision, progress: watch::Receiver<Revision>) -> Self {
        Self {
            id,
            fields: OnceLock::new(),
            observer: OnceLock::new(),
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                ring: VecDeque::new(),
                ring_bytes: 0,
                first: 0,
                floor,
                revision: floor,
            }),
            next: watch::Sender::new(0),
            progress,
        }
    }

    /// Sets how selectable fields are read; only the first call counts.
    pub(crate) fn set_fields(&self, fields: FieldsOf) {
        // A second registration of the same kind brings the same function.
        drop(self.fields.set(fields));
    }

    /// Sets who is told of changes; only the first call counts.
    pub(crate) fn set_observer(&self, observer: Observer) {
        drop(self.observer.set(observer));
    }

    fn observed(&self, key: &str, object: Option<&Object>, previous: Option<&Object>) {
        if let Some(observer) = self.observer.get() {
            observer(key, object, previous);
        }
    }

    pub(crate) fn fields(&self) -> Option<&FieldsOf> {
        self.fields.get()
    }

    /// Returns the object at `key` (`namespace/name` or `name`).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Returns how many objects there are.
    pub(crate) fn count(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Returns every object of `scope`, in key order, and the revision at which this is true.
    #[must_use]
    pub fn all(&self, namespace: &str) -> (Vec<Arc<Object>>, Revision) {
        let state = self.state.read();
        let objects = range(&state.objects, namespace, None).map(|(_, object)| object.clone()).collect();
        (objects, self.revision_of(&state))
    }

    /// The revision at which what `state` holds is true. Changes are applied one by one in revision order,
    /// so all changes up to the newest applied one, of whatever kind, are in.
    fn revision_of(&self, state: &State) -> Revision {
        state.revision.max(*self.progress.borrow())
    }

    /// Returns up to `limit` objects (0: all) of `namespace` (empty: all) after the key `after` that pass
    /// `select`, as things stand now or stood `at` a revision.
    pub(crate) fn list(
        &self,
        namespace: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
        select: impl Fn(&Object) -> bool,
    ) -> Result<Slice, Forgotten> {
        let state = self.state.read();
        let current = self.revision_of(&state);
        let revision = at.unwrap_or(current);
        let undone = if revision < state.revision { state.undo(revision)? } else { HashMap::new() };
        let mut objects = Vec::new();
        let (mut next, mut remaining) = (None::<Arc<str>>, 0);
        let mut visit = |object: &Arc<Object>| {
            if limit > 0 && objects.len() == limit {
                remaining += 1;
            } else {
                next = Some(object.key.clone());
                if select(object) {
                    objects.push(object.clone());
                }
            }
        };
        if undone.is_empty() {
            range(&state.objects, namespace, after).for_each(|(_, object)| visit(object));
        } else {
            let mut past: BTreeMap<Arc<str>, Arc<Object>> = range(&state.objects, namespace, after)
                .filter(|(key, _)| !undone.contains_key(&***key))
                .map(|(key, object)| (key.clone(), object.clone()))
                .collect();
            for object in undone.into_values().flatten() {
                past.insert(object.key.clone(), object);
            }
            range(&past, namespace, after).for_each(|(_, object)| visit(object));
        }
        let next = next.filter(|_| remaining > 0);
        Ok(Slice { objects, revision, next, remaining })
    }

    /// Starts a watcher that sees every change after `revision`.
    pub(crate) fn watch(self: &Arc<Self>, revision: Revision) -> Result<Watcher, Forgotten> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(Forgotten { asked: revision, oldest: state.floor });
        }
        let skipped = state.ring.partition_point(|event| event.revision <= revision);
        Ok(Watcher {
            cursor: state.first + skipped as u64,
            after: revision,
            newest: self.next.subscribe(),
            kind: self.clone(),
        })
    }

    /// Returns every object of `namespace`, and a watcher that sees every change since.
    pub(crate) fn list_and_watch(self: &Arc<Self>, namespace: &str) -> (Vec<Arc<Object>>, Watcher) {
        let state = self.state.read();
        let objects = range(&state.objects, namespace, None).map(|(_, object)| object.clone()).collect();
        let watcher = Watcher {
            cursor: state.first + state.ring.len() as u64,
            after: self.revision_of(&state),
            newest: self.next.subscribe(),
            kind: self.clone(),
        };
        (objects, watcher)
    }

    /// Puts in what was found at `floor`. There is no history before it: whoever watches is cut.
    pub(super) fn load(&self, objects: impl IntoIterator<Item = Arc<Object>>, floor: Revision) {
        let objects: Vec<Arc<Object>> = objects.into_iter().collect();
        let present: HashSet<&str> = objects.iter().map(|object| &*object.key).collect();
        for key in self.state.read().objects.keys() {
            if !present.contains(&**key) {
                self.observed(key, None, None);
            }
        }
        for object in &objects {
            self.observed(&object.key, Some(object), None);
        }
        let mut state = self.state.write();
        state.first += state.ring.len() as u64 + 1;
        state.ring.clear();
        state.ring_bytes = 0;
        state.objects = objects.into_iter().map(|object| (object.key.clone(), object)).collect();
        state.floor = floor;
        state.revision = floor;
    }

    /// Applies one change. `object` is `None` for a deletion at `revision`. Wakes nobody yet.
    pub(super) fn apply(&self, key: &str, object: Option<Arc<Object>>, revision: Revision) {
        if self.observer.get().is_some() {
            let previous = self.get(key);
            self.observed(key, object.as_deref(), previous.as_deref());
        }
        let mut state = self.state.write();
        if revision <= state.revision {
            return;
        }
        let event = match object {
            Some(object) => {
                let previous = state.objects.insert(object.key.clone(), object.clone());
                Event::new(object, previous, false)
            }
            None => {
                let Some(previous) = state.objects.remove(key) else { return };
                Event::new(Arc::new(previous.at(revision)), Some(previous), true)
            }
        };
        state.revision = revision;
        state.ring_bytes += event.object.bytes.len();
        state.ring.push_back(Arc::new(event));
        while state.ring.len() > RING_EVENTS
            || (state.ring_bytes > RING_BYTES && state.ring.len() > RING_LEAST)
        {
            let Some(oldest) = state.ring.pop_front() else { break };
            state.first += 1;
            state.floor = oldest.revision;
            state.ring_bytes -= oldest.object.bytes.len();
        }
    }

    /// Wakes the watchers.
    pub(super) fn wake(&self) {
        let state = self.state.read();
        let next = state.first + state.ring.len() as u64;
        drop(state);
        self.next.send_replace(next);
    }
}

impl State {
    /// Returns how the objects that changed after `revision` stood then.
    fn undo(&self, revision: Revision) -> Result<HashMap<&str, Option<Arc<Object>>>, Forgotten> {
        if revision < self.floor {
            return Err(Forgotten { asked: revision, oldest: self.floor });
        }
        let mut undone = HashMap::new();
        // Backwards, so that the first change after the revision has the last word.
        for event in self.ring.iter().rev().take_while(|event| event.revision > revision) {
            undone.insert(&*event.object.key, event.previous.clone());
        }
        Ok(undone)
    }
}

fn range<'a>(
    objects: &'a BTreeMap<Arc<str>, Arc<Object>>,
    namespace: &str,
    after: Option<&str>,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> {
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let start = match after {
        Some(after) => Bound::Excluded(after.to_owned()),
        None if prefix.is_empty() => Bound::Unbounded,
        None => Bound::Included(prefix.clone()),
    };
    let bounds = (start.as_ref().map(String::as_str), Bound::Unbounded);
    objects.range::<str, _>(bounds).take_while(move |(key, _)| key.starts_with(&prefix))
}

/// Follows the changes of a kind at its own pace. The events stay in the kind's ring: a watcher owns only
/// its place in it, and one that falls behind the ring's start is cut.
pub(crate) struct Watcher {
    kind: Arc<Kind>,
    cursor: u64,
    /// Events up to here are not for this watcher: it may have asked for a revision that is yet to come.
    after: Revision,
    newest: watch::Receiver<u64>,
}

impl Watcher {
    /// Waits for changes and returns up to `most` of them in order.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Vec<Arc<Event>>, Forgotten> {
        loop {
            self.newest.mark_unchanged();
            let events = self.ready(most)?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns what is there without waiting.
    fn ready(&mut self, most: usize) -> Result<Vec<Arc<Event>>, Forgotten> {
        let state = self.kind.state.read();
        let Some(skip) = self.cursor.checked_sub(state.first) else {
            return Err(Forgotten { asked: self.after, oldest: state.floor });
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut events = Vec::new();
        for event in state.ring.iter().skip(skip).take(most) {
            self.cursor += 1;
            if event.revision > self.after {
                self.after = event.revision;
                events.push(event.clone());
            }
        }
        Ok(events)
    }

    /// Returns the revision up to which this watcher has seen everything, if there is nothing left to see.
    pub(crate) fn position(&self) -> Option<Revision> {
        let state = self.kind.state.read();
        (self.cursor == state.first + state.ring.len() as u64)
            .then(|| self.kind.revision_of(&state).max(self.after))
    }

    /// The revision of the last event seen, or where the watcher began.
    pub(crate) fn after(&self) -> Revision {
        self.after
    }
}
