//! Concurrent clients whose calls are recorded, and a checker that finds an order of them, if there is one.
//!
//! Every change has a revision, so the order is not searched for but given: the calls have to fit the history of
//! revisions, each at a moment between its beginning and its end. Checked are etcd's own properties: writes are
//! atomic and conditional, reads are current, watches are complete, in order and free of duplicates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use machinery::names::Random;
use store::{Change, Error, Event, Expect, Revision, Store};
use tokio::sync::watch;

use crate::kit::PATIENCE;

/// How many keys the clients share.
const KEYS: u64 = 12;

/// What a client asked for.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Get {
        key: String,
    },
    /// The value is written by nobody else.
    Put {
        key: String,
        value: String,
        expect: Revision,
    },
    Delete {
        key: String,
        expect: Revision,
    },
}

/// What it was told.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// The key's value and revision, and the store's revision.
    Found(Option<(String, Revision)>, Revision),
    Done(Revision),
    /// What there was instead.
    Conflict(Option<(String, Revision)>),
    /// It may or may not have happened.
    Unknown,
}

/// A call, between two moments of one clock that all clients share.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    began: u64,
    ended: u64,
    asked: Asked,
    told: Told,
}

/// Lets so many clients make random calls until `stop` or until they have made `calls` each.
pub(crate) async fn record(
    store: Arc<dyn Store>,
    clients: u64,
    calls: usize,
    stop: watch::Receiver<bool>,
) -> Vec<Call> {
    let clock = Arc::new(AtomicU64::new(0));
    let running = (0..clients).map(|client| {
        let (store, clock, stop) = (store.clone(), clock.clone(), stop.clone());
        tokio::spawn(async move { one(&*store, client, calls, &clock, &stop).await })
    });
    let all = futures::future::join_all(running).await;
    all.into_iter().flat_map(|calls| calls.unwrap()).collect()
}

async fn one(
    store: &dyn Store,
    client: u64,
    calls: usize,
    clock: &AtomicU64,
    stop: &watch::Receiver<bool>,
) -> Vec<Call> {
    let random = Random::seeded(client);
    let mut known: HashMap<String, Revision> = HashMap::new();
    let mut made = Vec::new();
    for number in 0..calls {
        if *stop.borrow() {
            break;
        }
        let key = format!("/h/{}", random.below(KEYS));
        let expect = known.get(&key).copied().unwrap_or(0);
        let asked = match random.below(10) {
            0..4 => Asked::Get { key },
            4 if expect > 0 => Asked::Delete { key, expect },
            _ => Asked::Put { key, value: format!("{client}.{number}"), expect },
        };
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let told = ask(store, &asked).await;
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        let (key, now) = match (&asked, &told) {
            (Asked::Get { key }, Told::Found(entry, _))
            | (Asked::Put { key, .. } | Asked::Delete { key, .. }, Told::Conflict(entry)) => {
                (key, entry.as_ref().map_or(0, |(_, revision)| *revision))
            }
            (Asked::Put { key, .. }, Told::Done(revision)) => (key, *revision),
            (Asked::Get { key } | Asked::Put { key, .. } | Asked::Delete { key, .. }, _) => (key, 0),
        };
        known.insert(key.clone(), now);
        made.push(Call { began, ended, asked, told });
    }
    made
}

async fn ask(store: &dyn Store, asked: &Asked) -> Told {
    let shown =
        |entry: store::Entry| (String::from_utf8_lossy(&entry.value).into_owned(), entry.mod_revision);
    let outcome = match asked {
        Asked::Get { key } => {
            store.get(key).await.map(|(entry, revision)| Told::Found(entry.map(shown), revision))
        }
        Asked::Put { key, value, expect } => {
            let expect = if *expect == 0 { Expect::Absent } else { Expect::Revision(*expect) };
            store
                .put(key, Bytes::from(value.clone()), expect)
                .await
                .map(|entry| Told::Done(entry.mod_revision))
        }
        Asked::Delete { key, expect } => store.delete(key, *expect).await.map(Told::Done),
    };
    match outcome {
        Ok(told) => told,
        Err(Error::Conflict { current, .. }) => Told::Conflict(current.map(shown)),
        Err(Error::Unavailable(_)) => Told::Unknown,
        Err(other) => panic!("{asked:?}: {other}"),
    }
}

