//! What the user asks for: `cluster.yaml`, flags and defaults, checked and complete.
//!
//! [`parse`] reads the file, flags are laid over it, [`check`] finds everything that is wrong at once and
//! returns a [`ClusterSpec`] in which nothing is left open. Pure: no file, no clock, no kernel.

mod check;
mod document;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub(crate) use check::{MOST_MASTERS, NODE_PREFIX, check, masters_warning};
pub(crate) use document::{At, Document, Place};

use crate::error::Error;

/// Everything that decides what a cluster is. Saved in the state directory by `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ClusterSpec {
    /// The cluster's name: a DNS label.
    pub(crate) name: String,
    /// Who makes the machines.
    pub(crate) provider: ProviderKind,
    /// The machines that run the control plane.
    pub(crate) masters: Machines,
    /// The machines that run pods only.
    pub(crate) workers: Machines,
    /// Addresses and ports.
    pub(crate) network: Network,
    /// The store of several masters; `None` is the one in the only master.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) etcd: Option<Etcd>,
    /// For each registry its mirrors, as URLs.
    pub(crate) mirrors: BTreeMap<String, Vec<String>>,
    /// Which engine runs the containers.
    #[serde(default)]
    pub(crate) runtime: Runtime,
    /// The operating system; of virtual machines only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) os: Option<Os>,
    /// How virtual machines are reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ssh: Option<Ssh>,
    /// The user's own Ignition configuration, which wins over the tool's; of virtual machines only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ignition: Option<PathBuf>,
    /// How virtual machines reach registries outside.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) proxy: Option<Proxy>,
    /// Files with certificates of authorities that virtual machines trust beside their system's own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) certificates: Vec<PathBuf>,
}

impl ClusterSpec {
    /// Reads paths as relative to `directory`, the one that the spec's file is in: every later command finds
    /// what they name, wherever it is called.
    pub(crate) fn anchor(&mut self, directory: &Path) {
        let file = |path: &mut PathBuf| *path = directory.join(&*path);
        self.ignition.iter_mut().for_each(file);
        self.certificates.iter_mut().for_each(file);
        if let Some(Etcd { executable, certificates, .. }) = &mut self.etcd {
            executable.iter_mut().for_each(file);
            if let Some(EtcdCertificates { authority, certificate, key }) = certificates {
                [authority, certificate, key].into_iter().for_each(file);
            }
        }
        self.ssh.iter_mut().filter_map(|ssh| ssh.private_key.as_mut()).for_each(file);
        self.os.iter_mut().filter_map(|os| os.signing_keys.as_mut()).for_each(file);
        let sources = self.os.iter_mut().flat_map(|os| [&mut os.image, &mut os.signature, &mut os.box_url]);
        for source in sources.flatten().filter(|source| !source.contains("://")) {
            *source = directory.join(&*source).display().to_string();
        }
    }
}

/// Which engine runs the containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Runtime {
    /// The node agent's own.
    #[default]
    Builtin,
    /// The containerd that the operating system brings.
    Cri,
}

impl Runtime {
    /// Returns its name in the spec.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Cri => "cri",
        }
    }
}

/// Who makes the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProviderKind {
    /// Namespaces of this Linux machine.
    Local,
    /// Virtual machines that Vagrant boots.
    Vagrant,
    /// Virtual machines that QEMU boots directly.
    Qemu,
}

impl ProviderKind {
    /// Returns its name in the spec.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Vagrant => "vagrant",
            Self::Qemu => "qemu",
        }
    }
}

/// Machines of one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Machines {
    /// How many.
    pub(crate) count: u32,
    /// Places in the row of addresses that are left out: `cluster node remove` took those machines away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) absent: BTreeSet<u32>,
    /// The first one's address; the others follow.
    pub(crate) first_address: Ipv4Addr,
    /// Thousandths of a CPU each may use; `None` is all.
    pub(crate) milli_cpus: Option<u32>,
    /// Bytes of memory each may use; `None` is all.
    pub(crate) memory: Option<u64>,
    /// Bytes of disk; virtual machines only.
    pub(crate) disk: Option<u64>,
    /// Labels that the nodes register with.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Network {
    /// Where machines have their addresses.
    pub(crate) nodes: Ipv4Net,
    /// Where pods have theirs; each node gets a /24.
    pub(crate) pods: Ipv4Net,
    /// Where services have theirs.
    pub(crate) services: Ipv4Net,
    /// The host's address in the node network.
    pub(crate) host: Ipv4Addr,
    /// The address that moves between the masters, at which users find the API; where masters share a store.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) api: Option<Ipv4Addr>,
    /// The first etcd member's address.
    pub(crate) etcd: Ipv4Addr,
    /// The cluster DNS's service address.
    pub(crate) dns: Ipv4Addr,
    /// The DNS domain of the cluster.
    pub(crate) domain: String,
    /// The TCP port of the API on every master.
    pub(crate) api_port: u16,
    /// First and last node port.
    pub(crate) node_ports: (u16, u16),
    /// First and last address for services of type LoadBalancer.
    pub(crate) load_balancers: (Ipv4Addr, Ipv4Addr),
}

