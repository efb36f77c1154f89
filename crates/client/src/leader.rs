//! Leadership among several control planes, on a Lease: one holds it and renews it, the others wait for it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use machinery::clock::SharedClock;

/// For how long a holder that does not renew keeps the lease.
const DURATION: Duration = Duration::from_secs(15);
/// By when a holder has to have renewed, or it steps down.
const RENEW_BY: Duration = Duration::from_secs(10);
/// The time between renewals, and between looks of those who wait.
const RETRY: Duration = Duration::from_secs(2);

/// A contest for one lease.
pub struct Leadership {
    leases: Api<Lease>,
    name: String,
    identity: String,
    clock: SharedClock,
    seen: Option<Seen>,
}

/// What was last seen of the lease, and when: others' clocks are not trusted, only that the lease changes.
struct Seen {
    holder: String,
    renewed: Option<Timestamp>,
    at: Timestamp,
}

/// What to do about the lease.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    Create,
    Renew,
    Take,
    Wait,
}

impl Leadership {
    /// Takes part in the contest for the lease `name` in `namespace` as `identity`, which nobody else may use.
    #[must_use]
    pub fn new(
        client: kube::Client,
        namespace: &str,
        name: &str,
        identity: &str,
        clock: SharedClock,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            clock,
            seen: None,
        }
    }

    /// Completes once this process leads.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(lease = self.name, %error, "no leadership yet"),
            }
            self.clock.after(RETRY).await;
        }
    }

    /// Renews the lease; completes once leadership is lost. What only the leader may do has to end then.
    pub async fn hold(&mut self) {
        let clock = self.clock.clone();
        let mut renewed = clock.now();
        loop {
            clock.after(RETRY).await;
            let began = clock.now();
            let left = RENEW_BY.saturating_sub(began.duration_since(renewed).unsigned_abs());
            // An attempt that hangs must not make this one lead on while another already does.
            let attempt = tokio::select! {
                biased;
                attempt = self.attempt() => attempt,
                () = clock.after(left) => {
                    tracing::warn!(lease = self.name, "leadership lost: it was not renewed in time");
                    return;
                }
            };
            match attempt {
                // Of the time before: what the others saw is not older than that.
                Ok(true) => renewed = began,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(lease = self.name, %error, "leadership not renewed; trying again");
                }
            }
        }
    }

    /// Gives the lease up, so that another need not wait for its end. Only after all that the leader may do has
    /// ended.
    pub async fn release(&mut self) {
        let released = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            // As client-go does: a second, so that whoever looks does not wait either.
            spec.lease_duration_seconds = Some(1);
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        if let Err(error) = released.await {
            tracing::debug!(lease = self.name, %error, "leadership not given up; it ends by itself");
        }
    }

    /// Looks at the lease and takes or renews it if that is due; returns whether this process leads.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let now = self.clock.now();
        let current = self.leases.get_opt(&self.name).await?;
        let step = self.decide(current.as_ref(), now);
        let result = match (step, current) {
            (Move::Wait, _) => return Ok(false),
            (Move::Create, _) | (_, None) => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: Some(self.spec(None, true, now)),
                };
                self.leases.create(&PostParams::default(), &lease).await
            }
            (step, Some(mut lease)) => {
                lease.spec = Some(self.spec(lease.spec.as_ref(), step == Move::Take, now));
                self.leases.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match result {
            Ok(_) => Ok(true),
            // Someone else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn decide(&mut self, lease: Option<&Lease>, now: Timestamp) -> Move {
        let Some(spec) = lease.map(|lease| lease.spec.clone().unwrap_or_default()) else {
            return Move::Create;
        };
        let holder = spec.holder_identity.unwrap_or_default();
        if holder == self.identity {
            return Move::Renew;
        }
        if holder.is_empty() {
            return Move::Take;
        }
        let renewed = spec.renew_time.map(|time| time.0);
        match &self.seen {
            Some(seen) if seen.holder == holder && seen.renewed == renewed => {
                let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                let lasts = lasts.map_or(DURATION, Duration::from_secs);
                if now.duration_since(seen.at).unsigned_abs() >= lasts { Move::Take } else { Move::Wait }
            }
            _ => {
                self.seen = Some(Seen { holder, renewed, at: now });
                Move::Wait
            }
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>, taken: bool, now: Timestamp) -> LeaseSpec {
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        let acquired = old.and_then(|old| old.acquire_time.clone()).filter(|_| !taken);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions + i32::from(taken && old.is_some())),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use machinery::clock::ManualClock;

    use super::*;

    fn contest() -> Leadership {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("not used"))
        });
        let client = kube::Client::new(service, "default");
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        Leadership::new(client, "kube-system", "controllers", "me", clock)
    }

    fn lease(holder: &str, renewed: i64) -> Lease {
        let renewed = Timestamp::from_second(renewed).unwrap();
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            renew_time: Some(MicroTime(renewed)),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[tokio::test]
    async fn a_lease_is_taken_when_it_is_free_or_its_holder_has_been_silent_for_its_length() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut contest = contest();
        assert_eq!(contest.decide(None, at(0)), Move::Create);
        assert_eq!(contest.decide(Some(&lease("me", 0)), at(0)), Move::Renew);
        assert_eq!(contest.decide(Some(&lease("", 0)), at(0)), Move::Take);
        assert_eq!(contest.decide(Some(&lease("other", 0)), at(100)), Move::Wait);
        assert_eq!(contest.decide(Some(&lease("other", 0)), at(114)), Move::Wait);
        assert_eq!(contest.decide(Some(&lease("other", 5)), at(115)), Move::Wait, "it spoke");
        assert_eq!(contest.decide(Some(&lease("other", 5)), at(130)), Move::Take);
    }
}
