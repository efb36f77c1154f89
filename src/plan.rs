//! Every machine, address, certificate and file that will exist. Pure: the same spec gives the same plan.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::Serialize;

use crate::spec::{ClusterSpec, Flavor, Machines, Os, ProviderKind};

/// Where a node keeps its certificates and keys.
pub(crate) const PKI_DIRECTORY: &str = "/etc/kubernetes/pki";
/// Where a machine has its programs.
pub(crate) const PROGRAMS: &str = "/opt/bin";
/// The name of etcd's program and unit.
pub(crate) const ETCD: &str = "etcd";
/// Where etcd's members talk to clients, and to each other.
pub(crate) const ETCD_PORT: u16 = 2379;
pub(crate) const ETCD_PEER_PORT: u16 = 2380;
/// The port of the kubelet API.
pub(crate) const KUBELET_PORT: u16 = 10250;
/// What a virtual machine has when the spec says nothing: the least that Flatcar's guide boots with, and a disk
/// that grows only as it is written to.
const VM_MILLI_CPUS: u32 = 1000;
const VM_MEMORY: u64 = 1 << 30;
const VM_DISK: u64 = 20 << 30;

/// What will exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// What was asked for.
    pub(crate) spec: ClusterSpec,
    /// Masters first, then workers, each in the order of their addresses.
    pub(crate) machines: Vec<Machine>,
    /// The certificates beside the authority's own.
    pub(crate) certificates: Vec<Certificate>,
    /// The bridge on the host, where this tool makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bridge: Option<String>,
    /// Where the disks come from; of virtual machines only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Image>,
    /// How virtual machines are logged in to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<Login>,
}

/// Where the disks of virtual machines come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Image {
    /// The box's name; Vagrant's only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vagrant_box: Option<String>,
    /// A path or URL of the box or disk image; `None` is a box that Vagrant has or finds by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Its SHA-256, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<String>,
    /// Its detached signature: a path or URL. It is there together with the keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
    /// The file with the keys that may have made the signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signing_keys: Option<PathBuf>,
    /// The name under which QEMU's firmware hands over the Ignition configuration.
    pub(crate) firmware: &'static str,
}

/// How virtual machines are logged in to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Login {
    /// The user.
    pub(crate) user: String,
    /// The file of the private key; a relative path is one within the cluster's directory.
    pub(crate) key: PathBuf,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// Its short name: `m1`, `w1`.
    pub(crate) name: String,
    /// Its place in the row of its role's addresses, from 0.
    #[serde(skip)]
    pub(crate) index: u32,
    /// What it does.
    pub(crate) role: Role,
    /// Its address, which is also its node's name.
    pub(crate) address: Ipv4Addr,
    /// Its network card's address, made from the IP so that a machine that is made anew is reachable at once.
    pub(crate) mac: String,
    /// The address of a virtual machine's first card, by which its provider lets it out and, by DHCP, gives it
    /// its resolver. The card above is the second one and has the fixed address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nat_mac: Option<String>,
    /// Thousandths of a CPU; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) milli_cpus: Option<u32>,
    /// Bytes of memory; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u64>,
    /// Bytes of disk; of virtual machines only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<u64>,
    /// The file of the SSH host key by which a virtual machine is known from its first boot on; a path within
    /// the cluster's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_key: Option<PathBuf>,
    /// Labels that the node registers with.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Programs beside the cluster's own executable that have to be there: names in [`PROGRAMS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) programs: Vec<String>,
    /// The programs that run on it, in the order in which they start.
    pub(crate) units: Vec<Unit>,
    /// The cluster's own files that it needs beside the executable.
    pub(crate) files: Vec<String>,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Runs the control plane, and no pods unless they insist.
    Master,
    /// Runs pods.
    Worker,
}

/// A program that a machine keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Unit {
    /// Its name: also that of its log.
    pub(crate) name: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Units that have to be ready before it is started.
    pub(crate) after: Vec<String>,
    /// Whether it says by itself when it is ready; else it is as soon as it runs.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub(crate) notifies: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// A certificate that one of the cluster's authorities signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    /// The name of its files, without `.crt` and `.key`.
    pub(crate) name: String,
    /// The user that it stands for.
    pub(crate) common_name: String,
    /// The user's groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) organizations: Vec<String>,
    /// The names that a server is called by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) dns_names: Vec<String>,
    /// The addresses that a server is reached at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<IpAddr>,
    /// Which side of a connection shows it.
    pub(crate) usage: Usage,
    /// Who signs it.
    #[serde(skip_serializing_if = "Authority::is_cluster")]
    pub(crate) authority: Authority,
}

