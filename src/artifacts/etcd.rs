//! What a master needs of etcd: its member's configuration and certificates, and how its API server reaches all
//! members.

use serde::Serialize;

use super::File;
use super::pki::Pki;
use crate::error::{Context, Result};
use crate::plan::{Authority, ETCD_PEER_PORT, ETCD_PORT, Machine, PKI_DIRECTORY, Plan};

/// Where a member's data is.
pub(crate) const DATA: &str = "/var/lib/etcd";
/// How often a leader is heard of, and after how long a silence another one is elected; milliseconds. The API stands
/// still from the loss of the leader to one or two times the latter; a disk may stall for as long without harm.
const HEARTBEAT: u32 = 100;
const ELECTION: u32 = 700;
/// The most that the members keep, bytes: the most that etcd's documentation advises.
const QUOTA: u64 = 8 << 30;

/// A member's configuration file, in the words of etcd's own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    name: String,
    data_dir: &'static str,
    listen_client_urls: String,
    advertise_client_urls: String,
    listen_peer_urls: String,
    initial_advertise_peer_urls: String,
    initial_cluster: String,
    initial_cluster_token: String,
    initial_cluster_state: &'static str,
    client_transport_security: Security,
    peer_transport_security: Security,
    heartbeat_interval: u32,
    election_timeout: u32,
    /// A member that comes back asks before it unsettles the leader that is there.
    pre_vote: bool,
    quota_backend_bytes: u64,
    logger: &'static str,
    log_level: &'static str,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Security {
    cert_file: String,
    key_file: String,
    client_cert_auth: bool,
    trusted_ca_file: String,
}

/// Returns the store of a master's API server.
pub(super) fn store(plan: &Plan, machine: &Machine) -> control_plane::StoreConfig {
    let Some(etcd) = &plan.spec.etcd else { return control_plane::StoreConfig::Embedded };
    let pki = |name: &str| format!("{PKI_DIRECTORY}/{name}").into();
    control_plane::StoreConfig::Etcd(control_plane::Etcd {
        endpoints: plan.etcd_endpoints(machine),
        ca: pki("etcd-ca.crt"),
        cert: pki("apiserver-etcd-client.crt"),
        key: pki("apiserver-etcd-client.key"),
        prefix: etcd.prefix.clone().unwrap_or_else(|| format!("/{}", plan.spec.name)),
    })
}

/// Returns the files that a master has because of etcd.
pub(super) fn files(plan: &Plan, machine: &Machine, pki: &Pki) -> Result<Vec<File>> {
    if plan.spec.etcd.is_none() {
        return Ok(Vec::new());
    }
    let directory = PKI_DIRECTORY;
    let client = pki.pair("apiserver-etcd-client")?;
    let mut files = vec![
        File::public(format!("{directory}/etcd-ca.crt"), pki.certificate_of(Authority::Etcd)?.to_owned()),
        File::public(format!("{directory}/apiserver-etcd-client.crt"), client.certificate.clone()),
        File::private(format!("{directory}/apiserver-etcd-client.key"), client.key.clone()),
    ];
    if plan.own_etcd() {
        let member = pki.pair(&format!("{}-etcd", machine.name))?;
        files.extend([
            File::public(format!("{directory}/{}-etcd.crt", machine.name), member.certificate.clone()),
            File::private(format!("{directory}/{}-etcd.key", machine.name), member.key.clone()),
            File::public("/etc/kubernetes/etcd.yaml", member_config(plan, machine)?),
        ]);
    }
    Ok(files)
}

/// Returns the URL at which the other members reach the one on a machine.
pub(crate) fn peer_url(machine: &Machine) -> String {
    format!("https://{}:{ETCD_PEER_PORT}", machine.address)
}

fn member_config(plan: &Plan, machine: &Machine) -> Result<String> {
    let client_url = format!("https://{}:{ETCD_PORT}", machine.address);
    let all: Vec<String> =
        plan.masters().map(|master| format!("{}={}", master.name, peer_url(master))).collect();
    let joined = plan.spec.etcd.as_ref().is_some_and(|etcd| etcd.joined.contains(&machine.index));
    let security = Security {
        cert_file: format!("{PKI_DIRECTORY}/{}-etcd.crt", machine.name),
        key_file: format!("{PKI_DIRECTORY}/{}-etcd.key", machine.name),
        client_cert_auth: true,
        trusted_ca_file: format!("{PKI_DIRECTORY}/etcd-ca.crt"),
    };
    let config = Config {
        name: machine.name.clone(),
        data_dir: DATA,
        listen_client_urls: client_url.clone(),
        advertise_client_urls: client_url,
        listen_peer_urls: peer_url(machine),
        initial_advertise_peer_urls: peer_url(machine),
        initial_cluster: all.join(","),
        initial_cluster_token: plan.spec.name.clone(),
        initial_cluster_state: if joined { "existing" } else { "new" },
        client_transport_security: security.clone(),
        peer_transport_security: security,
        heartbeat_interval: HEARTBEAT,
        election_timeout: ELECTION,
        pre_vote: true,
        quota_backend_bytes: QUOTA,
        logger: "zap",
        log_level: "warn",
    };
    serde_yaml::to_string(&config).context("writing etcd.yaml")
}
