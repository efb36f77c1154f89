//! Many watchers of the same objects: how many events reach them, and how late.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::wire::Connection;
use crate::{Figures, MAPS, Server, map, milliseconds, spread};

/// How many writes are under way at a time.
const WRITERS: usize = 4;

pub(crate) async fn measure(server: &Server, watchers: usize, writes: usize, figures: &mut Figures) {
    let mut connection = server.target.connect().await.unwrap();
    let create = connection.send("POST", MAPS, &map("watched", 0)).await.unwrap();
    let created: serde_json::Value = serde_json::from_slice(&create.body).unwrap();
    let version = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut connection = server.target.connect().await.unwrap();
        let uri = format!("{MAPS}?watch=true&resourceVersion={version}");
        assert_eq!(connection.watch(&uri).await.unwrap(), 200);
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            drop(sender.send(arrivals(connection, writes).await));
        });
        tasks.push(receiver);
    }
    let before = server.cpu();
    let began = Instant::now();
    let (sender, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let write = move |mut connection: Connection, index: usize| {
        let sender = sender.clone();
        async move {
            sender.send((index, Instant::now())).unwrap();
            let answer = connection.send("POST", MAPS, &map(&format!("event-{index}"), index)).await.unwrap();
            assert_eq!(answer.code, 201);
            connection
        }
    };
    spread(&server.target, WRITERS, writes, write).await;
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    let took = began.elapsed();
    let mut starts = vec![began; writes];
    while let Ok((index, at)) = sent.try_recv() {
        starts[index] = at;
    }
    let mut delays: Vec<Duration> =
        all.iter().flatten().map(|(index, at)| at.saturating_duration_since(starts[*index])).collect();
    delays.sort_unstable();
    let events = (watchers * writes) as f64;
    figures.add("100 watchers × 500 writes, events a second", "≥ 300,000", events / took.as_secs_f64());
    figures.add("from the write's start to the event, p50 ms", "≤ 15", milliseconds(&delays, 0.5));
    figures.add("from the write's start to the event, p99 ms", "≤ 40", milliseconds(&delays, 0.99));
    figures.add("server CPU µs per event", "", (server.cpu() - before) * 1e3 / events);
}

/// Reads the events of one watcher: which write each is of, and when it came.
async fn arrivals(mut connection: Connection, writes: usize) -> Vec<(usize, Instant)> {
    const NAME: &[u8] = br#""name":"event-"#;
    let (mut seen, mut buffer) = (Vec::with_capacity(writes), Vec::new());
    while seen.len() < writes && connection.chunk(&mut buffer).await.unwrap() {
        let now = Instant::now();
        // An event may be cut in two by the chunks' borders: what follows the last line waits.
        let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { continue };
        for line in buffer[..end].split(|byte| *byte == b'\n') {
            let name = line.windows(NAME.len()).position(|window| window == NAME).unwrap() + NAME.len();
            let digits = line[name..].iter().take_while(|byte| byte.is_ascii_digit());
            let index = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            seen.push((index, now));
        }
        buffer.drain(..=end);
    }
    seen
}
