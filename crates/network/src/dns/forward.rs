//! Asking upstream servers for names outside the cluster, with a small cache.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use machinery::clock::SharedClock;
use machinery::names::Random;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// The largest answer by UDP that is asked for: what fits into every path's packets.
pub(super) const PAYLOAD: u16 = 1232;
/// How long answers are kept at most, in seconds.
const LONGEST: u32 = 30;
/// How many answers are kept.
const KEPT: usize = 1000;

/// An upstream that was silent so often in a row is left alone for a while.
const SILENCES: u32 = 2;
/// How long, in seconds. A machine without a network then says at once that it cannot know.
const REST: i64 = 5;

/// Upstream servers and what they said.
pub(super) struct Forwarder {
    upstreams: Vec<Upstream>,
    patience: Duration,
    random: Random,
    clock: SharedClock,
    cache: Mutex<Cache>,
    /// The upstream that answered last is asked first, so that a silent one costs its time once.
    first: AtomicUsize,
}

/// A server and how it behaves.
#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    /// Questions in a row that it left without an answer.
    silences: AtomicU32,
    /// The time, in seconds, at which it is asked again.
    rests_until: AtomicI64,
}

type Key = (Name, RecordType, bool);

#[derive(Debug, Default)]
struct Cache {
    /// When each was got (in seconds), how long it may be kept, and what it is.
    answers: BTreeMap<Key, (i64, u32, Message)>,
    /// The order of arrival: the oldest goes first.
    order: VecDeque<Key>,
}

impl Forwarder {
    pub(super) fn new(
        upstreams: Vec<SocketAddr>,
        patience: Duration,
        random: Random,
        clock: SharedClock,
    ) -> Self {
        let upstreams = upstreams
            .into_iter()
            .map(|address| Upstream {
                address,
                silences: AtomicU32::new(0),
                rests_until: AtomicI64::new(i64::MIN),
            })
            .collect();
        Self { upstreams, patience, random, clock, cache: Mutex::default(), first: AtomicUsize::new(0) }
    }

    pub(super) fn has_upstreams(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// Asks the upstreams one after another; `None` when none of them answers in time.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType, dnssec: bool) -> Option<Message> {
        let key = (name.to_lowercase(), kind, dnssec);
        if let Some(answer) = self.cache.lock().get(&key, self.clock.now().as_second()) {
            return Some(answer);
        }
        let mut last = None;
        let first = self.first.load(Ordering::Relaxed);
        for turn in 0..self.upstreams.len() {
            let number = (first + turn) % self.upstreams.len();
            let upstream = &self.upstreams[number];
            if self.clock.now().as_second() < upstream.rests_until.load(Ordering::Relaxed) {
                continue;
            }
            let address = upstream.address;
            let answered = match timeout(self.patience, self.exchange(address, name, kind, dnssec)).await {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %name, %error, "asking an upstream DNS server");
                    None
                }
                Err(_) => {
                    tracing::debug!(%address, %name, "an upstream DNS server did not answer in time");
                    None
                }
            };
            let Some(answer) = answered else {
                if upstream.silences.fetch_add(1, Ordering::Relaxed) + 1 >= SILENCES {
                    upstream.rests_until.store(self.clock.now().as_second() + REST, Ordering::Relaxed);
                }
                continue;
            };
            upstream.silences.store(0, Ordering::Relaxed);
            match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => {
                    self.first.store(number, Ordering::Relaxed);
                    self.cache.lock().put(key, &answer, self.clock.now().as_second());
                    return Some(answer);
                }
                // Another server may know better.
                _ => last = Some(answer),
            }
        }
        last
    }

    async fn exchange(
        &self,
        upstream: SocketAddr,
        name: &Name,
        kind: RecordType,
        dnssec: bool,
    ) -> io::Result<Message> {
        let mut id = [0; 2];
        self.random.fill(&mut id);
        let mut query = Message::new(u16::from_ne_bytes(id), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name.clone(), kind));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD).set_dnssec_ok(dnssec);
        query.set_edns(edns);
        let bytes = query.to_vec().map_err(io::Error::other)?;

        let any: IpAddr = match upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A new socket has a new port, which makes answers hard to forge.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(upstream).await?;
        socket.send(&bytes).await?;
        let mut buffer = [0; PAYLOAD as usize];
        let answer = loop {
            let length = socket.recv(&mut buffer).await?;
            match Message::from_vec(&buffer[..length]) {
                Ok(answer) if answers(&query, &answer) => break answer,
                _ => {}
            }
        };
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        let mut stream = TcpStream::connect(upstream).await?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
        let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut buffer).await?;
        let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
        if answers(&query, &answer) {
            Ok(answer)
        } else {
            Err(io::Error::other("the answer is to another question"))
        }
    }
}