/// The store of several masters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Etcd {
    /// The executable of the members that the tool sets up on the masters; `None` is the one in this host's PATH.
    pub(crate) executable: Option<PathBuf>,
    /// The members that somebody else runs, as `https://HOST:PORT`; without any the tool sets members up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints: Vec<String>,
    /// How to prove who one is to members that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificates: Option<EtcdCertificates>,
    /// What every key begins with; `None` is the cluster's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    /// The places of masters that came when the others were there: `cluster master add`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) joined: BTreeSet<u32>,
}

/// The files of mutual TLS with an etcd that somebody else runs, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EtcdCertificates {
    /// The authority that has signed the members' certificates.
    pub(crate) authority: PathBuf,
    /// The certificate to show the members.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

/// The operating system of virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Os {
    /// Which one.
    pub(crate) flavor: Flavor,
    /// Its release channel.
    pub(crate) channel: String,
    /// One version; `None` is the channel's newest.
    pub(crate) version: Option<String>,
    /// The Vagrant box's name.
    pub(crate) vagrant_box: Option<String>,
    /// Where the box comes from.
    pub(crate) box_url: Option<String>,
    /// A disk image: a path or URL.
    pub(crate) image: Option<String>,
    /// The image's or box's SHA-256, in hexadecimal.
    pub(crate) checksum: Option<String>,
    /// The image's detached OpenPGP signature: a path or URL; `None` is beside the image, with `.sig` appended.
    #[serde(default)]
    pub(crate) signature: Option<String>,
    /// The file with the keys that may have signed the image; without it no signature is looked at.
    #[serde(default)]
    pub(crate) signing_keys: Option<PathBuf>,
}

/// Which CoreOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flavor {
    /// Flatcar Container Linux.
    Flatcar,
    /// Fedora CoreOS.
    FedoraCoreos,
}

impl Flavor {
    /// Returns its name in the spec.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flatcar => "flatcar",
            Self::FedoraCoreos => "fedora-coreos",
        }
    }
}

/// How virtual machines are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Ssh {
    /// The user to log in as.
    pub(crate) user: String,
    /// A public key to let in: beside the tool's own, or that of `private_key`.
    pub(crate) public_key: Option<String>,
    /// The file of the private key to log in with; `None` lets the tool make one.
    #[serde(default)]
    pub(crate) private_key: Option<PathBuf>,
}

/// How virtual machines reach registries outside.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Proxy {
    /// The proxy for `http` URLs. May have a password in it.
    pub(crate) http_proxy: Option<String>,
    /// The proxy for `https` URLs. May have a password in it.
    pub(crate) https_proxy: Option<String>,
    /// Hosts, domains and networks to reach directly, beside the cluster's own.
    pub(crate) no_proxy: Vec<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("no_proxy", &self.no_proxy).finish_non_exhaustive()
    }
}

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where it was written.
    pub(crate) place: Place,
    /// The field's path, such as `network.pods`.
    pub(crate) field: String,
    /// What is wrong, with the value.
    pub(crate) wrong: String,
    /// What would be right.
    pub(crate) right: String,
}

/// What flags say; each one wins over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Overrides {
    /// Who makes the machines: local, vagrant or qemu
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// How many machines run the control plane
    #[arg(long)]
    pub(crate) masters: Option<i64>,
    /// How many machines run pods only
    #[arg(long)]
    pub(crate) workers: Option<i64>,
    /// The machines' network, such as 172.17.4.0/24
    #[arg(long, value_name = "CIDR")]
    pub(crate) node_network: Option<String>,
    /// The pods' network, such as 10.2.0.0/16
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_network: Option<String>,
    /// The services' network, such as 10.3.0.0/24
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_network: Option<String>,
}

