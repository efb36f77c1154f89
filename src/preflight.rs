//! What has to hold before anything is made, each with what to do when it does not.
//!
//! Every check is a function from what was read to an error, so that each can be tried without such a machine.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::error::{Context, Error, Result};
use crate::plan::{Plan, cable_name};
use crate::provider::local::{Network, Occupied};
use crate::spec::ClusterSpec;
use crate::state::{Home, Made, State};
use crate::ui::Ui;

/// Memory that a master and a worker need to come up, measured, with room for one pod.
const MASTER_MEMORY: u64 = 192 << 20;
const WORKER_MEMORY: u64 = 96 << 20;
/// inotify instances that a node needs: its programs, and one for each watched volume.
const INOTIFY_PER_NODE: u64 = 16;
/// Open files that a node needs.
const FILES_PER_NODE: u64 = 512;

/// Checks this machine for a cluster of namespaces.
///
/// # Errors
/// The first thing that would keep the cluster from coming up, with what to do about it.
pub(crate) async fn check(plan: &Plan, state: &State, home: &Home, ui: &Ui) -> Result<()> {
    root("the local provider", "it makes network interfaces, namespaces and control groups")?;
    kernel()?;
    let journal = state.journal()?;
    interfaces(plan, state, home, &journal).await?;
    let nodes = plan.machines.len() as u64;
    let masters = plan.masters().count() as u64;
    memory(masters * MASTER_MEMORY + (nodes - masters) * WORKER_MEMORY, nodes)?;
    if journal.is_empty() {
        limits(nodes, ui)?;
    }
    bridge_filter(ui)
}

/// Checks this machine for a cluster of QEMU's virtual machines.
///
/// # Errors
/// The first thing that would keep the cluster from coming up, with what to do about it.
pub(crate) async fn virtual_machines(plan: &Plan, state: &State, home: &Home, ui: &Ui) -> Result<()> {
    root("the qemu provider", "it makes a bridge, and a tap for each machine")?;
    let journal = state.journal()?;
    interfaces(plan, state, home, &journal).await?;
    if !journal.iter().any(|made| matches!(made, Made::Virtual(_))) {
        let all = plan.machines.iter().filter_map(|machine| machine.memory).sum();
        memory(all, plan.machines.len() as u64)?;
    }
    bridge_filter(ui)
}

/// Checks this machine for a cluster that Vagrant makes.
///
/// # Errors
/// The first thing that would keep the cluster from coming up, with what to do about it.
pub(crate) async fn vagrant(plan: &Plan, state: &State, home: &Home, _: &Ui) -> Result<()> {
    let others = other_clusters(home, &plan.spec.name)?;
    // Once it is up, the node network of this host is its own.
    let occupied = if state.journal()?.is_empty() { Network::open()?.occupied().await? } else { Vec::new() };
    networks(&plan.spec, &occupied, &others)
}

fn root(who: &str, why: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::user(format!("{who} needs root")).because(why).hint("run it with sudo"))
}

/// Checks that the names and addresses of the cluster's interfaces are free.
async fn interfaces(plan: &Plan, state: &State, home: &Home, journal: &[Made]) -> Result<()> {
    names(plan, state, home, journal)?;
    let own = plan.bridge.clone().unwrap_or_default();
    let occupied: Vec<Occupied> = Network::open()?
        .occupied()
        .await?
        .into_iter()
        // What this cluster has itself is there on purpose.
        .filter(|occupied| occupied.interface != own || !journal.contains(&Made::Link(own.clone())))
        .collect();
    let others = other_clusters(home, &plan.spec.name)?;
    networks(&plan.spec, &occupied, &others)
}

/// Warns where Docker's firewall also sees what passes a bridge.
fn bridge_filter(ui: &Ui) -> Result<()> {
    let filtered = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|value| value.trim() == "1");
    if filtered && Network::index("docker0")?.is_some() {
        ui.warn(
            "net.bridge.bridge-nf-call-iptables is 1 on this host: its firewall also sees traffic between nodes. \
             Docker sets its FORWARD policy to DROP; if nodes cannot reach each other: \
             iptables -I DOCKER-USER -i cl-+ -o cl-+ -j ACCEPT",
        );
    }
    Ok(())
}

