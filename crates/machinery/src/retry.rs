//! The one retry helper and the one way to wait for a condition.

use std::convert::Infallible;
use std::fmt::{Debug, Display};
use std::pin::Pin;
use std::time::Duration;

use crate::clock::Clock;
use crate::names::Random;

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// How the wait grows with each failure.
    pub factor: f64,
    /// The share of each wait that is drawn at random, from 0.0 to 1.0.
    pub jitter: f64,
}

impl Backoff {
    /// From 10 ms to 1 s: for something that is about to be there.
    pub const QUICK: Self =
        Self { first: Duration::from_millis(10), most: Duration::from_secs(1), factor: 1.6, jitter: 0.2 };
    /// From 200 ms to 30 s: for something that may be away for long.
    pub const PATIENT: Self =
        Self { first: Duration::from_millis(200), most: Duration::from_secs(30), factor: 2.0, jitter: 0.2 };

    /// Returns the wait before attempt `failures + 1`.
    #[must_use]
    pub fn delay(&self, failures: u32, random: &Random) -> Duration {
        let grown =
            self.first.as_secs_f64() * self.factor.powi(i32::try_from(failures.min(64)).unwrap_or(64));
        let capped = grown.min(self.most.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 - self.jitter * random.fraction()))
    }
}

/// What an attempt says of going on.
#[derive(Debug)]
pub enum Attempt<T, E> {
    /// It is done.
    Done(T),
    /// Not yet; the text is the last state seen and ends up in the error.
    Again(String),
    /// It cannot succeed; waiting longer would not help.
    Fatal(E),
}

/// Why a wait ended without success.
#[derive(Debug, thiserror::Error)]
pub enum WaitError<E: Display + Debug> {
    /// The deadline passed.
    #[error("gave up after {after:?} waiting for {what}; last seen: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The last state that an attempt reported.
        last: String,
    },
    /// An attempt failed for good.
    #[error("waiting for {what}: {error}")]
    Fatal {
        /// What was waited for.
        what: String,
        /// The failure.
        error: E,
    },
}

/// The attempts that the caller makes itself, against one deadline. For futures that have to be `Send`, which
/// those of an async closure are not.
pub struct Tries<'a> {
    what: &'a str,
    deadline: Duration,
    backoff: Backoff,
    clock: &'a dyn Clock,
    random: &'a Random,
    out_of_time: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    last: String,
    failures: u32,
}

impl<'a> Tries<'a> {
    /// Begins now.
    #[must_use]
    pub fn new(
        what: &'a str,
        deadline: Duration,
        backoff: Backoff,
        clock: &'a dyn Clock,
        random: &'a Random,
    ) -> Self {
        let began = clock.now();
        // A clock counts from where it is first waited on, which may be after a long first attempt.
        let out_of_time = Box::pin(async move {
            let spent = clock.now().duration_since(began).unsigned_abs();
            clock.after(deadline.saturating_sub(spent)).await;
        });
        let last = String::from("nothing yet");
        Self { what, deadline, backoff, clock, random, out_of_time, last, failures: 0 }
    }

    /// Makes an attempt that the deadline ends; without this, an attempt takes as long as it takes.
    ///
    /// # Errors
    /// When the deadline has passed; the attempt is then dropped.
    pub async fn attempt<T>(&mut self, attempt: impl Future<Output = T>) -> Result<T, WaitError<Infallible>> {
        tokio::select! {
            biased;
            outcome = attempt => Ok(outcome),
            () = &mut self.out_of_time => Err(self.over()),
        }
    }

    /// Waits until the next attempt is due, after one that has seen `last`.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub async fn again(&mut self, last: impl Display) -> Result<(), WaitError<Infallible>> {
        self.last = last.to_string();
        let pause = self.backoff.delay(self.failures, self.random);
        self.failures = self.failures.saturating_add(1);
        tokio::select! {
            biased;
            () = &mut self.out_of_time => Err(self.over()),
            () = self.clock.after(pause) => Ok(()),
        }
    }

    fn over(&mut self) -> WaitError<Infallible> {
        let last = std::mem::take(&mut self.last);
        // A future that has completed must not be polled again: whoever asks again is told again.
        self.out_of_time = Box::pin(std::future::ready(()));
        WaitError::Deadline { what: self.what.into(), after: self.deadline, last }
    }
}

