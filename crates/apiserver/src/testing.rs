//! A whole API server in this process over a store in memory, for the tests of those who use it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use machinery::clock::{self, SharedClock};
use machinery::names::Random;
use machinery::tasks::Tasks;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::{ApiServer, Config, Pki};

/// Returns the settings of a server that nobody reaches over a network.
///
/// # Panics
/// When no key can be made, which means that the machine has no randomness.
#[must_use]
pub fn config() -> Config {
    let authority = rcgen::generate_simple_self_signed(["test authority".to_owned()])
        .expect("a self-signed certificate needs nothing but randomness");
    Config {
        advertise_address: IpAddr::V4(Ipv4Addr::new(172, 17, 4, 101)),
        port: 443,
        service_network: "10.3.0.0/24".parse().expect("a literal"),
        dns_address: Ipv4Addr::new(10, 3, 0, 10),
        cluster_domain: "cluster.local".into(),
        node_ports: 30000..=32767,
        several_masters: false,
        pki: Pki {
            ca_certificate: authority.cert.pem(),
            service_account_key: authority.signing_key.serialize_pem(),
            kubelet_client: None,
            front_proxy: None,
        },
        audit: None,
        static_tokens: crate::access::StaticTokens::default(),
    }
}

/// Starts a server on an empty store in memory. Its tasks end with the returned group.
///
/// # Panics
/// When the server cannot start, which is a defect.
pub async fn start() -> (Arc<ApiServer>, Tasks) {
    start_with(Arc::new(store::MemoryStore::new()), clock::system()).await
}

/// Starts a server on a store, with a clock that the test may hold.
///
/// # Panics
/// When the server cannot start, which is a defect.
pub async fn start_with(store: Arc<dyn Store>, clock: SharedClock) -> (Arc<ApiServer>, Tasks) {
    let tasks = Tasks::new(CancellationToken::new());
    let server = ApiServer::open(config(), store, clock, Random::from_os(), tasks.clone())
        .await
        .expect("an API server starts on a working store");
    (server, tasks)
}

/// Returns a client that may do everything.
#[must_use]
pub fn admin(server: &Arc<ApiServer>) -> kube::Client {
    server.local_client("kubernetes-admin", &["system:masters"])
}
