//! `kill -9` at random moments: what was acknowledged is there afterwards, nothing is half there, and a watcher
//! that resumes sees exactly what it has missed.
//!
//! The test starts itself again as a writer in a process of its own, reads from a pipe what the writer had
//! acknowledged, kills it, and opens the store. A dozen times in every run; 200 times with `STORE_FULL=1`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use machinery::clock;
use machinery::names::Random;
use store::{Change, EmbeddedStore, Expect, Options, Range, Revision, Store};

use crate::history::calls;
use crate::kit::collect;

const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const WRITERS: usize = 32;

fn options() -> Options {
    // Small, so that tables are written and merged while the process is killed.
    Options { memtable_bytes: 256 << 10, ..Options::default() }
}

/// What a writer was told: the key, its value, the revision.
type Acknowledged = (String, u64, Revision);

#[test]
fn what_was_acknowledged_survives_kill_nine() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        write_forever(directory.as_ref());
    }
    let directory = tempfile::tempdir().unwrap();
    let random = Random::seeded(9);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let begin = runtime.block_on(async {
        let store = EmbeddedStore::open(directory.path(), options(), clock::system()).unwrap();
        store.revision().await.unwrap()
    });
    let mut state = State { revision: begin, values: HashMap::new() };
    let (mut total, rounds) = (0, calls(12, 200));
    for round in 0..rounds {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["crash::what_was_acknowledged_survives_kill_nine", "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let kill_after = 50 + random.below(2000);
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut acknowledged: Vec<Acknowledged> = Vec::new();
        for line in lines {
            // The last line may be cut off by the kill.
            let Ok(line) = line else { break };
            let words: Vec<&str> = line.split(' ').collect();
            if let ["ack", key, value, revision, "."] = words[..] {
                acknowledged.push((key.to_owned(), value.parse().unwrap(), revision.parse().unwrap()));
            }
            if acknowledged.len() as u64 == kill_after {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        let seen = acknowledged.len();
        assert!(seen as u64 >= kill_after, "round {round}: the writer stopped by itself after {seen} writes");
        total += seen;
        runtime.block_on(check(directory.path(), &acknowledged, &mut state));
    }
    println!(
        "killed {rounds} times; each of {total} acknowledged writes was there; revision {}",
        state.revision
    );
}

/// How the store was when it was last looked at.
struct State {
    revision: Revision,
    values: HashMap<String, u64>,
}

async fn check(directory: &Path, acknowledged: &[Acknowledged], state: &mut State) {
    let store = EmbeddedStore::open(directory, options(), clock::system()).unwrap();
    store.verify().await.unwrap();
    let current = store.revision().await.unwrap();
    let begin = state.revision;
    assert!(current > begin, "revisions go on increasing");
    // What a watcher that had seen everything before the writer began sees now.
    let missed = usize::try_from(current - begin).unwrap();
    let events = collect(&store, "/", begin, missed).await;
    let revisions: Vec<Revision> = events.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, (begin + 1..=current).collect::<Vec<_>>(), "every revision once and in order");
    let mut written: HashMap<Revision, (String, u64)> = HashMap::new();
    for event in &events {
        let Change::Put { entry, .. } = &event.change else { panic!("nobody deletes: {event:?}") };
        let value = number(&entry.value);
        let before = state.values.insert(entry.key.to_string(), value).unwrap_or(0);
        assert_eq!(value, before + 1, "{} counts up by one", entry.key);
        written.insert(event.revision, (entry.key.to_string(), value));
    }
    for (key, value, revision) in acknowledged {
        assert_eq!(written.get(revision), Some(&(key.clone(), *value)), "acknowledged at {revision}");
    }
    // Beside the acknowledged writes there are at most those that each writer had under way.
    assert!(written.len() <= acknowledged.len() + WRITERS, "{} of {}", written.len(), acknowledged.len());
    let page = store.range(Range { prefix: "/".into(), ..Range::default() }).await.unwrap();
    let found: HashMap<String, u64> =
        page.entries.iter().map(|entry| (entry.key.to_string(), number(&entry.value))).collect();
    assert_eq!(found, state.values, "the present is what the events add up to");
    state.revision = current;
}

fn number(value: &Bytes) -> u64 {
    let value = std::str::from_utf8(value).unwrap();
    assert!(value.ends_with(&"x".repeat(500)), "no half value");
    value.split(' ').next().unwrap().parse().unwrap()
}

/// Writes counters until it is killed; says so of each write once it is acknowledged.
fn write_forever(directory: &Path) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(directory, options(), clock::system()).unwrap());
        let writers = (0..WRITERS).map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("/counters/{number}");
                loop {
                    let (entry, _) = store.get(&key).await.unwrap();
                    let (expect, next) = match &entry {
                        None => (Expect::Absent, 1),
                        Some(entry) => (Expect::Revision(entry.mod_revision), self::number(&entry.value) + 1),
                    };
                    let value = format!("{next} {}", "x".repeat(500));
                    let entry = store.put(&key, Bytes::from(value), expect).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {key} {next} {} .", entry.mod_revision).unwrap();
                }
            })
        });
        futures::future::join_all(writers).await;
    });
    unreachable!("the writers never end");
}