/// Who signs a certificate. Each is believed for its own purpose alone: a node's certificate opens no store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Authority {
    /// The cluster's own.
    Cluster,
    /// That of API servers in front of aggregated ones.
    FrontProxy,
    /// That of etcd's members and clients.
    Etcd,
}

impl Authority {
    /// Returns the name of its files, without `.crt` and `.key`.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd-ca",
        }
    }

    /// Returns the name that it signs with.
    pub(crate) fn common_name(self) -> &'static str {
        match self {
            Self::Cluster => "kubernetes",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd-ca",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
    fn is_cluster(&self) -> bool {
        *self == Self::Cluster
    }
}

/// Which side of a connection shows a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Usage {
    /// The one that listens.
    Server,
    /// The one that connects.
    Client,
    /// Both: members of etcd connect to each other.
    Both,
}

impl Plan {
    /// Returns the masters.
    pub(crate) fn masters(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.role == Role::Master)
    }

    /// Returns the address that the person in front of kubectl uses.
    pub(crate) fn server(&self) -> String {
        let first = || self.masters().next().map_or(self.spec.network.host, |master| master.address);
        let address = self.spec.network.api.unwrap_or_else(first);
        format!("https://{address}:{}", self.spec.network.api_port)
    }

    /// Returns the API servers that a machine's agent asks, in this order: its own first, others from another one
    /// on for each machine.
    pub(crate) fn servers(&self, machine: &Machine) -> Vec<String> {
        let masters: Vec<Ipv4Addr> = self.masters().map(|master| master.address).collect();
        let own = masters.iter().position(|address| *address == machine.address);
        let first = own.unwrap_or(machine.index as usize % masters.len().max(1));
        let (before, after) = masters.split_at(first.min(masters.len()));
        let port = self.spec.network.api_port;
        after.iter().chain(before).map(|address| format!("https://{address}:{port}")).collect()
    }

    /// Returns the members of etcd as a master asks them, the one beside it first.
    pub(crate) fn etcd_endpoints(&self, machine: &Machine) -> Vec<String> {
        let Some(etcd) = &self.spec.etcd else { return Vec::new() };
        let all: Vec<String> = if etcd.endpoints.is_empty() {
            self.masters().map(|master| format!("https://{}:{ETCD_PORT}", master.address)).collect()
        } else {
            etcd.endpoints.clone()
        };
        let place = self.masters().position(|master| master.name == machine.name).unwrap_or_default();
        let mut turned = all;
        let by = place % turned.len().max(1);
        turned.rotate_left(by);
        turned
    }

    /// Returns whether the tool sets up members of etcd on the masters.
    pub(crate) fn own_etcd(&self) -> bool {
        own_etcd(&self.spec)
    }

    /// Returns the machine with this short name or address.
    pub(crate) fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name || machine.address.to_string() == name)
    }

    /// Returns the plan in one line, such as `lab: 1 master, 1 worker, local provider`.
    pub(crate) fn summary(&self) -> String {
        let ClusterSpec { name, provider, masters, workers, .. } = &self.spec;
        format!(
            "{name}: {}, {}, {} provider",
            count(masters.count, "master"),
            count(workers.count, "worker"),
            provider.name()
        )
    }
}

