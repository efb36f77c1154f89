//! Named tasks with one owner that cancels and joins them.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A group of tasks that end together. Cloning shares the group.
#[derive(Clone, Debug)]
pub struct Tasks {
    token: CancellationToken,
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// Returns an empty group whose tasks are told to stop by `token`.
    #[must_use]
    pub fn new(token: CancellationToken) -> Self {
        Self { token, set: Arc::new(Mutex::new(JoinSet::new())) }
    }

    /// Returns the token that tells this group's tasks to stop.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts `work` under `name`. It is dropped at its next await once the group is cancelled.
    /// A panic in it is logged and ends the whole group: a process with a missing part must not go on.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        let mut set = self.set.lock();
        // Finished tasks are taken out here, so that a long-lived group does not grow.
        while set.try_join_next().is_some() {}
        set.spawn(async move {
            let watched = tokio::spawn({
                let token = token.clone();
                async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = work => {}
                    }
                }
            });
            if let Err(error) = watched.await
                && error.is_panic()
            {
                tracing::error!(task = name, %error, "task panicked");
                token.cancel();
            }
        });
    }

    /// Cancels every task and waits until all have ended.
    pub async fn stop(&self) {
        self.token.cancel();
        let mut set = std::mem::take(&mut *self.set.lock());
        while set.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_ends_a_task_that_would_never_end() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("forever", std::future::pending());
        tasks.stop().await;
    }

    #[tokio::test]
    async fn a_panic_cancels_the_group() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("bad", async { panic!("on purpose") });
        tasks.token().cancelled().await;
    }
}
