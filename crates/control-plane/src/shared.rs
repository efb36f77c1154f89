//! The address that moves between the masters: one of those whose API server works has it, and says so by ARP.
//!
//! Nobody is asked who that is, so that the loss of a master, even of the store's leader, is made good without the
//! store: whoever has the address announces it four times a second, and another master takes it when it has heard
//! nothing for a while. Two that have it at once, for a moment, are two working API servers over one store.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::clock::SharedClock;
use machinery::names::Random;
use network::shared::{Heard, Mac, SharedAddress};

/// How often whoever has the address announces it.
const ANNOUNCE: Duration = Duration::from_millis(250);
/// After so long without an announcement the address is free: three of them may be lost or late.
const SILENCE: Duration = Duration::from_secs(1);
/// After a probe, which its holder answers at once, it is free sooner.
const PROBED: Duration = Duration::from_millis(150);
/// Up to so much longer is waited, so that two masters seldom take it at once.
const JITTER: Duration = Duration::from_millis(150);
/// How often whoever has the address looks whether its API server works, and how long that may take.
const CHECK: Duration = Duration::from_millis(500);
const CHECKED: Duration = Duration::from_secs(2);

/// What a master does about the address next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// It tells everybody that the address is here.
    Claim,
    /// It takes the address if nobody announces it for so long, and its API server works.
    Await(Duration),
    /// It looks whether its API server works.
    Look,
    /// It goes on as before.
    Nothing,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Another master has announced that it has the address.
    Claimed(Mac),
    /// Somebody asked whether anybody has it.
    Probed,
    /// Nobody has announced it for as long as was waited.
    Silence,
    /// The API server was looked at.
    Works(bool),
}

/// Who this master is, and whether it has the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contest {
    own: Mac,
    holds: bool,
}

impl Contest {
    /// Decides what to do. Of two that have the address the one with the lower hardware address keeps it.
    fn react(&mut self, event: Event) -> Act {
        match (event, self.holds) {
            (Event::Claimed(other), true) if self.own < other => Act::Claim,
            // The address is still free: the store may be about to have a leader again.
            (Event::Works(false), false) => Act::Await(PROBED),
            (Event::Claimed(_), _) | (Event::Works(false), true) => {
                self.holds = false;
                Act::Await(SILENCE)
            }
            (Event::Probed, true) | (Event::Silence, true) => Act::Claim,
            (Event::Probed, false) => Act::Await(PROBED),
            // An API server that does not work is of no use to anybody.
            (Event::Silence, false) => Act::Look,
            (Event::Works(true), true) => Act::Nothing,
            (Event::Works(true), false) => {
                self.holds = true;
                Act::Claim
            }
        }
    }
}

/// Tells whether this master's API server can serve.
pub(crate) type Works = dyn Fn() -> BoxFuture<'static, bool> + Send + Sync;

/// Takes part for as long as it is polled, and leaves the address to another master when it is dropped.
///
/// # Errors
/// When the link of the node network is down or gone.
pub(crate) async fn run(
    shared: &SharedAddress,
    works: &Works,
    clock: &SharedClock,
    random: &Random,
) -> network::Result<Infallible> {
    let mut seat = Seat { shared, contest: Contest { own: shared.mac(), holds: false } };
    let contest = &mut seat.contest;
    let pause = |wait: Duration| clock.after(wait + JITTER.mul_f64(random.fraction()));
    let look = |wait: Option<Duration>| -> BoxFuture<'_, bool> {
        async move {
            if let Some(wait) = wait {
                clock.after(wait).await;
            }
            tokio::select! {
                works = works() => works,
                () = clock.after(CHECKED) => false,
            }
        }
        .boxed()
    };
    // Whoever has it says so at once; nobody does in a cluster that begins.
    shared.probe()?;
    let mut timer = pause(PROBED);
    let mut check: BoxFuture<'_, bool> = pending().boxed();
    loop {
        let event = tokio::select! {
            heard = shared.next() => match heard? {
                Heard::Claim(mac) => Event::Claimed(mac),
                Heard::Probe => Event::Probed,
                Heard::Question(question) if contest.holds => {
                    shared.answer(&question)?;
                    continue;
                }
                Heard::Question(_) => continue,
            },
            () = &mut timer => Event::Silence,
            works = &mut check => Event::Works(works),
        };
        let held = contest.holds;
        let act = contest.react(event);
        if held != contest.holds {
            tracing::info!(has = contest.holds, ?event, "the masters' shared address");
        }
        match act {
            Act::Claim => {
                shared.claim()?;
                timer = clock.after(ANNOUNCE);
            }
            Act::Await(wait) => {
                timer = pause(wait);
                check = pending().boxed();
            }
            Act::Look => {
                timer = Box::pin(pending());
                check = look(None);
            }
            Act::Nothing => {}
        }
        if matches!(event, Event::Works(true)) {
            check = look(Some(CHECK));
        }
    }
}

/// A part in the contest. Others need not wait until a holder that goes is missed.
struct Seat<'a> {
    shared: &'a SharedAddress,
    contest: Contest,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.contest.holds
            && let Err(error) = self.shared.probe()
        {
            tracing::debug!(%error, "leaving the masters' shared address");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Mac = [2, 0, 0, 0, 0, 1];
    const MIDDLE: Mac = [2, 0, 0, 0, 0, 2];
    const HIGH: Mac = [2, 0, 0, 0, 0, 3];

    #[test]
    fn the_address_is_taken_when_it_is_free_and_kept_while_the_api_server_works() {
        let without = Contest { own: MIDDLE, holds: false };
        let with = Contest { own: MIDDLE, holds: true };
        for (before, event, act, after) in [
            (without, Event::Silence, Act::Look, without),
            (without, Event::Works(true), Act::Claim, with),
            (without, Event::Works(false), Act::Await(PROBED), without),
            (without, Event::Claimed(HIGH), Act::Await(SILENCE), without),
            (without, Event::Probed, Act::Await(PROBED), without),
            (with, Event::Silence, Act::Claim, with),
            (with, Event::Probed, Act::Claim, with),
            (with, Event::Works(true), Act::Nothing, with),
            (with, Event::Works(false), Act::Await(SILENCE), without),
            (with, Event::Claimed(HIGH), Act::Claim, with),
            (with, Event::Claimed(LOW), Act::Await(SILENCE), without),
        ] {
            let mut contest = before;
            assert_eq!((contest.react(event), contest), (act, after), "{before:?} {event:?}");
        }
    }
}