/// Follows the store and begins anew from where it was whenever its stream ends or `interrupt` says so; returns
/// every change up to the revision that `until` names in the end.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    after: Revision,
    mut until: watch::Receiver<Option<Revision>>,
    mut interrupt: watch::Receiver<u64>,
) -> Vec<Event> {
    let (mut seen, mut reached) = (Vec::new(), after);
    loop {
        let mut events = match store.watch("/h/", reached).await {
            Ok(events) => events,
            Err(Error::Unavailable(_)) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
            Err(error) => panic!("resuming a watch at {reached}: {error}"),
        };
        loop {
            if until.borrow_and_update().is_some_and(|until| reached >= until) {
                return seen;
            }
            tokio::select! {
                _ = until.changed() => {}
                Ok(()) = interrupt.changed() => break,
                batch = events.next() => match batch {
                    Some(Ok(batch)) => {
                        assert!(batch.revision >= reached, "progress goes backwards");
                        reached = batch.revision;
                        seen.extend(batch.events);
                    }
                    Some(Err(error @ Error::Compacted { .. })) => panic!("{error}"),
                    Some(Err(_)) | None => break,
                },
            }
        }
    }
}

/// What a key was from a revision on.
struct Version {
    from: Revision,
    value: Option<String>,
}

/// Checks that the calls fit the changes that a watch from `start` on has seen.
pub(crate) fn check(start: Revision, calls: &[Call], changes: &[Event]) -> Result<(), String> {
    let mut versions: HashMap<String, Vec<Version>> = HashMap::new();
    let mut last = start;
    for event in changes {
        if event.revision <= last {
            return Err(format!("a watch shows revision {} after {last}", event.revision));
        }
        last = event.revision;
        let (value, previous) = match &event.change {
            Change::Put { entry, previous } => {
                (Some(String::from_utf8_lossy(&entry.value).into_owned()), previous.as_ref())
            }
            Change::Delete { previous } => (None, Some(previous)),
        };
        let known = versions.entry(event.key().to_string()).or_default();
        let before = known.last().filter(|version| version.value.is_some()).map(|version| version.from);
        if before != previous.map(|entry| entry.mod_revision) {
            return Err(format!(
                "{}: revision {} says it follows {previous:?}, not {before:?}",
                event.key(),
                event.revision
            ));
        }
        known.push(Version { from: event.revision, value });
    }
    let wrote: HashMap<&str, &Call> = calls
        .iter()
        .filter_map(|call| match &call.asked {
            Asked::Put { value, .. } => Some((value.as_str(), call)),
            _ => None,
        })
        .collect();
    // Who wrote what is seen: somebody who succeeded there, or was not told.
    for event in changes {
        let Change::Put { entry, .. } = &event.change else { continue };
        let value = String::from_utf8_lossy(&entry.value);
        let call = wrote.get(&*value).ok_or_else(|| format!("nobody wrote {value} of {}", entry.key))?;
        match call.told {
            Told::Done(at) if at == event.revision => {}
            Told::Unknown => {}
            _ => return Err(format!("revision {} is of {call:?}", event.revision)),
        }
    }
    let windows = Windows::of(start, calls, last);
    for (call, (least, most)) in calls.iter().zip(windows.0) {
        check_call(call, &versions, least, most)
            .map_err(|why| format!("{why}: {call:?} within {least}..={most}"))?;
    }
    Ok(())
}

