//! The controllers: loops that make the cluster what its objects say. One module a controller.
//!
//! Each reads from shared informer caches, decides in functions that a table can test, and writes through the
//! API. None opens a socket or polls; [`run`] starts them all.
//!
//! To add a controller: a module with `pub(crate) fn start(context: &Context)` that observes informers into a
//! [`client::WorkQueue`] and hands a reconcile function to [`frame::Context::work`]; a line in [`run`].

mod addons;
mod autoscaler;
mod certificates;
mod claim;
mod config;
mod cron_job;
mod daemon_set;
mod deployment;
mod discover;
mod disruption;
mod endpoints;
mod frame;
mod garbage;
mod history;
mod job;
mod load_balancer;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_roles;
mod pod_gc;
mod pods;
mod quota;
mod replicas;
mod role_aggregation;
mod service_account;
mod stateful_set;
mod ttl;

use client::Informers;
pub use config::Config;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;

/// Starts every controller in `tasks`. `informers` may be shared with others in the process; `client` carries the
/// controllers' identity.
pub fn run(
    client: kube::Client,
    informers: &Informers,
    config: Config,
    clock: SharedClock,
    random: Random,
    tasks: &Tasks,
) {
    let context = frame::Context {
        client,
        informers: informers.clone(),
        config: std::sync::Arc::new(config),
        clock,
        random,
        tasks: tasks.clone(),
    };
    replicas::start::<k8s_openapi::api::core::v1::ReplicationController>(&context, "replication controllers");
    replicas::start::<k8s_openapi::api::apps::v1::ReplicaSet>(&context, "replica sets");
    deployment::start(&context);
    endpoints::start(&context);
    node_ipam::start(&context);
    node_roles::start(&context);
    service_account::start(&context);
    addons::start(&context);
    namespace::start(&context);
    garbage::start(&context);
    pod_gc::start(&context);
    node_lifecycle::start(&context);
    load_balancer::start(&context);
    job::start(&context);
    cron_job::start(&context);
    ttl::start(&context);
    daemon_set::start(&context);
    stateful_set::start(&context);
    disruption::start(&context);
    quota::start(&context);
    certificates::start(&context);
    role_aggregation::start(&context);
    autoscaler::start(&context);
}
