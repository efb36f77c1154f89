//! The informers of one process: one for each kind, however many ask for it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use kube::{Api, Resource};
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::informer::Informer;
use crate::reflect::{self, Selection, Sink};

/// Starts informers and hands them out. Cloning shares them.
#[derive(Clone)]
pub struct Informers {
    client: kube::Client,
    clock: SharedClock,
    random: Random,
    tasks: Tasks,
    started: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// Returns an empty set of informers that will run in `tasks`.
    #[must_use]
    pub fn new(client: kube::Client, clock: SharedClock, random: Random, tasks: Tasks) -> Self {
        Self { client, clock, random, tasks, started: Arc::default() }
    }

    /// Returns the client that the informers read through.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Returns the one informer of every object of kind `K`; starts it when it is asked for the first time.
    #[must_use]
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let mut started = self.started.lock();
        if let Some(informer) = started.get(&TypeId::of::<K>()).and_then(|any| any.downcast_ref()) {
            return Informer::clone(informer);
        }
        let informer = self.start(Api::<K>::all(self.client.clone()), Selection::default());
        started.insert(TypeId::of::<K>(), Box::new(informer.clone()));
        informer
    }

    /// Starts an informer of its own for what `selection` leaves of `api`. It is shared only by cloning it.
    #[must_use]
    pub fn start<K>(&self, api: Api<K>, selection: Selection) -> Informer<K>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let stop = self.tasks.token().child_token();
        let informer = Informer::new(stop.clone().drop_guard());
        self.reflect(api, selection, informer.downgrade(), stop);
        informer
    }

    /// Keeps `sink` equal to what `selection` leaves of `api`, until the returned guard is dropped.
    #[must_use]
    pub fn follow<K, S>(&self, api: Api<K>, selection: Selection, sink: &Arc<S>) -> DropGuard
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        S: Sink<K>,
    {
        let stop = self.tasks.token().child_token();
        self.reflect(api, selection, Arc::downgrade(sink), stop.clone());
        stop.drop_guard()
    }

    fn reflect<K, S>(&self, api: Api<K>, selection: Selection, sink: Weak<S>, stop: CancellationToken)
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        S: Sink<K>,
    {
        let reflecting = reflect::run(api, selection, sink, self.clock.clone(), self.random.clone());
        self.tasks.spawn("informer", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reflecting => {}
            }
        });
    }
}
