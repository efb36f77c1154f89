//! Priority and fairness: which requests may be worked on at once, so that no client starves the others.
//!
//! Every request belongs to a flow (by a `FlowSchema`) of a level (a `PriorityLevelConfiguration`). A level has a
//! share of all seats; a request that finds none waits in a queue of its flow or is refused (429). Requests that
//! last as long as their client wants take no seat. Without contention a request costs a walk over the schemas
//! and one lock that nobody else holds.

mod defaults;
mod level;
mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::status::Status;
use arc_swap::ArcSwap;
use machinery::clock::SharedClock;
use parking_lot::Mutex;
use serde_json::Value;

use crate::access::UserInfo;
use crate::path::RequestInfo;

pub(crate) use defaults::objects as default_objects;
use level::Level;
pub(crate) use level::Permit;
use schema::Schema;

/// The resources that [`Flow::observe`] wants to see.
pub(crate) const OBSERVED: [&str; 2] =
    ["flowschemas.flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"];
/// How many requests may be worked on at once: as many as upstream's, reads and writes together.
const SEATS: u64 = 600;

/// Where a request belongs.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    /// The uid of the flow schema.
    pub(crate) schema: Arc<str>,
    level: Arc<Level>,
    flow: u64,
}

impl Class {
    /// The uid of the priority level.
    pub(crate) fn level(&self) -> &str {
        &self.level.uid
    }
}

#[derive(Debug, Default)]
struct Seen {
    schemas: BTreeMap<String, Arc<Value>>,
    levels: BTreeMap<String, Arc<Value>>,
    states: BTreeMap<String, Arc<Level>>,
}

/// All schemas and levels. The task that follows the store writes, requests read.
pub(crate) struct Flow {
    seen: Mutex<Seen>,
    /// By precedence, then by name.
    schemas: ArcSwap<Vec<Schema>>,
    clock: SharedClock,
}

impl Flow {
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { seen: Mutex::default(), schemas: ArcSwap::default(), clock }
    }

    /// Takes note of a schema or a level: as it is now, or `None` when it is gone.
    pub(crate) fn observe(&self, resource: &str, name: &str, object: Option<Value>) {
        let mut seen = self.seen.lock();
        let objects = if resource == OBSERVED[0] { &mut seen.schemas } else { &mut seen.levels };
        match object {
            Some(object) => drop(objects.insert(name.to_owned(), Arc::new(object))),
            None => drop(objects.remove(name)),
        }
        let Seen { schemas, levels, states } = &mut *seen;
        let shares = |level: &Value| {
            level["spec"]["limited"]["nominalConcurrencyShares"].as_u64().unwrap_or(0)
                + level["spec"]["exempt"]["nominalConcurrencyShares"].as_u64().unwrap_or(0)
        };
        let all: u64 = levels.values().map(|level| shares(level)).sum::<u64>().max(1);
        states.retain(|name, _| levels.contains_key(name));
        for (name, level) in levels.iter() {
            let seats = (SEATS * shares(level)).div_ceil(all);
            let uid = level["metadata"]["uid"].as_str().unwrap_or_default();
            // Whoever has a seat or waits stays where it is while the numbers change.
            match states.get(name).filter(|known| *known.uid == *uid) {
                Some(known) => known.set(&level["spec"], seats),
                None => drop(states.insert(name.clone(), Arc::new(Level::new(uid, &level["spec"], seats)))),
            }
        }
        let mut all: Vec<Schema> =
            schemas.values().filter_map(|schema| Schema::read(schema, states)).collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        self.schemas.store(Arc::new(all));
    }

    /// Says where a request belongs; `None` while there are no schemas.
    pub(crate) fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<Class> {
        let schemas = self.schemas.load();
        let schema = schemas.iter().find(|schema| schema.matches(user, info))?;
        Some(Class { schema: schema.uid.clone(), level: schema.level.clone(), flow: schema.flow(user, info) })
    }

    /// Waits for a seat. The request may be worked on as long as the permit is held.
    ///
    /// # Errors
    /// 429 when the queue is full, or no seat became free in time.
    pub(crate) async fn admit(&self, class: &Class) -> Result<Permit, Status> {
        level::admit(&class.level, class.flow, &self.clock).await
    }
}

#[cfg(test)]
mod tests;
