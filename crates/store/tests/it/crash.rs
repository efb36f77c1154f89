//! `kill -9` at random moments: what was acknowledged is there afterwards.
//!
//! The test starts itself again as a writer in a process of its own, reads from a pipe what the writer had
//! acknowledged, kills it, and opens the store.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use machinery::clock;
use machinery::names::Random;
use store::{EmbeddedStore, Expect, Options, Range, Store};

const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const WRITERS: usize = 16;
const ROUNDS: u64 = 12;

#[test]
fn what_was_acknowledged_survives_kill_nine() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        write_forever(directory.as_ref());
    }
    let directory = tempfile::tempdir().unwrap();
    let random = Random::seeded(9);
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    let mut revision = 0;
    for round in 0..ROUNDS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["crash::what_was_acknowledged_survives_kill_nine", "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let kill_after = 50 + random.below(2000);
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            // The last line may be cut off by the kill.
            let Ok(line) = line else { break };
            let mut words = line.split(' ');
            if let (Some("ack"), Some(key), Some(value), Some(".")) =
                (words.next(), words.next(), words.next(), words.next())
            {
                acknowledged.insert(key.to_owned(), value.parse().unwrap());
                seen += 1;
            }
            if seen == kill_after {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(seen >= kill_after, "round {round}: the writer stopped by itself after {seen} writes");
        revision = check(directory.path(), &acknowledged, revision);
    }
}

fn check(directory: &std::path::Path, acknowledged: &HashMap<String, u64>, before: u64) -> u64 {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::open(directory, Options::default(), clock::system()).unwrap();
        let page = store.range(Range { prefix: "/".into(), ..Range::default() }).await.unwrap();
        let found: HashMap<String, u64> = page
            .entries
            .iter()
            .map(|entry| {
                let value = std::str::from_utf8(&entry.value).unwrap();
                let number = value.split(' ').next().unwrap().parse().unwrap();
                (entry.key.to_string(), number)
            })
            .collect();
        for (key, value) in acknowledged {
            let now = found.get(key).unwrap_or_else(|| panic!("{key} is gone"));
            // One write may have been durable without its acknowledgement having reached us.
            assert!(*now == *value || *now == *value + 1, "{key}: acknowledged {value}, found {now}");
        }
        assert!(page.revision > before, "revisions go on increasing");
        page.revision
    })
}

/// Writes counters until it is killed; says so of each write once it is acknowledged.
fn write_forever(directory: &std::path::Path) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(directory, Options::default(), clock::system()).unwrap());
        let writers = (0..WRITERS).map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("/counters/{number}");
                loop {
                    let (entry, _) = store.get(&key).await.unwrap();
                    let (expect, next) = match &entry {
                        None => (Expect::Absent, 1),
                        Some(entry) => {
                            let value = std::str::from_utf8(&entry.value).unwrap();
                            let number: u64 = value.split(' ').next().unwrap().parse().unwrap();
                            (Expect::Revision(entry.mod_revision), number + 1)
                        }
                    };
                    let value = format!("{next} {}", "x".repeat(500));
                    store.put(&key, Bytes::from(value), expect).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {key} {next} .").unwrap();
                }
            })
        });
        futures::future::join_all(writers).await;
    });
    unreachable!("the writers never end");
}
