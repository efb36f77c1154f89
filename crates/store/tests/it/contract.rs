//! The rest of the trait's contract, on every engine: history, lives, progress, bounds, upkeep.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use machinery::names::Random;
use store::{Change, Error, Event, Expect, Range, Revision, Store};

use crate::engines::{Engine, engines};
use crate::kit::{collect, delete, listed, next, put, shown, under};

type Model = BTreeMap<String, String>;

/// Makes random changes; returns what was there after each, and the changes as watchers see them.
async fn change(
    store: &dyn Store,
    random: &Random,
    count: u64,
) -> (Vec<(Revision, Model)>, Vec<(Revision, String)>) {
    let mut model = Model::new();
    let mut states = vec![(store.revision().await.unwrap(), model.clone())];
    let mut changes = Vec::new();
    for number in 0..count {
        let key = format!("/{}/{}", ["p", "q"][random.below(2) as usize], random.below(6));
        let (revision, text) = if model.contains_key(&key) && random.below(3) == 0 {
            let old = model.remove(&key).unwrap();
            (delete(store, &key).await, format!("-{key} was {old}"))
        } else {
            let value = number.to_string();
            let text = match model.insert(key.clone(), value.clone()) {
                None => format!("+{key}={value}"),
                Some(old) => format!("~{key}={value} was {old}"),
            };
            (put(store, &key, &value).await, text)
        };
        states.push((revision, model.clone()));
        changes.push((revision, text));
    }
    (states, changes)
}

fn told(events: &[Event]) -> Vec<(Revision, String)> {
    events.iter().map(|event| (event.revision, shown(event))).collect()
}

#[tokio::test]
async fn every_state_and_every_change_of_the_past_can_be_read() {
    for Engine { name, store, .. } in engines().await {
        let (states, changes) = change(&*store, &Random::seeded(4), 60).await;
        for (revision, model) in &states[1..] {
            let page = store.range(Range { revision: Some(*revision), ..under("/") }).await.unwrap();
            assert_eq!(page.revision, *revision, "{name}");
            let found: Model = page
                .entries
                .iter()
                .map(|entry| (entry.key.to_string(), String::from_utf8(entry.value.to_vec()).unwrap()))
                .collect();
            assert_eq!(found, *model, "{name} at {revision}");
        }
        for start in [0, 17, 42] {
            let after = states[start].0;
            let seen = collect(&*store, "/", after, changes.len() - start).await;
            assert_eq!(told(&seen), changes[start..], "{name} after {after}");
            let wanted: Vec<_> =
                changes[start..].iter().filter(|(_, text)| text[1..].starts_with("/q/")).cloned().collect();
            let seen = collect(&*store, "/q/", after, wanted.len()).await;
            assert_eq!(told(&seen), wanted, "{name} /q/ after {after}");
        }
    }
}

#[tokio::test]
async fn compaction_leaves_every_later_state_and_refuses_every_earlier_one() {
    for Engine { name, store, .. } in engines().await {
        let (states, changes) = change(&*store, &Random::seeded(8), 50).await;
        // Every kind of point: behind a creation, a change and a deletion.
        for point in [10, 11, 12, 13, 30] {
            store.compact(states[point].0).await.unwrap();
            for (revision, model) in &states[1..point] {
                let past = store.range(Range { revision: Some(*revision), ..under("/") }).await;
                assert!(matches!(past, Err(Error::Compacted { .. })), "{name} at {revision}: {model:?}");
                let Err(Error::Compacted { asked, oldest }) = store.watch("/", *revision).await.map(drop)
                else {
                    panic!("{name}: a watch of the forgotten past begins");
                };
                assert_eq!((asked, oldest), (*revision, states[point].0), "{name}");
            }
            for (revision, model) in &states[point..] {
                let page = store.range(Range { revision: Some(*revision), ..under("/") }).await.unwrap();
                let found: Vec<_> = page.entries.iter().map(|entry| entry.key.to_string()).collect();
                assert_eq!(found, model.keys().cloned().collect::<Vec<_>>(), "{name} at {revision}");
            }
            let seen = collect(&*store, "/", states[point].0, changes.len() - point).await;
            assert_eq!(told(&seen), changes[point..], "{name} after {point}");
        }
    }
}

#[tokio::test]
async fn a_watch_goes_on_while_what_it_has_seen_is_forgotten() {
    for Engine { name, store, .. } in engines().await {
        let start = put(&*store, "/p/a", "0").await;
        let mut events = store.watch("/p/", start).await.unwrap();
        let mut seen = Vec::new();
        for number in 1..=20 {
            let revision = put(&*store, "/p/a", &number.to_string()).await;
            while seen.len() < number {
                seen.extend(next(&mut events).await.events);
            }
            store.compact(revision).await.unwrap();
        }
        let texts: Vec<_> = seen.iter().map(shown).collect();
        assert_eq!(texts[19], "~/p/a=20 was 19", "{name}");
    }
}

