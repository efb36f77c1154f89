//! What several API servers over one store have to agree on: who of them is there, and who gives out addresses.
//!
//! Each announces itself by an entry that goes by itself when it is not renewed; the endpoints of the service
//! `kubernetes` are those who are there. Writes of services take turns by another such entry. A server that is
//! alone does neither.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use bytes::Bytes;
use futures::StreamExt;
use machinery::tasks::Tasks;
use store::{Change, Error, Event, Events, Expect, Range, Revision, Store};

use crate::server::ApiServer;

/// Below this, one entry for each server, named by its address.
const MASTERS: &str = "/masters/";
/// How long a server that is silent counts as there, as upstream's endpoint leases do.
const LIFE: Duration = Duration::from_secs(15);
/// How often a server renews its entry.
const RENEW: Duration = Duration::from_secs(5);
/// How long a server that ends may take to say so.
const LEAVE: Duration = Duration::from_secs(1);
/// Whoever holds this writes services.
const TURN: &str = "/locks/services";
/// After so long a turn is over even if its holder has gone away.
const TURN_LIFE: Duration = Duration::from_secs(10);
/// How long a write of a service waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(15);

/// Returns the addresses of all servers that are there, this one among them, in order.
pub(crate) async fn present(server: &ApiServer) -> store::Result<Vec<IpAddr>> {
    let own = server.config.advertise_address;
    let mut addresses = vec![own];
    if server.config.several_masters {
        let page = server.cache.store().range(Range { prefix: MASTERS.into(), ..Range::default() }).await?;
        addresses.extend(
            page.entries.iter().filter_map(|entry| entry.key.strip_prefix(MASTERS)?.parse::<IpAddr>().ok()),
        );
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Renews this server's entry for as long as it runs.
pub(crate) async fn announce(server: &Arc<ApiServer>) {
    let key = format!("{MASTERS}{}", server.config.advertise_address);
    let mut expect = Expect::Absent;
    loop {
        match server.cache.store().put_for(&key, Bytes::new(), expect, LIFE).await {
            Ok(entry) => expect = Expect::Revision(entry.mod_revision),
            Err(Error::Conflict { current, .. }) => {
                expect = current.map_or(Expect::Absent, |entry| Expect::Revision(entry.mod_revision));
                continue;
            }
            Err(error) => tracing::warn!(%error, "announcing this API server"),
        }
        server.clock.after(RENEW).await;
    }
}

/// Takes this server's entry away, so that the others need not wait for its end to lead nobody here any more.
pub(crate) async fn leave(server: &ApiServer) {
    if !server.config.several_masters {
        return;
    }
    let key = format!("{MASTERS}{}", server.config.advertise_address);
    let leaving = async {
        if let (Some(entry), _) = server.cache.store().get(&key).await? {
            server.cache.store().delete(&key, entry.mod_revision).await?;
        }
        Ok::<_, Error>(())
    };
    tokio::select! {
        left = leaving => if let Err(error) = left {
            tracing::debug!(%error, "this API server's entry ends by itself");
        },
        () = server.clock.after(LEAVE) => {}
    }
}

/// The comings and goings of servers.
pub(crate) struct Presence {
    events: Option<Events>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self { events: None }
    }

    /// Waits until a server has come or gone, or may have while nobody looked.
    pub(crate) async fn changed(&mut self, server: &ApiServer) {
        if !server.config.several_masters {
            return std::future::pending().await;
        }
        loop {
            let Some(events) = &mut self.events else {
                let store = server.cache.store();
                let begun = async { store.watch(MASTERS, store.revision().await?).await };
                match begun.await {
                    Ok(events) => self.events = Some(events),
                    Err(error) => {
                        tracing::warn!(%error, "watching for other API servers");
                        server.clock.after(RENEW).await;
                    }
                }
                return;
            };
            match events.next().await {
                Some(Ok(batch)) if batch.events.iter().any(comes_or_goes) => return,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.events = None,
            }
        }
    }
}

fn comes_or_goes(event: &Event) -> bool {
    !matches!(&event.change, Change::Put { previous: Some(_), .. })
}

/// The right to write services among all servers; given back when dropped.
pub(crate) struct Turn {
    store: Arc<dyn Store>,
    tasks: Tasks,
    revision: Revision,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (store, revision) = (self.store.clone(), self.revision);
        self.tasks.spawn("turn of a service write", async move {
            // If it fails, it ends by itself soon.
            if let Err(error) = store.delete(TURN, revision).await {
                tracing::debug!(%error, "giving back the turn to write services");
            }
        });
    }
}

/// Waits for this server's turn to write services.
pub(crate) async fn turn(server: &ApiServer) -> Result<Option<Turn>, Status> {
    if !server.config.several_masters {
        return Ok(None);
    }
    tokio::select! {
        taken = take_turn(server) => taken.map(Some).map_err(Status::internal),
        () = server.clock.after(TURN_PATIENCE) => Err(Status::internal(format!(
            "other API servers have been writing services for {TURN_PATIENCE:?}; try again"
        ))),
    }
}

async fn take_turn(server: &ApiServer) -> store::Result<Turn> {
    let store = server.cache.store();
    loop {
        // Watched from before, so that its end cannot be missed.
        let before = store.revision().await?;
        let holder = server.config.advertise_address.to_string();
        match store.put_for(TURN, holder.into(), Expect::Absent, TURN_LIFE).await {
            Ok(entry) => {
                let revision = entry.mod_revision;
                return Ok(Turn { store: store.clone(), tasks: server.tasks.clone(), revision });
            }
            Err(Error::Conflict { .. }) => {
                let mut events = store.watch(TURN, before).await?;
                while let Some(batch) = events.next().await {
                    if batch?.events.iter().any(|event| matches!(event.change, Change::Delete { .. })) {
                        break;
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
}
