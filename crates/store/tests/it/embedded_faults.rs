//! The embedded engine when its disk is full, damaged or newer: an error that says so, never a wrong answer.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use machinery::clock;
use machinery::names::Random;
use machinery::retry::{self, Attempt, Backoff};
use store::{EmbeddedStore, Entry, Error, Expect, Options, Range, Revision, Store};

use crate::history::calls;
use crate::kit::{PATIENCE, delete, put, under};

fn open(directory: &Path) -> store::Result<EmbeddedStore> {
    // Small, so that tables are written, too.
    let options = Options { memtable_bytes: 16 << 10, ..Options::default() };
    EmbeddedStore::open(directory, options, clock::system())
}

/// Everything that a store can be asked for.
async fn all(store: &EmbeddedStore) -> store::Result<(Revision, Vec<Entry>)> {
    store.verify().await?;
    let page = store.range(under("/")).await?;
    Ok((page.revision, page.entries))
}

/// Returns where the zeros at the end begin. By blocks: 64 MB one by one take a second without optimisation.
fn used(bytes: &[u8]) -> usize {
    let zeros = [0; 4096];
    let blocks = bytes
        .chunks(zeros.len())
        .rposition(|block| *block != zeros[..block.len()])
        .map_or(0, |last| last + 1);
    let end = bytes.len().min(blocks * zeros.len());
    bytes[..end].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Writes a file whose zeros at the end take no room and no time: a journal has 64 MB of them.
fn write_sparse(path: &Path, bytes: &[u8]) {
    let used = used(bytes);
    std::fs::write(path, &bytes[..used]).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            write_sparse(&to.join(entry.file_name()), &std::fs::read(entry.path()).unwrap());
        }
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// A store with tables, journal, deletions, compaction; returns its content.
async fn filled(directory: &Path) -> (Revision, Vec<Entry>) {
    let store = open(directory).unwrap();
    for number in 0..300 {
        put(&store, &format!("/p/{}", number % 40), &format!("{number} {}", "x".repeat(400))).await;
    }
    delete(&store, "/p/7").await;
    let point = store.revision().await.unwrap();
    store.compact(point - 50).await.unwrap();
    store.defragment().await.unwrap();
    for number in 0..60 {
        put(&store, &format!("/q/{}", number % 50), &number.to_string()).await;
    }
    all(&store).await.unwrap()
}

#[tokio::test]
async fn damage_is_found_and_never_read() {
    let whole = tempfile::tempdir().unwrap();
    let content = filled(whole.path()).await;
    let random = Random::seeded(11);
    let (mut noticed, mut harmless) = (0, 0);
    for path in files(whole.path()) {
        let bytes = std::fs::read(&path).unwrap();
        // Where there is something; a journal's unused end is zeros.
        let used = used(&bytes);
        for damage in 0..calls(4, 40) {
            if used == 0 {
                continue;
            }
            let at = usize::try_from(random.below(used as u64)).unwrap();
            let mut bad = bytes.clone();
            match damage % 4 {
                0 => bad[at] ^= 1 << random.below(8),
                1 => bad.truncate(at),
                2 => bad[at..used.min(at + 64)].fill(0),
                _ => bad[at..used].rotate_left((used - at) / 2),
            }
            if bad == bytes {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            copy(whole.path(), directory.path());
            let name = path.strip_prefix(whole.path()).unwrap();
            write_sparse(&directory.path().join(name), &bad);
            let found = match open(directory.path()) {
                Ok(store) => all(&store).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => {
                    assert!(
                        found == content,
                        "{} damaged at {at} ({damage}): another content",
                        name.display()
                    );
                    harmless += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(&*directory.path().to_string_lossy()), "says where: {text}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 20, "{noticed} noticed, {harmless} without effect");
}

#[tokio::test]
async fn a_newer_format_is_refused_and_an_older_one_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let content = filled(directory.path()).await;
    let set = |format: u64| {
        let database = fjall::Database::builder(directory.path()).open().unwrap();
        let meta = database.keyspace("meta", fjall::KeyspaceCreateOptions::default).unwrap();
        meta.insert("format", format.to_be_bytes()).unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    };
    set(3);
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert!(error.to_string().contains("format 3 by a newer version; this one reads format 2"), "{error}");
    set(1);
    assert_eq!(all(&open(directory.path()).unwrap()).await.unwrap(), content);
    assert_eq!(all(&open(directory.path()).unwrap()).await.unwrap(), content);
}

pub(crate) const FULL: &str = "STORE_FULL_DISK";

/// Runs a test again in a mount namespace of its own.
#[expect(clippy::print_stdout, reason = "what the test in there has counted is shown")]
pub(crate) fn in_namespace(test: &str, directory: &Path, setup: &str) {
    let script = format!("set -e; {setup}; exec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(FULL, directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    println!("{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_survived() {
    let Some(directory) = std::env::var_os(FULL).map(std::path::PathBuf::from) else {
        let directory = tempfile::tempdir().unwrap();
        let mount = format!("mount -t tmpfs -o size=12m none {}", directory.path().display());
        return in_namespace("embedded_faults::a_full_disk_is_said_and_survived", directory.path(), &mount);
    };
    // With room kept free, and without: then the disk itself refuses.
    for reserve in [2 << 20, 0] {
        let directory = directory.join(reserve.to_string());
        let ballast = directory.with_extension("ballast");
        let options = || Options { reserve_bytes: reserve, memtable_bytes: 256 << 10, ..Options::default() };
        let store = EmbeddedStore::open(&directory, options(), clock::system()).unwrap();
        std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
        let mut acknowledged = Vec::new();
        let refused = loop {
            let key = format!("/p/{:04}", acknowledged.len());
            let value = Bytes::from(vec![u8::try_from(acknowledged.len() % 251).unwrap(); 20_000]);
            match store.put(&key, value.clone(), Expect::Absent).await {
                Ok(entry) => acknowledged.push(entry),
                Err(error) => break error,
            }
            assert!(acknowledged.len() < 2000, "the disk never fills up");
        };
        assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("full") || text.contains("No space left"), "{text}");
        if reserve > 0 {
            // Reading and deleting go on.
            assert_eq!(all(&store).await.unwrap().1, acknowledged);
            let last = acknowledged.pop().unwrap();
            store.delete(&last.key, last.mod_revision).await.unwrap();
        }
        std::fs::remove_file(&ballast).unwrap();
        let random = Random::from_os();
        // It goes on by itself once there is room.
        let again = retry::until(
            "room",
            PATIENCE,
            Backoff::QUICK,
            &machinery::clock::SystemClock,
            &random,
            async || {
                match store.put("/z", Bytes::from("v"), Expect::Absent).await {
                    Ok(entry) => Attempt::Done(entry),
                    Err(Error::Unavailable(seen)) => Attempt::Again(seen),
                    // An attempt that was not acknowledged may have been done.
                    Err(Error::Conflict { current: Some(entry), .. }) => Attempt::Done(entry),
                    Err(error) => Attempt::Fatal(error.to_string()),
                }
            },
        );
        acknowledged.push(again.await.unwrap());
        let check = async |store: &EmbeddedStore| {
            let found = all(store).await.unwrap().1;
            let missing: Vec<_> = acknowledged.iter().filter(|entry| !found.contains(entry)).collect();
            assert!(missing.is_empty(), "{} entries are lost", missing.len());
            assert!(found.len() <= acknowledged.len() + 1, "at most the refused write is there beside them");
        };
        check(&store).await;
        drop(store);
        check(&EmbeddedStore::open(&directory, options(), clock::system()).unwrap()).await;
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[tokio::test]
async fn a_read_only_disk_is_said() {
    let Some(directory) = std::env::var_os(FULL).map(std::path::PathBuf::from) else {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path()).await;
        let path = directory.path().display();
        let mount = format!("mount --bind {path} {path}; mount -o remount,ro,bind {path}");
        return in_namespace("embedded_faults::a_read_only_disk_is_said", directory.path(), &mount);
    };
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("mount it writable again"), "{error}");
}

#[tokio::test]
async fn ranges_of_a_store_that_was_damaged_while_open_fail_whole() {
    let directory = tempfile::tempdir().unwrap();
    let content = filled(directory.path()).await;
    let store = open(directory.path()).unwrap();
    for path in files(directory.path()).iter().filter(|path| path.to_string_lossy().contains("/tables/")) {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[..middle].fill(0xa5);
        // In place: the store has the file open.
        use std::os::unix::fs::FileExt;
        std::fs::File::options().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    match store.range(Range::default()).await {
        Ok(page) => assert_eq!(page.entries, content.1, "from memory"),
        Err(error) => assert!(matches!(error, Error::Damaged(_) | Error::Unavailable(_)), "{error}"),
    }
}