#[tokio::test]
async fn a_quiet_watch_reaches_the_stores_revision() {
    for Engine { name, store, .. } in engines().await {
        let start = put(&*store, "/p/a", "1").await;
        let mut events = store.watch("/quiet/", start).await.unwrap();
        for number in 0..3 {
            put(&*store, "/p/a", &number.to_string()).await;
            let current = store.revision().await.unwrap();
            loop {
                let batch = next(&mut events).await;
                assert_eq!(batch.events, [], "{name}");
                if batch.revision >= current {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn an_entry_with_a_life_goes_by_itself_unless_it_was_changed() {
    let life = Duration::from_millis(300);
    for Engine { name, store, .. } in engines().await {
        let kept = store.put_for("/p/kept", Bytes::from("1"), Expect::Absent, life).await.unwrap();
        let gone = store.put_for("/p/gone", Bytes::from("1"), Expect::Absent, life).await.unwrap();
        store.put("/p/kept", Bytes::from("2"), Expect::Revision(kept.mod_revision)).await.unwrap();
        let seen = collect(&*store, "/p/gone", gone.mod_revision, 1).await;
        assert_eq!(seen[0].change, Change::Delete { previous: gone }, "{name}");
        // What was due at the same time would be gone by now, or within the next change's revision.
        put(&*store, "/p/later", "1").await;
        assert_eq!(listed(&*store, under("/p/")).await, ["/p/kept=2", "/p/later=1"], "{name}");
    }
}

#[tokio::test]
async fn pages_cover_a_range_that_is_larger_than_any_page() {
    for Engine { name, store, .. } in engines().await {
        let writes = (0..2300).map(|number| {
            let (store, key) = (store.clone(), format!("/p/{number:05}"));
            async move { store.put(&key, Bytes::from("v"), Expect::Absent).await.unwrap() }
        });
        futures::stream::iter(writes).buffer_unordered(64).for_each(async |_| ()).await;
        let all = store.range(under("/p/")).await.unwrap();
        assert_eq!((all.entries.len(), all.remaining), (2300, 0), "{name}");
        let mut found = Vec::new();
        let mut range = Range { limit: 700, ..under("/p/") };
        loop {
            let page = store.range(range.clone()).await.unwrap();
            found.extend(page.entries.iter().map(|entry| entry.key.clone()));
            assert_eq!(page.remaining, 2300 - found.len(), "{name}");
            if page.remaining == 0 {
                break;
            }
            range.revision = Some(page.revision);
            range.after = found.last().map(ToString::to_string);
        }
        assert_eq!(found, all.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn values_are_bytes_and_have_a_bound() {
    for Engine { name, store, .. } in engines().await {
        let large: Bytes = (0..1_400_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>().into();
        for (key, value) in
            [("/empty", Bytes::new()), ("/binary", Bytes::from_static(b"\0\xff\n")), ("/large", large)]
        {
            store.put(key, value.clone(), Expect::Absent).await.unwrap();
            assert_eq!(store.get(key).await.unwrap().0.unwrap().value, value, "{name} {key}");
        }
        let before = store.revision().await.unwrap();
        let far_too_large = Bytes::from(vec![0; 2 << 20]);
        for (key, value) in [("/huge", far_too_large), ("no-slash", Bytes::new()), ("", Bytes::new())] {
            let error = store.put(key, value, Expect::Absent).await.unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{name}: {error}");
        }
        assert_eq!(store.revision().await.unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn a_hundred_watchers_see_the_same() {
    for Engine { name, store, .. } in engines().await {
        let start = put(&*store, "/p/a", "0").await;
        let watchers: Vec<_> = (0..100)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { collect(&*store, "/p/", start, 50).await })
            })
            .collect();
        for number in 0..50 {
            put(&*store, &format!("/p/{}", number % 7), &number.to_string()).await;
        }
        let mut first: Option<Vec<Event>> = None;
        for watcher in watchers {
            let seen = watcher.await.unwrap();
            assert!(seen.windows(2).all(|pair| pair[0].revision < pair[1].revision), "{name}");
            assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen, "{name}");
        }
    }
}

#[tokio::test]
async fn tidying_up_keeps_everything_and_health_tells_of_it() {
    for Engine { name, store, .. } in engines().await {
        for number in 0..200 {
            put(&*store, &format!("/p/{}", number % 5), &number.to_string()).await;
        }
        let point = store.revision().await.unwrap();
        let before = listed(&*store, under("/")).await;
        store.compact(point).await.unwrap();
        store.defragment().await.unwrap();
        assert_eq!(listed(&*store, under("/")).await, before, "{name}");
        let last = put(&*store, "/p/0", "last").await;
        let health = store.health().await.unwrap();
        assert_eq!(health.revision, last, "{name}");
        assert!(health.engine.starts_with(name), "{name}: {health:?}");
        assert!(health.members.iter().all(|member| member.trouble.is_none()), "{name}: {health:?}");
    }
}