/// A part of the kernel that nodes cannot do without, the file that shows it, and its configuration option.
const FEATURES: [(&str, &str, &str); 7] = [
    ("network namespaces", "/proc/self/ns/net", "CONFIG_NET_NS"),
    ("PID namespaces", "/proc/self/ns/pid", "CONFIG_PID_NS"),
    ("mount namespaces", "/proc/self/ns/mnt", "CONFIG_NAMESPACES"),
    ("host name namespaces", "/proc/self/ns/uts", "CONFIG_UTS_NS"),
    ("IPC namespaces", "/proc/self/ns/ipc", "CONFIG_IPC_NS"),
    ("cgroup namespaces", "/proc/self/ns/cgroup", "CONFIG_CGROUPS (of Linux 4.6 or newer)"),
    ("control groups", "/proc/self/cgroup", "CONFIG_CGROUPS"),
];

fn kernel() -> Result<()> {
    for (what, file, option) in FEATURES {
        if !Path::new(file).exists() {
            return Err(lacking(what, option));
        }
    }
    let systems = fs_err::read_to_string("/proc/filesystems")?;
    file_systems(&systems, &|module| {
        // A module that is there is loaded by the kernel when it is first asked for.
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let list = format!("/lib/modules/{}/modules.dep", release.trim());
        std::fs::read_to_string(list).is_ok_and(|list| list.contains(&format!("/{module}.ko")))
    })?;
    let hierarchies = fs_err::read_to_string("/proc/self/mountinfo")?;
    control_groups(&hierarchies, &fs_err::read_to_string("/proc/cgroups").unwrap_or_default())
}

fn lacking(what: &str, option: &str) -> Error {
    Error::user(format!("this kernel lacks {what}"))
        .because(format!("it was built without {option}"))
        .hint(format!("boot a kernel with {option}; every distribution's own has it"))
}

fn file_systems(known: &str, module: &dyn Fn(&str) -> bool) -> Result<()> {
    let has = |name: &str| known.lines().any(|line| line.split_whitespace().last() == Some(name));
    for (name, option) in [("tmpfs", "CONFIG_TMPFS"), ("overlay", "CONFIG_OVERLAY_FS")] {
        if !has(name) && !module(name) {
            return Err(lacking(&format!("the file system {name}"), option));
        }
    }
    Ok(())
}

/// Checks that the controllers that pods need are mounted, whichever version they are of.
fn control_groups(mounts: &str, controllers: &str) -> Result<()> {
    let mounted =
        |kind: &'static str| mounts.lines().filter(move |line| line.contains(&format!(" - {kind} ")));
    let unified = mounted("cgroup2").next().is_some();
    let legacy: Vec<&str> = mounted("cgroup")
        .filter_map(|line| line.rsplit(' ').next())
        .flat_map(|options| options.split(','))
        .collect();
    for controller in ["cpu", "memory", "pids"] {
        let enabled = controllers
            .lines()
            .find(|line| line.split_whitespace().next() == Some(controller))
            .is_none_or(|line| line.split_whitespace().last() == Some("1"));
        let reachable = legacy.contains(&controller) || unified;
        if enabled && reachable {
            continue;
        }
        let error = Error::user(format!("the control groups of {controller} cannot be used"));
        return Err(if enabled {
            error.because("no hierarchy with it is mounted").hint("mount -t cgroup2 none /sys/fs/cgroup")
        } else {
            error
                .because("the kernel has it switched off")
                .hint(format!("boot with cgroup_enable={controller} on the kernel's command line"))
        });
    }
    Ok(())
}

