//! Control groups, of version 1, 2 and both at once. They are directories and files.
//!
//! Every limit is best effort where the kernel or the node lacks the controller: a pod without its CPU share is
//! better than no pod. What cannot be set is logged.

mod devices;
pub(crate) mod usage;

use std::path::{Path, PathBuf};

use crate::helper::bundle::Groups;
use crate::{Error, Resources, Result};

/// The controllers that are used.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];
/// The controllers of version 2 that are handed down to pods.
const UNIFIED_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Devices that every container may use, as version 1 writes them: the harmless ones and terminals. Making any
/// device is allowed, using it is not.
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The control groups of this machine, or of the part of them that this process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroups {
    version: Version,
    /// Every mount point, also of controllers that are not used here: container runtimes use them.
    mounts: Vec<PathBuf>,
    /// Below every mount point.
    root: PathBuf,
    /// The file that lists the group this process is in already.
    own: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    /// Version 2, mounted here.
    Unified(PathBuf),
    /// Version 1: mount points with the controllers that each has.
    Split(Vec<(PathBuf, Vec<String>)>),
}

impl Cgroups {
    /// Finds what is mounted, and makes the root of everything that follows.
    pub(crate) fn detect(root: &str) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| Error::system("reading /proc/self/mountinfo", error))?;
        let groups = std::fs::read_to_string("/proc/self/cgroup")
            .map_err(|error| Error::system("reading /proc/self/cgroup", error))?;
        let version = parse(&mounts);
        let own = own_group(&version, &groups);
        let found = Self { version, mounts: mount_points(&mounts), root: relative(root), own };
        if let Version::Unified(mount) = &found.version {
            hand_down(mount, &found.root)?;
        }
        Ok(found)
    }

    pub(crate) fn is_unified(&self) -> bool {
        matches!(self.version, Version::Unified(_))
    }

    /// Makes the next entering of a group quick. To be called where it may block for some milliseconds.
    ///
    /// Entering a group waits until every processor has passed a quiet point (an RCU grace period, 5 to
    /// 40 ms), unless another entering has waited just before. Moving this process to where it is already does
    /// that waiting while a container is still being prepared.
    pub(crate) fn warm_up(&self) {
        if let Some(own) = &self.own {
            set(own, "0");
        }
    }

    /// Makes the group `path` with its parents and sets its limits.
    pub(crate) fn create(&self, path: &str, resources: &Resources) -> Result<Groups> {
        let groups = self.groups(path);
        for directory in &groups.directories {
            std::fs::create_dir_all(directory)
                .map_err(|error| Error::system(format!("making {}", directory.display()), error))?;
        }
        if let Version::Unified(mount) = &self.version {
            let below = self.root.join(relative(path));
            hand_down(mount, below.parent().unwrap_or(Path::new("")))?;
        }
        self.limit(path, resources);
        Ok(groups)
    }

    /// Returns the directories of the group, whether they are there or not.
    pub(crate) fn groups(&self, path: &str) -> Groups {
        let below = self.root.join(relative(path));
        let (directories, memory) = match &self.version {
            Version::Unified(mount) => {
                let directory = mount.join(&below);
                (vec![directory.clone()], Some(directory.join("memory.events")))
            }
            Version::Split(mounts) => {
                let directories = mounts.iter().map(|(mount, _)| mount.join(&below)).collect();
                (directories, self.directory("memory", path).map(|path| path.join("memory.oom_control")))
            }
        };
        Groups { directories, unified: self.is_unified(), out_of_memory: memory }
    }

    /// Returns the group's directory that has the files of `controller`.
    pub(crate) fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let below = self.root.join(relative(path));
        match &self.version {
            Version::Unified(mount) => Some(mount.join(below)),
            Version::Split(mounts) => mounts
                .iter()
                .find(|(_, controllers)| controllers.iter().any(|name| name == controller))
                .map(|(mount, _)| mount.join(below)),
        }
    }

    /// Sets the limits of a group that is there.
    pub(crate) fn limit(&self, path: &str, resources: &Resources) {
        for (controller, file, value) in limits(resources, self.is_unified()) {
            if let Some(directory) = self.directory(controller, path) {
                set(&directory.join(file), &value);
            }
        }
    }

    /// Allows a container the devices that are harmless and `more` (`c 10:200 rwm`), and no others.
    pub(crate) fn restrict_devices(&self, path: &str, more: &[String]) {
        let Some(directory) = self.directory("devices", path) else { return };
        let rules: Vec<&str> = DEVICES.into_iter().chain(more.iter().map(String::as_str)).collect();
        if self.is_unified() {
            if let Err(error) = devices::restrict(&directory, &rules) {
                tracing::warn!(group = %directory.display(), %error, "devices are not restricted");
            }
        } else {
            set(&directory.join("devices.deny"), "a");
            for rule in rules {
                set(&directory.join("devices.allow"), rule);
            }
        }
    }

    /// Returns the processes in the group itself.
    pub(crate) fn processes(&self, path: &str) -> Vec<i32> {
        let Some(directory) = self.groups(path).directories.into_iter().next() else { return Vec::new() };
        let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Returns whether a group is there that has groups below it.
    pub(crate) fn has_groups_below(&self, path: &str) -> bool {
        self.groups(path).directories.iter().any(|directory| {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        })
    }

    /// Removes the group if nothing is in it any more. Returns whether it is gone.
    pub(crate) fn remove(&self, path: &str) -> bool {
        let below = self.root.join(relative(path));
        let mut gone = true;
        for mount in &self.mounts {
            gone &= remove_tree(&mount.join(&below));
        }
        gone
    }
}

