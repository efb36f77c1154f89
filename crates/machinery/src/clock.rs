//! The one way to ask for the time. Production code holds a [`Clock`]; tests step a [`ManualClock`].

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Tells the time and wakes its callers later.
#[async_trait::async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;

    /// Completes once `duration` has passed on this clock.
    async fn after(&self, duration: Duration);
}

/// A clock that is shared by the parts of a process.
pub type SharedClock = Arc<dyn Clock>;

/// Returns the clock of the machine.
#[must_use]
pub fn system() -> SharedClock {
    Arc::new(SystemClock)
}

/// The machine's own clock; waits on tokio's timer.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

#[async_trait::async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn after(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that moves only when a test says so.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<Mutex<Timestamp>>,
    moved: Arc<watch::Sender<()>>,
}

impl ManualClock {
    /// Returns a clock that stands at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { now: Arc::new(Mutex::new(start)), moved: Arc::new(watch::Sender::new(())) }
    }

    /// Moves the clock forward and wakes whoever waited for a moment that has now come.
    pub fn advance(&self, by: Duration) {
        {
            let mut now = self.now.lock();
            *now = now
                .saturating_add(jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX))
                .unwrap_or(Timestamp::MAX);
        }
        self.moved.send_replace(());
    }
}

#[async_trait::async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.lock()
    }

    async fn after(&self, duration: Duration) {
        let mut moved = self.moved.subscribe();
        let due = self
            .now()
            .saturating_add(jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX))
            .unwrap_or(Timestamp::MAX);
        while self.now() < due {
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_waiters_when_it_is_moved() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.after(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clock.advance(Duration::from_secs(1));
        waiting.await.unwrap();
        assert_eq!(clock.now().as_second(), 10);
    }
}