/// Checks that interfaces of our names are ours.
fn names(plan: &Plan, state: &State, home: &Home, journal: &[Made]) -> Result<()> {
    let cables = plan.machines.iter().map(|machine| cable_name(&plan.spec.name, &machine.name));
    for name in plan.bridge.iter().cloned().chain(cables) {
        let link = Made::Link(name.clone());
        if journal.contains(&link) || Network::index(&name)?.is_none() {
            continue;
        }
        let mut owner = None;
        for other in home.list()?.into_iter().filter(|other| other != state.name()) {
            if home.cluster(&other).journal()?.contains(&link) {
                owner = Some(other);
            }
        }
        let error = Error::user(format!("the network interface {name} is there already"));
        return Err(match owner {
            Some(owner) => error
                .because(format!("it belongs to the cluster {owner}"))
                .hint(format!("`cluster down --name {owner}`, or another --name")),
            None => error
                .because("nothing in the state directory says that this cluster made it")
                .hint(format!("`ip link delete {name}` if nobody needs it, or give another --name")),
        });
    }
    Ok(())
}

fn other_clusters(home: &Home, own: &str) -> Result<Vec<(String, Ipv4Net)>> {
    let mut found = Vec::new();
    for name in home.list()? {
        if name != own
            && let Some(spec) = home.cluster(&name).spec()?
        {
            found.push((name, spec.network.nodes));
        }
    }
    Ok(found)
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Checks that nobody on this host uses the cluster's addresses.
fn networks(spec: &ClusterSpec, occupied: &[Occupied], others: &[(String, Ipv4Net)]) -> Result<()> {
    let network = &spec.network;
    for (other, nodes) in others {
        if overlap(*nodes, network.nodes) {
            return Err(Error::user(format!(
                "network.nodes {} overlaps that of the cluster {other}",
                network.nodes
            ))
            .because(format!("{other} has {nodes}"))
            .hint(suggestion(spec, occupied, others)));
        }
    }
    // Pods and services are within the nodes only: the host has no route to them, and nodes reach what is
    // behind the host by its address. Only a network that the host is *in* would be hidden from nodes.
    for (field, wanted) in [
        ("network.nodes", network.nodes),
        ("network.pods", network.pods),
        ("network.services", network.services),
    ] {
        let Some(taken) = occupied.iter().find(|taken| overlap(taken.network, wanted)) else { continue };
        let what =
            if taken.interface == "docker0" { "Docker's bridge docker0" } else { taken.interface.as_str() };
        return Err(Error::user(format!("{field} {wanted} overlaps {} of this host", taken.network))
            .because(format!("{} is reached through {what}", taken.network))
            .hint(if field == "network.nodes" {
                suggestion(spec, occupied, others)
            } else {
                format!("set {field} to another private network in cluster.yaml")
            }));
    }
    Ok(())
}

/// Returns what to do, with a network that is free.
fn suggestion(spec: &ClusterSpec, occupied: &[Occupied], others: &[(String, Ipv4Net)]) -> String {
    match free_network(spec, occupied, others) {
        Some(free) => format!("{free} is free: cluster up --name {} --node-network {free}", spec.name),
        None => "set network.nodes to a free private network in cluster.yaml".into(),
    }
}

/// Returns the first /24 like the default one that nobody uses.
fn free_network(spec: &ClusterSpec, occupied: &[Occupied], others: &[(String, Ipv4Net)]) -> Option<Ipv4Net> {
    let candidates = (17..32).map(|second| Ipv4Addr::new(172, second, 4, 0));
    let more = (0..=255).map(|third| Ipv4Addr::new(192, 168, third, 0));
    candidates.chain(more).filter_map(|address| Ipv4Net::new(address, 24).ok()).find(|candidate| {
        !occupied.iter().any(|taken| overlap(taken.network, *candidate))
            && !others.iter().any(|(_, nodes)| overlap(*nodes, *candidate))
            && !overlap(spec.network.pods, *candidate)
            && !overlap(spec.network.services, *candidate)
    })
}

fn memory(needed: u64, nodes: u64) -> Result<()> {
    enough_memory(&fs_err::read_to_string("/proc/meminfo")?, needed, nodes)
}

fn enough_memory(meminfo: &str, needed: u64, nodes: u64) -> Result<()> {
    let available = meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .map(|kilobytes| kilobytes << 10);
    match available {
        Some(available) if available < needed => Err(Error::user(format!(
            "{} MiB of memory are free, and {nodes} nodes need {} MiB",
            available >> 20,
            needed >> 20
        ))
        .hint("end other programs, or ask for fewer workers")),
        _ => Ok(()),
    }
}

/// Checks the kernel's limits that people run into. They are limits of the whole host, which is not changed.
fn limits(nodes: u64, ui: &Ui) -> Result<()> {
    let read = |path: &str| -> Result<u64> {
        fs_err::read_to_string(path)?.trim().parse().context(format!("reading {path}"))
    };
    let instances = read("/proc/sys/fs/inotify/max_user_instances")?;
    if instances < nodes * INOTIFY_PER_NODE {
        return Err(Error::user(format!("{instances} inotify instances are too few for {nodes} nodes"))
            .because("each node watches files, and the limit is one for all of a user's programs")
            .hint(format!("sysctl -w fs.inotify.max_user_instances={}", nodes * INOTIFY_PER_NODE * 4)));
    }
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .context("reading the limit of open files")?;
    if most < FILES_PER_NODE * 8 {
        ui.warn(&format!(
            "a process may open {most} files only; busy nodes may need more: raise `ulimit -Hn`"
        ));
    }
    let all = read("/proc/sys/fs/file-max")?;
    if all < nodes * FILES_PER_NODE * 8 {
        return Err(Error::user(format!(
            "this host allows {all} open files in all, too few for {nodes} nodes"
        ))
        .hint("sysctl -w fs.file-max=1000000"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{check as check_spec, parse};

    fn spec(text: &str) -> ClusterSpec {
        check_spec(&parse(text).unwrap()).unwrap()
    }

    fn taken(network: &str, interface: &str) -> Occupied {
        Occupied { network: network.parse().unwrap(), interface: interface.into() }
    }

    #[track_caller]
    fn says(outcome: Result<()>, words: &[&str]) {
        let text = crate::ui::error_text(&outcome.unwrap_err());
        for word in words {
            assert!(text.contains(word), "{word:?} is not in:\n{text}");
        }
    }

    #[test]
    fn an_address_range_that_the_host_uses_is_refused_with_a_free_one() {
        let docker = [taken("172.17.0.0/16", "docker0")];
        says(
            networks(&spec(""), &docker, &[]),
            &["172.17.4.0/24 overlaps 172.17.0.0/16", "docker0", "172.18.4.0/24 is free"],
        );
        let office = [taken("10.0.0.0/8", "eth0")];
        says(networks(&spec(""), &office, &[]), &["network.pods 10.2.0.0/16", "eth0", "cluster.yaml"]);
        networks(&spec(""), &[taken("192.0.2.0/24", "eth0")], &[]).unwrap();
    }

    #[test]
    fn the_network_of_another_cluster_is_refused() {
        let others = [("one".to_owned(), "172.17.4.0/24".parse().unwrap())];
        says(
            networks(&spec("name: two"), &[], &others),
            &["that of the cluster one", "--name two --node-network 172.18.4.0/24"],
        );
    }

    #[test]
    fn a_missing_part_of_the_kernel_is_named_by_its_option() {
        says(file_systems("nodev\ttmpfs\n", &|_| false), &["overlay", "CONFIG_OVERLAY_FS"]);
        file_systems("nodev\ttmpfs\n", &|module| module == "overlay").unwrap();
    }

    #[test]
    fn control_groups_of_every_version_are_enough() {
        let v2 = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let v1 = "1 0 0:1 / /a rw - cgroup cgroup rw,cpu,cpuacct\n2 0 0:2 / /b rw - cgroup cgroup rw,memory\n\
                  3 0 0:3 / /c rw - cgroup cgroup rw,pids\n";
        control_groups(v2, "").unwrap();
        control_groups(v1, "").unwrap();
        says(control_groups("", ""), &["cpu", "mount -t cgroup2"]);
        let off = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\n";
        says(control_groups(v2, off), &["memory", "cgroup_enable=memory"]);
    }

    #[test]
    fn too_little_memory_is_said_in_numbers() {
        let needed = 1152 << 20;
        says(
            enough_memory("MemAvailable:   204800 kB\n", needed, 11),
            &["200 MiB", "11 nodes need 1152 MiB"],
        );
        enough_memory("MemAvailable:   20480000 kB\n", needed, 11).unwrap();
    }
}
