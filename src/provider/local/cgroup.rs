//! The control groups of a node: one directory in every hierarchy that the host has mounted.
//!
//! With cgroup v1 the node's groups stand under the caller's own, so that the caller's limits hold. With v2
//! they stand under the root of the mount, since a group that holds processes (the caller's) cannot hand
//! controllers to children. Hybrid hosts are treated as v1: that is where their controllers are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use machinery::clock::SystemClock;
use machinery::names::Random;
use machinery::retry::{self, Attempt, Backoff};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// How long processes may take to be gone after SIGKILL.
const GONE: Duration = Duration::from_secs(5);

/// A mounted hierarchy, and where in it this process stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// Where the host has it mounted.
    pub(crate) mount: PathBuf,
    /// The options that mount it again: its controllers or its name; empty for v2.
    pub(crate) options: String,
    /// The directory under which new groups go.
    pub(crate) base: PathBuf,
    /// It is the unified one.
    pub(crate) unified: bool,
}

/// Returns the hierarchies that nodes use.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
    let own = fs_err::read_to_string("/proc/self/cgroup")?;
    let found = parse(&mounts, &own);
    if found.is_empty() {
        return Err(Error::user("no control groups are mounted")
            .because("/proc/self/mountinfo has no cgroup or cgroup2 file system")
            .hint("mount -t cgroup2 none /sys/fs/cgroup (the kernel needs CONFIG_CGROUPS)"));
    }
    Ok(found)
}

fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut legacy: Vec<Hierarchy> = Vec::new();
    let mut unified = None;
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = place.split(' ').collect();
        let mut kind = kind.split(' ');
        let (Some(&root), Some(&mount)) = (fields.get(3), fields.get(4)) else { continue };
        let (Some(file_system), Some(options)) = (kind.next(), kind.nth(1)) else { continue };
        match file_system {
            "cgroup2" => unified = unified.or_else(|| Some(PathBuf::from(mount))),
            "cgroup" => {
                let options: Vec<&str> = options
                    .split(',')
                    .filter(|option| {
                        !["rw", "ro", "xattr", "noprefix", "clone_children"].contains(option)
                            && !option.starts_with("release_agent=")
                    })
                    .collect();
                let Some(group) = own_group(own, &options) else { continue };
                let inside = group.strip_prefix(root).unwrap_or(group).trim_start_matches('/');
                let options = options.join(",");
                if legacy.iter().all(|known| known.options != options) {
                    legacy.push(Hierarchy {
                        mount: mount.into(),
                        base: Path::new(mount).join(inside),
                        options,
                        unified: false,
                    });
                }
            }
            _ => {}
        }
    }
    if legacy.iter().any(|hierarchy| !hierarchy.options.starts_with("name=")) {
        return legacy;
    }
    unified
        .map(|mount| Hierarchy { base: mount.clone(), mount, options: String::new(), unified: true })
        .into_iter()
        .collect()
}

/// Returns the group of this process in the hierarchy with `options`.
fn own_group<'a>(own: &'a str, options: &[&str]) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        let path = parts.next()?;
        controllers.split(',').any(|controller| options.contains(&controller)).then_some(path)
    })
}

/// Returns the group of a cluster in each hierarchy.
pub(crate) fn cluster_groups(hierarchies: &[Hierarchy], cluster: &str) -> Vec<PathBuf> {
    hierarchies.iter().map(|hierarchy| hierarchy.base.join(format!("cluster-{cluster}"))).collect()
}

/// Makes a node's groups under its cluster's and sets its limits; returns the nodes' directories, in the
/// order of `hierarchies`. Each has a child `init` for the node's own processes: a v2 group that has
/// controllers for pods cannot have processes, and v1 is kept alike.
pub(crate) fn create(
    hierarchies: &[Hierarchy],
    groups: &[PathBuf],
    node: &str,
    milli_cpus: Option<u32>,
    memory: Option<u64>,
) -> Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for (hierarchy, group) in hierarchies.iter().zip(groups) {
        let directory = group.join(node);
        let leaf = directory.join("init");
        for made in [group, &directory, &leaf] {
            match fs_err::create_dir(made) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
            if hierarchy.options.split(',').any(|controller| controller == "cpuset") {
                inherit_cpuset(made)?;
            }
        }
        if hierarchy.unified {
            for parent in [&hierarchy.base, group, &directory] {
                enable_controllers(parent)?;
            }
        }
        limit(hierarchy, &directory, milli_cpus, memory)?;
        directories.push(directory);
    }
    Ok(directories)
}

/// Without these a v1 cpuset group accepts no process.
fn inherit_cpuset(directory: &Path) -> Result<()> {
    let parent = directory.parent().unwrap_or(directory);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs_err::read_to_string(directory.join(file))?.trim().is_empty() {
            let value = fs_err::read_to_string(parent.join(file))?;
            fs_err::write(directory.join(file), value.trim())?;
        }
    }
    Ok(())
}