/// Tells whether a pod's parent group is of that pod alone, rather than one that all pods are in.
pub(crate) fn belongs_to_one_pod(path: &str) -> bool {
    relative(path).components().count() > 1
}

/// Removes a group and the groups that a container made inside it.
fn remove_tree(directory: &Path) -> bool {
    match std::fs::remove_dir(directory) {
        Ok(()) => return true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path());
            }
        }
    }
    std::fs::remove_dir(directory).is_ok()
}

fn relative(path: &str) -> PathBuf {
    use std::path::Component;
    Path::new(path)
        .components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .map(Component::as_os_str)
        .collect()
}

/// Reads the text of `/proc/self/mountinfo`.
fn parse(mounts: &str) -> Version {
    let mut split: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let mut unified = None;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        match (right.next(), right.nth(1)) {
            (Some("cgroup2"), _) if unified.is_none() => unified = Some(PathBuf::from(mount)),
            (Some("cgroup"), Some(options)) => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option))
                    .map(str::to_owned)
                    .collect();
                let seen =
                    split.iter().any(|(_, others)| others.iter().any(|name| controllers.contains(name)));
                if !controllers.is_empty() && !seen {
                    split.push((PathBuf::from(mount), controllers));
                }
            }
            _ => {}
        }
    }
    match unified {
        Some(mount) if split.is_empty() => Version::Unified(mount),
        _ => Version::Split(split),
    }
}

/// Returns where control groups are mounted, from the text of `/proc/self/mountinfo`.
fn mount_points(mounts: &str) -> Vec<PathBuf> {
    let kinds = [" - cgroup ", " - cgroup2 "];
    let lines = mounts.lines().filter(|line| kinds.iter().any(|kind| line.contains(kind)));
    lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Finds the group that this process is in, from the text of `/proc/self/cgroup`.
fn own_group(version: &Version, groups: &str) -> Option<PathBuf> {
    let (mount, ours): (&Path, &dyn Fn(&str) -> bool) = match version {
        Version::Unified(mount) => (mount, &str::is_empty),
        Version::Split(mounts) => {
            let (mount, controllers) = mounts.first()?;
            (mount, &|listed| listed.split(',').any(|name| controllers.iter().any(|other| other == name)))
        }
    };
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        if ours(fields.next()?) { fields.next() } else { None }
    })?;
    Some(mount.join(relative(path)).join("cgroup.procs"))
}

/// Lets the groups below `path` have controllers, on every level from the mount point down.
fn hand_down(mount: &Path, path: &Path) -> Result<()> {
    let mut directory = mount.to_owned();
    let mut levels = vec![directory.clone()];
    for part in path {
        directory.push(part);
        levels.push(directory.clone());
    }
    for level in levels {
        std::fs::create_dir_all(&level)
            .map_err(|error| Error::system(format!("making {}", level.display()), error))?;
        let there = std::fs::read_to_string(level.join("cgroup.controllers")).unwrap_or_default();
        let file = level.join("cgroup.subtree_control");
        let handed = std::fs::read_to_string(&file).unwrap_or_default();
        for controller in UNIFIED_CONTROLLERS {
            let listed = |text: &str| text.split_whitespace().any(|name| name == controller);
            if listed(&there) && !listed(&handed) {
                let enable = || std::fs::write(&file, format!("+{controller}"));
                let result = match enable() {
                    // A group with processes in it cannot hand down: they go into one of their own.
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        move_processes(&level).and_then(|()| enable())
                    }
                    other => other,
                };
                if let Err(error) = result {
                    tracing::warn!(%controller, group = %level.display(), %error, "controller not handed down");
                }
            }
        }
    }
    Ok(())
}