impl WaitError<Infallible> {
    /// The same error of a wait that can also fail for good.
    pub fn widen<E: Display + Debug>(self) -> WaitError<E> {
        match self {
            Self::Deadline { what, after, last } => WaitError::Deadline { what, after, last },
            Self::Fatal { error, .. } => match error {},
        }
    }
}

/// Calls `attempt` until it is done, fails for good, or `deadline` has passed.
///
/// # Errors
/// [`WaitError`] names what was waited for and the last state seen.
pub async fn until<T, E, F>(
    what: &str,
    deadline: Duration,
    backoff: Backoff,
    clock: &dyn Clock,
    random: &Random,
    mut attempt: F,
) -> Result<T, WaitError<E>>
where
    E: Display + Debug,
    F: AsyncFnMut() -> Attempt<T, E>,
{
    let mut tries = Tries::new(what, deadline, backoff, clock, random);
    loop {
        match tries.attempt(attempt()).await.map_err(WaitError::widen)? {
            Attempt::Done(value) => return Ok(value),
            Attempt::Fatal(error) => return Err(WaitError::Fatal { what: what.into(), error }),
            Attempt::Again(seen) => tries.again(seen).await.map_err(WaitError::widen)?,
        }
    }
}

/// Like [`until`], in a task that may move between threads: of async closures the compiler cannot tell that.
///
/// # Errors
/// As [`until`].
pub async fn until_sent<T, E, A>(
    what: &str,
    deadline: Duration,
    backoff: Backoff,
    clock: &dyn Clock,
    random: &Random,
    mut attempt: impl FnMut() -> A,
) -> Result<T, WaitError<E>>
where
    E: Display + Debug,
    A: Future<Output = Attempt<T, E>>,
{
    let mut tries = Tries::new(what, deadline, backoff, clock, random);
    loop {
        match tries.attempt(attempt()).await.map_err(WaitError::widen)? {
            Attempt::Done(value) => return Ok(value),
            Attempt::Fatal(error) => return Err(WaitError::Fatal { what: what.into(), error }),
            Attempt::Again(seen) => tries.again(seen).await.map_err(WaitError::widen)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_deadline_carries_the_last_state_seen() {
        let error = until::<(), String, _>(
            "the moon",
            Duration::from_millis(20),
            Backoff { first: Duration::from_millis(1), ..Backoff::QUICK },
            &SystemClock,
            &Random::seeded(1),
            async || Attempt::Again("half".into()),
        )
        .await
        .unwrap_err();
        assert!(error.to_string().ends_with("waiting for the moon; last seen: half"), "{error}");
    }

    #[tokio::test]
    async fn tries_end_at_the_deadline_with_the_last_state_seen() {
        let random = Random::seeded(1);
        let backoff = Backoff { first: Duration::from_millis(1), ..Backoff::QUICK };
        let mut tries = Tries::new("the moon", Duration::from_millis(20), backoff, &SystemClock, &random);
        let mut pauses = 0;
        let error = loop {
            match tries.again(format_args!("phase {pauses}")).await {
                Ok(()) => pauses += 1,
                Err(error) => break error.to_string(),
            }
        };
        assert!(pauses > 1, "{error}");
        assert!(error.ends_with(&format!("waiting for the moon; last seen: phase {pauses}")), "{error}");
    }

    #[test]
    fn the_wait_grows_up_to_its_bound() {
        let random = Random::seeded(1);
        let backoff = Backoff { jitter: 0.0, ..Backoff::QUICK };
        assert_eq!(backoff.delay(0, &random), Duration::from_millis(10));
        assert_eq!(backoff.delay(1, &random), Duration::from_millis(16));
        assert_eq!(backoff.delay(1000, &random), Duration::from_secs(1));
    }
}