/// Reads a spec without checking what its values mean.
///
/// # Errors
/// Text that is not YAML, an unknown field, a value of the wrong type; with its line.
pub(crate) fn parse(text: &str) -> Result<Document, Problem> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Document::default());
    }
    serde_yaml::from_str::<Document>(text).map_err(|error| {
        let place = error
            .location()
            .map_or(Place::Default, |location| Place::File(location.line(), location.column()));
        let message = error.without_snippet().to_string();
        let written = match place {
            Place::File(line, column) => written_at(text, line, column),
            _ => "",
        };
        // The library ends some messages with the place, which the problem carries by itself.
        let (wrong, right) = explain(message.split(" at line ").next().unwrap_or_default().trim(), written);
        Problem { place, field: String::new(), wrong, right }
    })
}

/// Returns what stands at a place, to the end of its line.
fn written_at(text: &str, line: u64, column: u64) -> &str {
    let index = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(index(line)).unwrap_or_default();
    let start = line.char_indices().nth(index(column)).map_or(line.len(), |(start, _)| start);
    line[start..].trim_end_matches([' ', '}', ']', ','])
}

/// Says in words of this file's what the YAML library says in its own: what is wrong, and what would be right.
fn explain(message: &str, written: &str) -> (String, String) {
    if let Some((_, rest)) = message.split_once("unknown field `")
        && let Some((field, rest)) = rest.split_once('`')
    {
        let known: Vec<&str> =
            rest.split_once("one of ").map_or(Vec::new(), |(_, known)| known.split(", ").collect());
        let nearest = known.iter().copied().min_by_key(|known| distance(field, known));
        let right = match nearest {
            Some(nearest) if distance(field, nearest) <= 2 => {
                format!("{nearest}; known are {}", known.join(", "))
            }
            _ => format!("one of {}", known.join(", ")),
        };
        return (format!("there is no field {field:?}"), right);
    }
    let said = |what: &str, right: &str| (format!("{written:?} {what}"), right.to_owned());
    if message.contains("mapping start") {
        said("is no section of fields", "lines of FIELD: VALUE, such as name: lab")
    } else if message.contains("sequence start") {
        said("is no list", "[VALUE, VALUE] or lines of - VALUE")
    } else if message.contains("invalid i64") {
        said("is no whole number", "digits, such as 1")
    } else if message.contains("string scalar") {
        said("is no text", "one word or line, in quotes where it has signs of YAML in it")
    } else if message.contains("duplicate mapping key") {
        said("is given twice", "each field once")
    } else if message.contains("multiple YAML documents") {
        ("a second document begins here".to_owned(), "one cluster a file".to_owned())
    } else {
        (format!("it is not YAML: {message}"), "see examples/ for specs of every kind".to_owned())
    }
}

/// Returns how many letters have to change between two words, swapped neighbours counting once or twice.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = corner + usize::from(left != right);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// Lays flags over a file.
pub(crate) fn overlay(document: &mut Document, name: Option<&str>, overrides: &Overrides) {
    let Overrides { provider, masters, workers, node_network, pod_network, service_network } = overrides;
    if let Some(name) = name {
        document.name = Some(At::flag("--name", name.to_owned()));
    }
    if let Some(provider) = provider {
        document.provider = Some(At::flag("--provider", provider.clone()));
    }
    if let Some(count) = masters {
        document.masters.get_or_insert_default().count = Some(At::flag("--masters", *count));
    }
    if let Some(count) = workers {
        document.workers.get_or_insert_default().count = Some(At::flag("--workers", *count));
    }
    let network = |document: &mut Document| document.network.take().unwrap_or_default();
    if let Some(cidr) = node_network {
        let mut section = network(document);
        section.nodes = Some(At::flag("--node-network", cidr.clone()));
        document.network = Some(section);
    }
    if let Some(cidr) = pod_network {
        let mut section = network(document);
        section.pods = Some(At::flag("--pod-network", cidr.clone()));
        document.network = Some(section);
    }
    if let Some(cidr) = service_network {
        let mut section = network(document);
        section.services = Some(At::flag("--service-network", cidr.clone()));
        document.network = Some(section);
    }
}

/// Turns what is wrong with `source` into one error.
pub(crate) fn refuse(source: &str, problems: &[Problem]) -> Error {
    let lines: Vec<String> = problems.iter().map(|problem| describe(source, problem)).collect();
    let count = if lines.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", lines.len()) };
    Error::user(format!("the spec cannot be used: {count}\n{}", lines.join("\n")))
}

fn describe(source: &str, problem: &Problem) -> String {
    let Problem { place, field, wrong, right } = problem;
    let at = match place {
        Place::File(line, column) => format!("{source}:{line}:{column}"),
        other => other.to_string(),
    };
    let field = if field.is_empty() { String::new() } else { format!(" {field}:") };
    format!("  {at}:{field} {wrong}\n    right: {right}")
}