fn enable_controllers(directory: &Path) -> Result<()> {
    let available = fs_err::read_to_string(directory.join("cgroup.controllers"))?;
    let enabled = fs_err::read_to_string(directory.join("cgroup.subtree_control"))?;
    for controller in available.split_whitespace() {
        if !enabled.split_whitespace().any(|known| known == controller) {
            fs_err::write(directory.join("cgroup.subtree_control"), format!("+{controller}"))
                .context(format!("handing the controller {controller} to the groups of nodes"))?;
        }
    }
    Ok(())
}

fn limit(
    hierarchy: &Hierarchy,
    directory: &Path,
    milli_cpus: Option<u32>,
    memory: Option<u64>,
) -> Result<()> {
    // The kernel's usual period of 100 ms.
    let period = 100_000u64;
    let quota = milli_cpus.map(|milli| u64::from(milli) * period / 1000);
    let has = |controller: &str| hierarchy.options.split(',').any(|option| option == controller);
    let set = |file: &str, value: String| -> Result<()> {
        fs_err::write(directory.join(file), value).context(format!("limiting a node by {file}"))
    };
    if hierarchy.unified {
        if directory.join("cpu.max").exists() {
            set(
                "cpu.max",
                quota.map_or_else(|| format!("max {period}"), |quota| format!("{quota} {period}")),
            )?;
        }
        if directory.join("memory.max").exists() {
            set("memory.max", memory.map_or_else(|| "max".into(), |bytes| bytes.to_string()))?;
        }
        return Ok(());
    }
    if has("cpu") {
        set("cpu.cfs_quota_us", quota.map_or_else(|| "-1".into(), |quota| quota.to_string()))?;
    }
    if has("memory") {
        set("memory.limit_in_bytes", memory.map_or_else(|| "-1".into(), |bytes| bytes.to_string()))?;
    }
    Ok(())
}

/// Returns every process in `directory` and below it.
pub(crate) fn processes(directory: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    walk(directory, &mut |group| {
        match std::fs::read_to_string(group.join("cgroup.procs")) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
            // It was removed while we looked: then nothing is in it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => {}
            Err(error) => return Err(Error::from(error).within(format!("reading {}", group.display()))),
        }
        Ok(())
    })?;
    // Zero stands for a process of another PID namespace, which this one cannot signal.
    found.retain(|&pid| pid > 0);
    Ok(found)
}

/// Calls `visit` for `directory` and all below it, children first.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::from(error).within(format!("reading {}", directory.display()))),
    };
    for entry in entries {
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit)?;
        }
    }
    visit(directory)
}

/// Kills everything in `directories` and removes them.
pub(crate) async fn destroy(directories: &[PathBuf]) -> Result<()> {
    let random = Random::from_os();
    let mut round = async || match sweep(directories) {
        Ok(None) => Attempt::Done(()),
        Ok(Some(left)) => Attempt::Again(left),
        Err(error) => Attempt::Fatal(error.line()),
    };
    let backoff =
        Backoff { first: Duration::from_millis(1), most: Duration::from_millis(50), ..Backoff::QUICK };
    retry::until("the processes of the cluster to be gone", GONE, backoff, &SystemClock, &random, &mut round)
        .await
        .map_err(Error::from)
}

/// Kills and removes once; returns what is still there.
fn sweep(directories: &[PathBuf]) -> Result<Option<String>> {
    let mut left = None;
    for directory in directories {
        for pid in processes(directory)? {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {
                    left = Some(format!("process {pid} in {}", directory.display()));
                }
                Err(error) => return Err(Error::from(error).within(format!("killing process {pid}"))),
            }
        }
        walk(directory, &mut |group| {
            match std::fs::remove_dir(group) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => left = Some(format!("{}: {error}", group.display())),
            }
            Ok(())
        })?;
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        30 25 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        34 30 0:30 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const OWN: &str =
        "4:memory:/box/inner\n3:cpu,cpuacct:/\n1:name=systemd:/user.slice/a:b\n0::/user.slice\n";

    #[test]
    fn hybrid_hosts_are_used_through_every_v1_hierarchy() {
        let found = parse(HYBRID, OWN);
        let bases: Vec<String> = found.iter().map(|found| found.base.display().to_string()).collect();
        assert_eq!(
            bases,
            [
                "/sys/fs/cgroup/systemd/user.slice/a:b",
                "/sys/fs/cgroup/cpu,cpuacct/",
                "/sys/fs/cgroup/memory/inner"
            ]
        );
        assert_eq!(found[1].options, "cpu,cpuacct");
    }

    #[test]
    fn unified_hosts_are_used_from_the_root_of_the_mount() {
        let found =
            parse("31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", "0::/user.slice\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].unified);
        assert_eq!(found[0].base, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_host_without_control_groups_has_none() {
        assert!(parse("1 0 0:1 / / rw - ext4 /dev/vda rw\n", "").is_empty());
    }
}
