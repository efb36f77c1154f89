//! Behaviour that all engines share: each test runs on every one of them.

use bytes::Bytes;
use machinery::clock;
use store::{EmbeddedStore, Error, Expect, Options, Range, Store};

use crate::engines::{Engine, engines};
use crate::kit::{collect, delete, listed, put, shown, under};

#[tokio::test]
async fn a_write_is_read_back_with_its_revisions() {
    for Engine { name, store, .. } in engines().await {
        let first = put(&*store, "/a", "1").await;
        let second = put(&*store, "/a", "2").await;
        assert!(second > first, "{name}");
        let (entry, revision) = store.get("/a").await.unwrap();
        let entry = entry.unwrap();
        assert_eq!((entry.create_revision, entry.mod_revision, revision), (first, second, second), "{name}");
        assert_eq!(entry.value, "2", "{name}");
    }
}

#[tokio::test]
async fn a_write_that_expects_another_state_changes_nothing_and_shows_the_current_one() {
    for Engine { name, store, .. } in engines().await {
        let revision = put(&*store, "/a", "1").await;
        for expect in [Expect::Absent, Expect::Revision(revision + 7)] {
            let error = store.put("/a", Bytes::from("x"), expect).await.unwrap_err();
            let Error::Conflict { current: Some(current), .. } = error else { panic!("{name}: {error}") };
            assert_eq!(current.mod_revision, revision, "{name}");
        }
        let error = store.put("/b", Bytes::new(), Expect::Revision(revision)).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { current: None, .. }), "{name}: {error}");
        assert!(store.delete("/a", revision + 1).await.is_err(), "{name}");
        assert!(store.delete("/b", revision).await.is_err(), "{name}");
        assert_eq!(store.revision().await.unwrap(), revision, "{name}");
    }
}

#[tokio::test]
async fn a_key_that_was_deleted_is_created_anew() {
    for Engine { name, store, .. } in engines().await {
        put(&*store, "/a", "1").await;
        delete(&*store, "/a").await;
        assert_eq!(store.get("/a").await.unwrap().0, None, "{name}");
        let again = put(&*store, "/a", "2").await;
        assert_eq!(store.get("/a").await.unwrap().0.unwrap().create_revision, again, "{name}");
    }
}

