//! What runs once in a cluster: the controllers and the scheduler. A master that is alone runs them at once; of
//! several, each is run by whoever holds its lease, for as long as it does.

use std::sync::Arc;

use apiserver::ApiServer;
use client::{Informers, Leadership};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;

/// Where the leases are, as upstream's.
const NAMESPACE: &str = "kube-system";
const MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// Starts a component.
type Run = fn(&Leading, &Informers, &Tasks);

/// What the singletons need.
#[derive(Clone)]
pub(crate) struct Leading {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) controllers: controllers::Config,
    pub(crate) clock: SharedClock,
    pub(crate) random: Random,
}

impl Leading {
    fn client(&self, component: &str) -> kube::Client {
        self.server.local_client(&format!("system:{component}"), &[])
    }

    fn informers(&self, tasks: &Tasks) -> Informers {
        Informers::new(self.client(MANAGER), self.clock.clone(), self.random.clone(), tasks.clone())
    }

    fn run_controllers(&self, informers: &Informers, tasks: &Tasks) {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        controllers::run(self.client(MANAGER), informers, self.controllers.clone(), clock, random, tasks);
    }

    fn run_scheduler(&self, informers: &Informers, tasks: &Tasks) {
        scheduler::run(self.client(SCHEDULER), informers, self.clock.clone(), self.random.clone(), tasks);
    }

    /// Runs everything in `tasks`.
    pub(crate) fn alone(&self, tasks: &Tasks) {
        let informers = self.informers(tasks);
        self.run_controllers(&informers, tasks);
        self.run_scheduler(&informers, tasks);
    }

    /// Takes part in both contests as `identity` and runs what it leads.
    pub(crate) fn among_several(self, identity: &str, tasks: &Tasks) {
        let contests: [(&'static str, Run); 2] =
            [(MANAGER, Self::run_controllers), (SCHEDULER, Self::run_scheduler)];
        for (component, run) in contests {
            let (own, outer, identity) = (self.clone(), tasks.clone(), identity.to_owned());
            tasks.spawn(component, async move { own.contest(component, &identity, run, &outer).await });
        }
    }

    async fn contest(&self, component: &'static str, identity: &str, run: Run, outer: &Tasks) {
        let clock = self.clock.clone();
        let mut leadership = Leadership::new(self.client(component), NAMESPACE, component, identity, clock);
        loop {
            leadership.acquire().await;
            tracing::info!(component, identity, "leads");
            // Ends with the process, too: its parts are told to stop when the whole is.
            let term = Tasks::new(outer.token().child_token());
            run(self, &self.informers(&term), &term);
            let failed = term.token();
            tokio::select! {
                () = leadership.hold() => tracing::warn!(component, identity, "no longer leads"),
                () = failed.cancelled() => {
                    // A part of it panicked; the process must not go on without it.
                    term.stop().await;
                    leadership.release().await;
                    outer.token().cancel();
                    return;
                }
            }
            term.stop().await;
        }
    }
}