fn move_processes(group: &Path) -> std::io::Result<()> {
    let own = group.join("processes");
    std::fs::create_dir_all(&own)?;
    for pid in std::fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        // One that ended meanwhile needs no move.
        drop(std::fs::write(own.join("cgroup.procs"), pid));
    }
    Ok(())
}

/// Returns the weight in version 2 for shares in version 1.
pub(crate) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Returns what to write for `resources`: controller, file, value, in an order that the kernel accepts.
fn limits(resources: &Resources, unified: bool) -> Vec<(&'static str, &'static str, String)> {
    let mut limits = Vec::new();
    let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
    if resources.cpu_shares > 0 {
        let shares = resources.cpu_shares.clamp(2, 262_144);
        limits.push(if unified {
            ("cpu", "cpu.weight", weight(shares).to_string())
        } else {
            ("cpu", "cpu.shares", shares.to_string())
        });
    }
    if resources.cpu_quota > 0 {
        // The kernel takes no quota below a millisecond.
        let quota = resources.cpu_quota.max(1_000);
        if unified {
            limits.push(("cpu", "cpu.max", format!("{quota} {period}")));
        } else {
            limits.push(("cpu", "cpu.cfs_period_us", period.to_string()));
            limits.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
        }
    }
    if resources.memory_limit > 0 {
        let limit = resources.memory_limit.to_string();
        if unified {
            limits.push(("memory", "memory.max", limit));
            limits.push(("memory", "memory.swap.max", "0".to_owned()));
            limits.push(("memory", "memory.oom.group", "1".to_owned()));
        } else {
            limits.push(("memory", "memory.limit_in_bytes", limit));
        }
    }
    if resources.pids_limit > 0 {
        limits.push(("pids", "pids.max", resources.pids_limit.to_string()));
    }
    limits
}

fn set(file: &Path, value: &str) {
    if let Err(error) = std::fs::write(file, value) {
        tracing::debug!(file = %file.display(), %value, %error, "control group not limited");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_tell_the_version() {
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parse(unified), Version::Unified("/sys/fs/cgroup".into()));
        let hybrid = "\
            30 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            31 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 25 0:28 / /elsewhere/memory rw - cgroup cgroup rw,memory\n\
            33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            parse(hybrid),
            Version::Split(vec![
                ("/sys/fs/cgroup/cpu,cpuacct".into(), vec!["cpu".into(), "cpuacct".into()]),
                ("/sys/fs/cgroup/memory".into(), vec!["memory".into()]),
            ])
        );
        assert_eq!(parse(""), Version::Split(Vec::new()));
    }

    #[test]
    fn the_group_of_this_process_is_found() {
        let version =
            Version::Split(vec![("/sys/fs/cgroup/cpu".into(), vec!["cpu".into(), "cpuacct".into()])]);
        let groups = "4:memory:/other\n2:cpuacct,cpu:/a/b\n0::/\n";
        assert_eq!(own_group(&version, groups), Some("/sys/fs/cgroup/cpu/a/b/cgroup.procs".into()));
        assert_eq!(own_group(&version, "0::/\n"), None);
        let unified = Version::Unified("/sys/fs/cgroup".into());
        assert_eq!(own_group(&unified, groups), Some("/sys/fs/cgroup/cgroup.procs".into()));
    }

    #[test]
    fn limits_are_written_in_each_versions_terms() {
        let resources = Resources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            memory_limit: 1 << 20,
            pids_limit: 10,
            ..Resources::default()
        };
        let text = |unified| {
            limits(&resources, unified)
                .into_iter()
                .map(|(_, file, value)| format!("{file}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            text(false),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=1048576 \
             pids.max=10"
        );
        assert_eq!(
            text(true),
            "cpu.weight=39 cpu.max=50000 100000 memory.max=1048576 memory.swap.max=0 memory.oom.group=1 pids.max=10"
        );
        assert!(limits(&Resources::default(), true).is_empty());
    }

    #[test]
    fn a_path_cannot_lead_out_of_the_root() {
        assert_eq!(relative("/kubepods/../../pod1/./c"), Path::new("kubepods/pod1/c"));
    }
}