/// Returns a number with its noun.
pub(crate) fn count(number: u32, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Works out what will exist.
pub(crate) fn plan(spec: &ClusterSpec) -> Plan {
    let machines: Vec<Machine> = members(spec, Role::Master, &spec.masters)
        .chain(members(spec, Role::Worker, &spec.workers))
        .collect();
    let certificates = certificates(spec, &machines);
    let bridge = (spec.provider != ProviderKind::Vagrant).then(|| bridge_name(&spec.name));
    let image = spec.os.as_ref().map(|os| image(os, spec.provider));
    let login = spec.ssh.as_ref().map(|ssh| Login {
        user: ssh.user.clone(),
        key: ssh.private_key.clone().unwrap_or_else(|| PathBuf::from("ssh/id_ed25519")),
    });
    Plan { spec: spec.clone(), machines, certificates, bridge, image, login }
}

/// Returns where the disks come from: what the spec names, or the release that Flatcar publishes. (The checker
/// asks for a box or image of Fedora CoreOS.)
fn image(os: &Os, provider: ProviderKind) -> Image {
    let Os { flavor, channel, version, vagrant_box, box_url, image, checksum, signature, signing_keys } = os;
    let version = version.as_deref().unwrap_or("current");
    let release = |file: &str| match flavor {
        Flavor::Flatcar => {
            Some(format!("https://{channel}.release.flatcar-linux.net/amd64-usr/{version}/{file}"))
        }
        Flavor::FedoraCoreos => None,
    };
    let firmware = match flavor {
        Flavor::Flatcar => "opt/org.flatcar-linux/config",
        Flavor::FedoraCoreos => "opt/com.coreos/config",
    };
    let (vagrant_box, source) = match (provider, vagrant_box, image) {
        (ProviderKind::Vagrant, Some(name), _) => (Some(name.clone()), box_url.clone()),
        (ProviderKind::Vagrant, None, _) => {
            let name = format!("{}-{channel}-{version}", flavor.name());
            (Some(name), release("flatcar_production_vagrant.box"))
        }
        (_, _, Some(image)) => (None, Some(image.clone())),
        (_, _, None) => (None, release("flatcar_production_qemu_image.img")),
    };
    // Both publishers have an image's signature beside it.
    let beside = || source.as_ref().map(|source| format!("{source}.sig"));
    let signature = signing_keys.as_ref().and_then(|_| signature.clone().or_else(beside));
    let signing_keys = signing_keys.clone();
    Image { vagrant_box, source, checksum: checksum.clone(), signature, signing_keys, firmware }
}

fn members(spec: &ClusterSpec, role: Role, group: &Machines) -> impl Iterator<Item = Machine> {
    let letter = if role == Role::Master { 'm' } else { 'w' };
    let vm = spec.provider != ProviderKind::Local;
    let present = (0_u32..).filter(|index| !group.absent.contains(index));
    present.take(group.count as usize).map(move |index| {
        let name = format!("{letter}{}", index + 1);
        let address = Ipv4Addr::from(u32::from(group.first_address).saturating_add(index));
        Machine {
            index,
            files: files(spec, role, &name),
            programs: if role == Role::Master && own_etcd(spec) { vec![ETCD.into()] } else { Vec::new() },
            units: units(spec, role),
            mac: mac(spec.provider, address),
            nat_mac: vm.then(|| nat_mac(address)),
            host_key: vm.then(|| PathBuf::from(format!("ssh/{name}_host_ed25519_key"))),
            name,
            role,
            address,
            milli_cpus: group.milli_cpus.or(vm.then_some(VM_MILLI_CPUS)),
            memory: group.memory.or(vm.then_some(VM_MEMORY)),
            disk: group.disk.or(vm.then_some(VM_DISK)),
            labels: group.labels.clone(),
        }
    })
}

/// Returns the network card's address of the machine at `address`.
pub(crate) fn mac(provider: ProviderKind, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    match provider {
        ProviderKind::Local => format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        // Within QEMU's own range; the first octet is the same in all of a cluster.
        ProviderKind::Vagrant | ProviderKind::Qemu => format!("52:54:00:{b:02x}:{c:02x}:{d:02x}"),
    }
}

/// Returns the address of the first card of the virtual machine at `address`: like [`mac`], with another start
/// that is a locally administered one, too.
fn nat_mac(address: Ipv4Addr) -> String {
    let [_, b, c, d] = address.octets();
    format!("56:54:00:{b:02x}:{c:02x}:{d:02x}")
}

fn own_etcd(spec: &ClusterSpec) -> bool {
    spec.etcd.as_ref().is_some_and(|etcd| etcd.endpoints.is_empty())
}

fn units(spec: &ClusterSpec, role: Role) -> Vec<Unit> {
    let unit = |name: &str, after: &[&str]| Unit {
        name: name.into(),
        command: vec![
            format!("{PROGRAMS}/{name}"),
            "--config".into(),
            format!("/etc/kubernetes/{name}.yaml"),
        ],
        after: after.iter().map(|&unit| unit.to_owned()).collect(),
        notifies: true,
    };
    match role {
        // The agent needs an API server; on the machine that has one it need not try before that serves.
        Role::Master if own_etcd(spec) => {
            let command = vec![
                format!("{PROGRAMS}/{ETCD}"),
                "--config-file".into(),
                "/etc/kubernetes/etcd.yaml".into(),
            ];
            // It says that it is ready to systemd alone, and only when others of its cluster are there.
            let etcd = Unit { name: ETCD.into(), command, after: Vec::new(), notifies: false };
            vec![etcd, unit("control-plane", &[ETCD]), unit("node-agent", &["control-plane"])]
        }
        Role::Master => vec![unit("control-plane", &[]), unit("node-agent", &["control-plane"])],
        Role::Worker => vec![unit("node-agent", &[])],
    }
}

/// Returns the names of a machine's files. The contents are made with the artifacts.
fn files(spec: &ClusterSpec, role: Role, machine: &str) -> Vec<String> {
    let mut files = vec![
        format!("{PKI_DIRECTORY}/ca.crt"),
        format!("{PKI_DIRECTORY}/{machine}-serving.crt"),
        format!("{PKI_DIRECTORY}/{machine}-serving.key"),
        "/etc/kubernetes/node-agent.kubeconfig".into(),
        "/etc/kubernetes/node-agent.yaml".into(),
    ];
    if role == Role::Master {
        files.extend(
            ["ca.key", "apiserver.crt", "apiserver.key", "apiserver-kubelet-client.crt"]
                .iter()
                .chain(&["apiserver-kubelet-client.key", "service-account.key"])
                .chain(&["front-proxy-ca.crt", "front-proxy-client.crt", "front-proxy-client.key"])
                .map(|name| format!("{PKI_DIRECTORY}/{name}")),
        );
        files.push("/etc/kubernetes/control-plane.yaml".into());
        if spec.etcd.is_some() {
            files.extend(
                ["etcd-ca.crt", "apiserver-etcd-client.crt", "apiserver-etcd-client.key"]
                    .map(|name| format!("{PKI_DIRECTORY}/{name}")),
            );
        }
        if own_etcd(spec) {
            files.extend(["crt", "key"].map(|kind| format!("{PKI_DIRECTORY}/{machine}-etcd.{kind}")));
            files.push("/etc/kubernetes/etcd.yaml".into());
        }
    }
    files.sort();
    files
}

fn certificates(spec: &ClusterSpec, machines: &[Machine]) -> Vec<Certificate> {
    let client = |name: String, user: String, groups: &[&str]| Certificate {
        name,
        common_name: user,
        organizations: groups.iter().map(|&group| group.to_owned()).collect(),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        authority: Authority::Cluster,
    };
    let masters = machines.iter().filter(|machine| machine.role == Role::Master);
    let mut addresses: Vec<IpAddr> = masters.map(|master| master.address.into()).collect();
    addresses.extend(spec.network.api.map(IpAddr::from));
    addresses.push(api_address(spec).into());
    addresses.push(Ipv4Addr::LOCALHOST.into());
    let domain = &spec.network.domain;
    let mut all = vec![
        Certificate {
            name: "apiserver".into(),
            common_name: "kube-apiserver".into(),
            organizations: Vec::new(),
            dns_names: ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .iter()
                .map(|&name| name.to_owned())
                .chain([format!("kubernetes.default.svc.{domain}")])
                .collect(),
            addresses,
            usage: Usage::Server,
            authority: Authority::Cluster,
        },
        client(
            "apiserver-kubelet-client".into(),
            "kube-apiserver-kubelet-client".into(),
            &["system:masters"],
        ),
        client("admin".into(), "kubernetes-admin".into(), &["system:masters"]),
        Certificate {
            authority: Authority::FrontProxy,
            ..client("front-proxy-client".into(), "front-proxy-client".into(), &[])
        },
    ];
    if own_etcd(spec) {
        all.push(Certificate {
            authority: Authority::Etcd,
            ..client("apiserver-etcd-client".into(), "kube-apiserver-etcd-client".into(), &[])
        });
        // Both to clients and to the other members; and etcd asks itself over its own gateway.
        let masters = machines.iter().filter(|machine| machine.role == Role::Master);
        all.extend(masters.map(|master| Certificate {
            name: format!("{}-etcd", master.name),
            common_name: master.name.clone(),
            organizations: Vec::new(),
            dns_names: vec!["localhost".into(), master.name.clone()],
            addresses: vec![master.address.into(), Ipv4Addr::LOCALHOST.into()],
            usage: Usage::Both,
            authority: Authority::Etcd,
        }));
    }
    for machine in machines {
        let user = format!("system:node:{}", machine.address);
        all.push(client(format!("{}-client", machine.name), user.clone(), &["system:nodes"]));
        all.push(Certificate {
            name: format!("{}-serving", machine.name),
            common_name: user,
            organizations: vec!["system:nodes".into()],
            dns_names: vec![machine.name.clone(), machine.address.to_string()],
            addresses: vec![machine.address.into(), Ipv4Addr::LOCALHOST.into()],
            usage: Usage::Server,
            authority: Authority::Cluster,
        });
    }
    // A name that is an address is no DNS name to verifiers.
    for certificate in &mut all {
        certificate.dns_names.retain(|name| name.parse::<IpAddr>().is_err());
    }
    all
}

/// Returns the API's own service address: the first of the service network.
pub(crate) fn api_address(spec: &ClusterSpec) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(spec.network.services.network()).saturating_add(1))
}