fn check_call(
    call: &Call,
    versions: &HashMap<String, Vec<Version>>,
    least: Revision,
    most: Revision,
) -> Result<(), String> {
    let at = |key: &str, revision: Revision| -> Option<(&str, Revision)> {
        let known = versions.get(key)?;
        let place = known.partition_point(|version| version.from <= revision).checked_sub(1)?;
        known[place].value.as_deref().map(|value| (value, known[place].from))
    };
    match (&call.asked, &call.told) {
        (Asked::Get { key }, Told::Found(found, revision)) => {
            if *revision < least || *revision > most {
                return Err("a read of the past or the future".into());
            }
            let found = found.as_ref().map(|(value, from)| (value.as_str(), *from));
            // The store's revision counts other keys, too, and was taken with the entry or later.
            if found != at(key, *revision) {
                return Err(format!("{:?} was there", at(key, *revision)));
            }
        }
        (Asked::Put { key, expect, .. } | Asked::Delete { key, expect }, Told::Done(revision)) => {
            if *revision <= least || *revision > most {
                return Err("a write before those that it follows".into());
            }
            let before = at(key, revision - 1).map_or(0, |(_, from)| from);
            if before != *expect {
                return Err(format!("it expected {expect} and replaced {before}"));
            }
            let now = at(key, *revision);
            let is_put = matches!(call.asked, Asked::Put { .. });
            if is_put != now.is_some_and(|(_, from)| from == *revision) {
                return Err("an acknowledged write is not there".into());
            }
        }
        (Asked::Put { key, expect, .. } | Asked::Delete { key, expect }, Told::Conflict(found)) => {
            let from = found.as_ref().map_or(0, |(_, from)| *from);
            if from == *expect {
                return Err("it was as expected".into());
            }
            // At some moment of the call the key was as it is said to have been.
            let known = versions.get(key).map_or(&[][..], Vec::as_slice);
            let mut moments =
                known.iter().map(|version| version.from).filter(|from| *from > least && *from <= most);
            let fits = |revision: Revision| at(key, revision).map_or(0, |(_, from)| from) == from;
            if !fits(least) && !moments.any(fits) {
                return Err(format!("the key was never as it was shown: {found:?}"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// For each call, the revisions between which it happened: those that had been seen when it began, and those
/// that began after it had ended.
struct Windows(Vec<(Revision, Revision)>);

impl Windows {
    fn of(start: Revision, calls: &[Call], last: Revision) -> Self {
        let revision = |call: &Call| match call.told {
            Told::Found(_, revision) | Told::Done(revision) => Some(revision),
            Told::Conflict(_) | Told::Unknown => None,
        };
        let mut ends: Vec<(u64, Revision)> =
            calls.iter().filter_map(|call| Some((call.ended, revision(call)?))).collect();
        ends.sort_unstable();
        // The highest revision that was known at each moment.
        let mut highest = start;
        for end in &mut ends {
            highest = highest.max(end.1);
            end.1 = highest;
        }
        // A write that began after a call had ended has a revision that the call cannot have seen.
        let mut begins: Vec<(u64, Revision)> = calls
            .iter()
            .filter_map(|call| match call.told {
                Told::Done(revision) => Some((call.began, revision - 1)),
                _ => None,
            })
            .collect();
        begins.sort_unstable();
        let mut lowest = last.max(highest);
        for begin in begins.iter_mut().rev() {
            lowest = lowest.min(begin.1);
            begin.1 = lowest;
        }
        let windows = calls.iter().map(|call| {
            let before = ends.partition_point(|(ended, _)| *ended < call.began);
            let least = before.checked_sub(1).map_or(start, |place| ends[place].1);
            let after = begins.partition_point(|(began, _)| *began <= call.ended);
            let most = begins.get(after).map_or(last.max(highest), |(_, revision)| *revision);
            (least, most)
        });
        Self(windows.collect())
    }
}

/// Runs clients, two watchers (one of which is interrupted again and again) and `faults`, and checks it all.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    calls: usize,
    faults: impl AsyncFnOnce(watch::Receiver<bool>),
) -> String {
    let start = store.revision().await.unwrap();
    let (until, untils) = watch::channel(None);
    let (interrupt, interrupts) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let calm = tokio::spawn(follow(store.clone(), start, untils.clone(), watch::channel(0).1));
    let restless = tokio::spawn(follow(store.clone(), start, untils, interrupts));
    let clients = async {
        let calls = record(store.clone(), 8, calls / 8, watch::channel(false).1).await;
        stop.send(true).unwrap();
        calls
    };
    let interrupting = async {
        let mut stopped = stopped.clone();
        while !*stopped.borrow() {
            let pause = tokio::time::sleep(std::time::Duration::from_millis(50));
            tokio::select! {
                _ = stopped.changed() => {}
                () = pause => interrupt.send_modify(|count| *count += 1),
            }
        }
    };
    let (calls, (), ()) = tokio::join!(clients, interrupting, faults(stopped.clone()));
    let last = loop {
        if let Ok(revision) = store.revision().await {
            break revision;
        }
    };
    until.send(Some(last)).unwrap();
    let calm = tokio::time::timeout(PATIENCE, calm).await.expect("the watch reaches the end").unwrap();
    let restless =
        tokio::time::timeout(PATIENCE, restless).await.expect("the watch reaches the end").unwrap();
    assert!(calm == restless, "two watchers have seen different changes");
    check(start, &calls, &calm).unwrap();
    let unknown = calls.iter().filter(|call| matches!(call.told, Told::Unknown)).count();
    format!(
        "{} calls of 8 clients, {unknown} of unknown outcome, {} changes: linearizable",
        calls.len(),
        calm.len()
    )
}

/// How many calls a test makes: few in every run, and the whole number when it is asked for.
pub(crate) fn calls(bounded: usize, full: usize) -> usize {
    if std::env::var_os("STORE_FULL").is_some() { full } else { bounded }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_engine_is_linearizable_while_it_is_compacted() {
    for engine in crate::engines::engines().await {
        let store = engine.store.clone();
        let told = run(engine.store.clone(), calls(3000, 40_000), async |stopped| {
            while !*stopped.borrow() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                // Far enough behind for the watcher that begins anew.
                let point = store.revision().await.unwrap().saturating_sub(2000);
                drop(store.compact(point).await);
            }
        })
        .await;
        println!("{}: {told}", engine.name);
    }
}

/// The checker finds what is wrong with histories that are.
#[tokio::test]
async fn broken_histories_are_found() {
    let store = Arc::new(store::MemoryStore::new());
    let calls = record(store.clone(), 4, 200, watch::channel(false).1).await;
    let last = store.revision().await.unwrap();
    let changes = follow(store, 0, watch::channel(Some(last)).1, watch::channel(0).1).await;
    check(0, &calls, &changes).unwrap();
    let broken = |what: &str, calls: &[Call], changes: &[Event]| {
        assert!(check(0, calls, changes).is_err(), "{what} goes unnoticed");
    };
    let mut lost = changes.clone();
    lost.remove(changes.len() / 2);
    broken("a lost event", &calls, &lost);
    let mut swapped = changes.clone();
    swapped.swap(10, 11);
    broken("swapped events", &calls, &swapped);
    let mut doubled = changes.clone();
    doubled.insert(5, changes[5].clone());
    broken("a doubled event", &calls, &doubled);
    let found = |call: &Call| matches!(&call.told, Told::Found(Some(_), revision) if *revision > 50);
    let mut stale = calls.clone();
    let read = stale.iter_mut().rev().find(|call| found(call)).unwrap();
    read.told = Told::Found(None, 0);
    broken("a stale read", &stale, &changes);
    let mut missing = calls.clone();
    let place = missing
        .iter()
        .position(|call| matches!((&call.asked, &call.told), (Asked::Put { .. }, Told::Done(_))))
        .unwrap();
    missing.remove(place);
    broken("a write that nobody made", &missing, &changes);
    let mut twice = calls.clone();
    let put = |call: &Call| matches!((&call.asked, &call.told), (Asked::Put { .. }, Told::Done(_)));
    let write = twice.iter_mut().find(|call| put(call)).unwrap();
    write.told = Told::Conflict(None);
    broken("a write that was refused and done", &twice, &changes);
    let mut late = calls;
    let write = late
        .iter_mut()
        .rev()
        .find(|call| matches!(call.told, Told::Done(revision) if revision < last - 20))
        .unwrap();
    (write.began, write.ended) = (u64::MAX - 1, u64::MAX);
    broken("a write that took effect before it began", &late, &changes);
}