/// Whether `answer` is one to `query`.
fn answers(query: &Message, answer: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == query.metadata.id
        && answer.queries == query.queries
}

impl Cache {
    /// Returns a kept answer, its times to live shortened by its age.
    fn get(&self, key: &Key, now: i64) -> Option<Message> {
        let (since, ttl, answer) = self.answers.get(key)?;
        let age = u32::try_from(now - since).ok().filter(|age| age < ttl)?;
        let mut answer = answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn put(&mut self, key: Key, answer: &Message, now: i64) {
        let ttl = time_to_live(answer);
        if ttl == 0 {
            return;
        }
        if self.answers.insert(key.clone(), (now, ttl, answer.clone())).is_none() {
            self.order.push_back(key);
        }
        while self.answers.len() > KEPT {
            let Some(oldest) = self.order.pop_front() else { return };
            self.answers.remove(&oldest);
        }
    }
}

/// Returns how long an answer may be kept: the shortest of its records, or what the SOA says of nothing.
fn time_to_live(answer: &Message) -> u32 {
    let shortest = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    let negative = || {
        answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
    };
    shortest(&answer.answers).or_else(negative).unwrap_or(0).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_server::proto::rr::rdata::A;
    use machinery::clock::ManualClock;

    use super::*;

    fn key(name: &str) -> Key {
        (Name::from_ascii(name).unwrap(), RecordType::A, false)
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let data = RData::A(A(Ipv4Addr::LOCALHOST));
        message.add_answer(Record::from_rdata(Name::root(), ttl, data));
        message
    }

    #[tokio::test]
    async fn a_silent_upstream_is_left_alone_for_a_while() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let clock = ManualClock::new(machinery::clock::system().now());
        let forwarder = Forwarder::new(
            vec![silent.local_addr().unwrap()],
            Duration::from_millis(20),
            Random::seeded(1),
            Arc::new(clock.clone()),
        );
        let name = Name::from_ascii("www.example.com.").unwrap();
        let asked = async |times: usize| {
            for _ in 0..times {
                assert_eq!(forwarder.ask(&name, RecordType::A, false).await, None);
            }
            let mut buffer = [0; 512];
            std::iter::from_fn(|| silent.try_recv(&mut buffer).ok()).count()
        };
        assert_eq!(asked(5).await, 2, "two silences are enough");
        clock.advance(Duration::from_secs(4));
        assert_eq!(asked(1).await, 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(asked(3).await, 1, "one more is enough to let it rest again");
    }

    #[test]
    fn kept_answers_age_and_end() {
        let mut cache = Cache::default();
        cache.put(key("a."), &answer(10), 100);
        assert_eq!(cache.get(&key("a."), 104).unwrap().answers[0].ttl, 6);
        assert_eq!(cache.get(&key("a."), 110), None);
        assert_eq!(cache.get(&key("a."), 99), None, "the clock was set back");
    }

    #[test]
    fn long_answers_are_kept_for_a_bounded_time_and_number() {
        let mut cache = Cache::default();
        cache.put(key("never."), &answer(0), 0);
        assert_eq!(cache.get(&key("never."), 0), None);
        for number in 0..KEPT + 5 {
            cache.put(key(&format!("n{number}.")), &answer(3600), 0);
        }
        assert_eq!(cache.answers.len(), KEPT);
        assert_eq!(cache.get(&key("n4."), 0), None);
        assert!(cache.get(&key("n5."), 29).is_some());
        assert_eq!(cache.get(&key("n5."), 30), None);
    }
}
