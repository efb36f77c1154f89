//! Leases: what makes etcd delete a key by itself. Keys that are written at about the same time share one, as
//! a lease costs etcd more than a key does.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use machinery::clock::SharedClock;
use parking_lot::Mutex;

use super::proto::{LeaseGrantRequest, LeaseGrantResponse};
use super::wire::{Kind, Wire};
use crate::Result;

const GRANT_PATH: &str = "/etcdserverpb.Lease/LeaseGrant";
/// The longest time for which a lease is given to further keys; each of them lives longer by as much at most.
const SHARED: Duration = Duration::from_secs(60);
/// The part of a life by which it may become longer.
const SHARE: u32 = 20;

pub(super) struct Leases {
    clock: SharedClock,
    /// By the life they are for: the lease, and until when further keys get it.
    granted: Mutex<HashMap<Duration, (i64, Timestamp)>>,
}

impl Leases {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, granted: Mutex::default() }
    }

    /// Returns a lease that lasts at least for `life` from now.
    pub(super) async fn lasting(&self, wire: &Wire, life: Duration) -> Result<i64> {
        let now = self.clock.now();
        if let Some((lease, until)) = self.granted.lock().get(&life)
            && now < *until
        {
            return Ok(*lease);
        }
        let shared = (life / SHARE).min(SHARED);
        // Whole seconds, rounded up, and one more: the write that uses it comes a little later.
        let seconds = (life + shared).as_secs() + 2;
        let request = LeaseGrantRequest { ttl: i64::try_from(seconds).unwrap_or(i64::MAX) };
        // A lease that was granted without our knowing goes by itself.
        let answer: LeaseGrantResponse = wire.call(Kind::Read, GRANT_PATH, request).await?;
        let until = now.saturating_add(SignedDuration::try_from(shared).unwrap_or_default()).unwrap_or(now);
        let mut granted = self.granted.lock();
        granted.retain(|_, (_, until)| now < *until);
        granted.insert(life, (answer.id, until));
        Ok(answer.id)
    }
}