#[tokio::test]
async fn a_range_is_in_key_order_within_its_prefix() {
    for Engine { name, store, .. } in engines().await {
        for key in ["/p/b", "/q/a", "/p/a", "/p/c", "/o/z"] {
            put(&*store, key, "v").await;
        }
        assert_eq!(listed(&*store, under("/p/")).await, ["/p/a=v", "/p/b=v", "/p/c=v"], "{name}");
        assert_eq!(listed(&*store, under("/none/")).await, Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn pages_at_one_revision_do_not_see_later_changes() {
    for Engine { name, store, .. } in engines().await {
        for key in ["/p/a", "/p/b", "/p/c", "/p/d"] {
            put(&*store, key, "old").await;
        }
        let first = store.range(Range { limit: 2, ..under("/p/") }).await.unwrap();
        assert_eq!((first.entries.len(), first.remaining), (2, 2), "{name}");
        put(&*store, "/p/c", "new").await;
        delete(&*store, "/p/d").await;
        put(&*store, "/p/e", "new").await;
        let rest = Range { after: Some("/p/b".into()), revision: Some(first.revision), ..under("/p/") };
        assert_eq!(listed(&*store, rest).await, ["/p/c=old", "/p/d=old"], "{name}");
    }
}

#[tokio::test]
async fn a_watch_sees_past_and_future_changes_once_and_in_order() {
    for Engine { name, store, .. } in engines().await {
        let start = put(&*store, "/p/a", "1").await;
        put(&*store, "/p/a", "2").await;
        put(&*store, "/q/x", "other").await;
        let watching = tokio::spawn({
            let store = store.clone();
            async move { collect(&*store, "/p/", start, 4).await }
        });
        tokio::task::yield_now().await;
        put(&*store, "/p/b", "1").await;
        delete(&*store, "/p/a").await;
        put(&*store, "/p/a", "3").await;
        let seen = watching.await.unwrap();
        let texts: Vec<_> = seen.iter().map(shown).collect();
        assert_eq!(texts, ["~/p/a=2 was 1", "+/p/b=1", "-/p/a was 2", "+/p/a=3"], "{name}");
        assert!(seen.windows(2).all(|pair| pair[0].revision < pair[1].revision), "{name}");
    }
}

#[tokio::test]
async fn compaction_forgets_the_past_and_keeps_the_present() {
    for Engine { name, store, .. } in engines().await {
        put(&*store, "/p/a", "1").await;
        put(&*store, "/p/b", "1").await;
        put(&*store, "/p/a", "2").await;
        delete(&*store, "/p/b").await;
        let point = put(&*store, "/p/c", "1").await;
        let later = put(&*store, "/p/a", "3").await;
        store.compact(point).await.unwrap();
        let past = Range { revision: Some(point - 1), ..under("/p/") };
        assert!(matches!(store.range(past).await, Err(Error::Compacted { .. })), "{name}");
        assert!(matches!(store.watch("/p/", point - 1).await, Err(Error::Compacted { .. })), "{name}");
        assert_eq!(listed(&*store, under("/p/")).await, ["/p/a=3", "/p/c=1"], "{name}");
        let at = Range { revision: Some(point), ..under("/p/") };
        assert_eq!(listed(&*store, at).await, ["/p/a=2", "/p/c=1"], "{name}");
        let seen = collect(&*store, "/p/", point, 1).await;
        assert_eq!(seen.iter().map(shown).collect::<Vec<_>>(), ["~/p/a=3 was 2"], "{name}");
        store.compact(later).await.unwrap();
        assert_eq!(listed(&*store, under("/p/")).await, ["/p/a=3", "/p/c=1"], "{name}");
        assert!(store.compact(later + 1).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn what_lies_ahead_is_an_error_that_says_so() {
    for Engine { name, store, .. } in engines().await {
        let now = put(&*store, "/a", "1").await;
        let ahead = Range { revision: Some(now + 1), ..under("/") };
        assert!(matches!(store.range(ahead).await, Err(Error::Future { .. })), "{name}");
        assert!(matches!(store.watch("/", now + 1).await, Err(Error::Future { .. })), "{name}");
    }
}

#[tokio::test]
async fn many_writers_of_one_key_lose_no_update() {
    for Engine { name, store, .. } in engines().await {
        put(&*store, "/n", "0").await;
        let writers = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 25 {
                    let entry = store.get("/n").await.unwrap().0.unwrap();
                    let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    let next = Bytes::from((number + 1).to_string());
                    match store.put("/n", next, Expect::Revision(entry.mod_revision)).await {
                        Ok(_) => done += 1,
                        Err(Error::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        futures::future::join_all(writers).await.into_iter().for_each(|end| end.unwrap());
        assert_eq!(store.get("/n").await.unwrap().0.unwrap().value, "200", "{name}");
    }
}

#[tokio::test]
async fn the_disk_brings_back_values_revisions_and_history() {
    let directory = tempfile::tempdir().unwrap();
    let open = || EmbeddedStore::open(directory.path(), Options::default(), clock::system());
    let store = open().unwrap();
    let first = put(&store, "/p/a", "1").await;
    put(&store, "/p/a", "2").await;
    put(&store, "/p/b", "1").await;
    let last = delete(&store, "/p/b").await;
    let refused = open().unwrap_err();
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    drop(store);
    let store = open().unwrap();
    assert_eq!(store.revision().await.unwrap(), last);
    assert_eq!(listed(&store, under("/p/")).await, ["/p/a=2"]);
    let seen = collect(&store, "/p/", first, 3).await;
    assert_eq!(seen.iter().map(shown).collect::<Vec<_>>(), ["~/p/a=2 was 1", "+/p/b=1", "-/p/b was 1"]);
    assert!(put(&store, "/p/c", "1").await > last);
}