/// Returns the bridge's name: readable where it fits into the kernel's 15 characters, else with a digest.
pub(crate) fn bridge_name(cluster: &str) -> String {
    let plain = format!("cl-{cluster}");
    if plain.len() <= 15 { plain } else { format!("cl-{}-{}", &cluster[..5], short_digest(cluster)) }
}

/// Returns the name of the host's end of a machine's cable.
pub(crate) fn cable_name(cluster: &str, machine: &str) -> String {
    format!("cl{}-{machine}", short_digest(cluster))
}

/// Returns six hexadecimal digits that tell clusters apart.
fn short_digest(text: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Document, check, parse};

    fn plan_of(text: &str) -> Plan {
        plan(&check(&parse(text).unwrap()).unwrap())
    }

    #[test]
    fn the_default_lab_is_the_one_of_the_guide() {
        let plan = plan(&check(&Document::default()).unwrap());
        assert_eq!(plan.summary(), "lab: 1 master, 1 worker, local provider");
        assert_eq!(plan.server(), "https://172.17.4.101:443");
        insta::assert_json_snapshot!(plan);
    }

    #[test]
    fn three_masters_and_two_workers_follow_each_other() {
        let plan = plan_of("provider: qemu\nmasters: { count: 3 }\nworkers: { count: 2 }");
        let all: Vec<String> =
            plan.machines.iter().map(|machine| format!("{} {}", machine.name, machine.address)).collect();
        assert_eq!(
            all,
            ["m1 172.17.4.101", "m2 172.17.4.102", "m3 172.17.4.103", "w1 172.17.4.201", "w2 172.17.4.202"]
        );
        assert_eq!(plan.certificates.len(), 4 + 2 * 5 + 1 + 3);
    }

    #[test]
    fn virtual_machines_have_two_cards_a_disk_a_key_and_an_image() {
        insta::assert_json_snapshot!(
            "qemu",
            plan_of("provider: qemu\nworkers: { count: 2 }\nos: { signingKeys: flatcar.asc }")
        );
        insta::assert_json_snapshot!(
            "vagrant",
            plan_of(
                "provider: vagrant\nos: { channel: beta, version: 4600.1.0 }\nmasters: { cpus: 2, memory: 2Gi, disk: 30Gi }\n\
                 ssh: { user: me, privateKey: /home/me/key }\nruntime: builtin"
            )
        );
    }

    #[test]
    fn no_two_cards_of_a_cluster_are_the_same() {
        let plan = plan_of(
            "provider: qemu\nmasters: { count: 3 }\nworkers: { count: 250, firstAddress: 10.64.3.4 }\n\
             network: { nodes: 10.64.0.0/16 }",
        );
        let mut macs: Vec<&str> = plan.machines.iter().map(|machine| machine.mac.as_str()).collect();
        macs.extend(plan.machines.iter().filter_map(|machine| machine.nat_mac.as_deref()));
        let all = macs.len();
        macs.sort_unstable();
        macs.dedup();
        assert_eq!((macs.len(), all), (506, 506));
    }

    #[test]
    fn interface_names_fit_the_kernel_and_differ() {
        let long = "a-name-of-the-greatest-length-ok";
        for name in ["lab", "twelve-chars", long] {
            assert!(bridge_name(name).len() <= 15, "{}", bridge_name(name));
            assert!(cable_name(name, "w250").len() <= 15, "{}", cable_name(name, "w250"));
        }
        assert_ne!(bridge_name(long), bridge_name("a-name-of-the-greatest-length-no"));
    }
}
