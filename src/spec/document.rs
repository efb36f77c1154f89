//! `cluster.yaml` as it is written: every value with the place that it stands at.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Line and column of the file, from 1.
    File(u64, u64),
    /// A flag of the command line.
    Flag(&'static str),
    /// Nobody wrote it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(line, column) => write!(f, "line {line}, column {column}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it was written.
    pub(crate) place: Place,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_yaml::Spanned::<T>::deserialize(deserializer)?;
        let place = Place::File(spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { value: spanned.value, place })
    }
}

impl<T> At<T> {
    /// Returns a value that a flag gave.
    pub(crate) fn flag(flag: &'static str, value: T) -> Self {
        Self { value, place: Place::Flag(flag) }
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    pub(super) name: Option<At<String>>,
    pub(super) provider: Option<At<String>>,
    pub(super) masters: Option<Group>,
    pub(super) workers: Option<Group>,
    pub(super) network: Option<NetworkSection>,
    pub(super) etcd: Option<EtcdSection>,
    pub(super) registries: Option<Registries>,
    pub(super) runtime: Option<At<String>>,
    pub(super) os: Option<OsSection>,
    pub(super) ssh: Option<SshSection>,
    pub(super) ignition: Option<At<String>>,
    pub(super) proxy: Option<ProxySection>,
    #[serde(default)]
    pub(super) certificates: Vec<At<String>>,
}

/// Machines of one role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Group {
    pub(super) count: Option<At<i64>>,
    pub(super) first_address: Option<At<String>>,
    pub(super) cpus: Option<At<String>>,
    pub(super) memory: Option<At<String>>,
    pub(super) disk: Option<At<String>>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, At<String>>,
}

/// Addresses and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NetworkSection {
    pub(super) nodes: Option<At<String>>,
    pub(super) pods: Option<At<String>>,
    pub(super) services: Option<At<String>>,
    pub(super) host: Option<At<String>>,
    pub(super) api: Option<At<String>>,
    pub(super) etcd: Option<At<String>>,
    pub(super) dns: Option<At<String>>,
    pub(super) domain: Option<At<String>>,
    pub(super) api_port: Option<At<i64>>,
    pub(super) node_ports: Option<At<String>>,
    pub(super) load_balancers: Option<At<String>>,
}

/// The store of several masters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EtcdSection {
    pub(super) executable: Option<At<String>>,
    pub(super) image: Option<At<String>>,
    pub(super) members: Option<At<String>>,
    #[serde(default)]
    pub(super) endpoints: Vec<At<String>>,
    pub(super) certificates: Option<EtcdCertificatesSection>,
    pub(super) prefix: Option<At<String>>,
}

/// The files of mutual TLS with an etcd that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EtcdCertificatesSection {
    pub(super) authority: At<String>,
    pub(super) certificate: At<String>,
    pub(super) key: At<String>,
}

/// Where images come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Registries {
    #[serde(default)]
    pub(super) mirrors: BTreeMap<String, Vec<At<String>>>,
}

/// The operating system of virtual machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OsSection {
    pub(super) flavor: Option<At<String>>,
    pub(super) channel: Option<At<String>>,
    pub(super) version: Option<At<String>>,
    #[serde(rename = "box")]
    pub(super) vagrant_box: Option<At<String>>,
    pub(super) box_url: Option<At<String>>,
    pub(super) image: Option<At<String>>,
    pub(super) checksum: Option<At<String>>,
    pub(super) signature: Option<At<String>>,
    pub(super) signing_keys: Option<At<String>>,
}

/// How virtual machines are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SshSection {
    pub(super) user: Option<At<String>>,
    pub(super) public_key: Option<At<String>>,
    pub(super) private_key: Option<At<String>>,
}

/// How virtual machines reach registries outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProxySection {
    pub(super) http_proxy: Option<At<String>>,
    pub(super) https_proxy: Option<At<String>>,
    #[serde(default)]
    pub(super) no_proxy: Vec<At<String>>,
}
