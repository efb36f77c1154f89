//! A node's root file system: a read-only view of the host's programs, with its own /etc, /run, /tmp, /var,
//! /dev, /proc and /sys. Runs as the node's first process, in mount and PID namespaces of its own.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root};

use super::cgroup::Hierarchy;
use super::launch::LaunchConfig;
use crate::error::{Context, Error, Result};

/// What of the host's root a node sees, read-only. `nix` and `gnu` are where NixOS and Guix keep everything.
const SYSTEM: [&str; 10] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "nix", "gnu"];

/// What of the host's /etc a node sees as it is, read-only: certificates and what dynamic linking needs.
const SHARED_ETC: [&str; 7] =
    ["ssl", "pki", "ca-certificates", "alternatives", "crypto-policies", "ld.so.conf.d", "terminfo"];

/// Devices that every node has: name, major and minor number.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Devices that a node has where the host has them.
const HOST_DEVICES: [&str; 4] = ["fuse", "net/tun", "kvm", "kmsg"];

const NONE: Option<&str> = None;

/// Builds the root and moves into it.
pub(super) fn enter(config: &LaunchConfig) -> Result<()> {
    // Nothing of what follows may reach the host.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("making mounts private")?;
    let node = &config.directory;
    let root = node.join("root");
    mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=16m"))
        .context(format!("mounting the node's root on {}", root.display()))?;
    system(&root)?;
    for directory in
        ["proc", "sys", "dev", "run", "tmp", "etc", "var", "opt/bin", "root", "mnt", "srv", "home"]
    {
        fs_err::create_dir_all(root.join(directory))?;
    }
    etc(&node.join("etc"), &root)?;
    variable(config, &root)?;
    bind(&config.programs, &root.join("opt/bin"), true)?;
    mount(
        Some("tmpfs"),
        &root.join("run"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .context("mounting /run")?;
    fs_err::create_dir_all(root.join("run/lock"))?;
    devices(&root.join("dev"))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &root.join("proc"), Some("proc"), safe, NONE).context("mounting /proc")?;
    mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), safe, NONE).context("mounting /sys")?;
    control_groups(&config.hierarchies, &root.join("sys/fs/cgroup"))?;
    chdir(&root).context("entering the node's root")?;
    pivot_root(".", ".").context("changing to the node's root")?;
    umount2(".", MntFlags::MNT_DETACH).context("letting go of the host's root")?;
    chdir("/").context("entering the node's root")?;
    // Pods may ask for mounts that travel both ways; they do so within the node only.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)
        .context("sharing mounts within the node")
}

fn system(root: &Path) -> Result<()> {
    for name in SYSTEM {
        let host = Path::new("/").join(name);
        let Ok(metadata) = std::fs::symlink_metadata(&host) else { continue };
        let inside = root.join(name);
        if metadata.is_symlink() {
            symlink(fs_err::read_link(&host)?, &inside).context(format!("linking {}", inside.display()))?;
        } else if metadata.is_dir() {
            fs_err::create_dir(&inside)?;
            bind(&host, &inside, true)?;
        }
    }
    Ok(())
}

/// Shows `from` at `to`, with what is mounted below it.
fn bind(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    let doing = || format!("showing {} to the node", from.display());
    mount(Some(from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).context(doing())?;
    if !read_only {
        return Ok(());
    }
    // A recursive bind is made read-only one mount at a time on kernels older than mount_setattr.
    let table = fs_err::read_to_string("/proc/self/mountinfo")?;
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(options)) = (fields.get(4), fields.get(5)) else { continue };
        let point = PathBuf::from(unescape(point));
        if point.starts_with(to) {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept(options);
            mount(NONE, &point, NONE, flags, NONE)
                .context(format!("making {} read-only", point.display()))?;
        }
    }
    Ok(())
}

/// Returns the flags that a remount must repeat.
fn kept(options: &str) -> MsFlags {
    options.split(',').fold(MsFlags::empty(), |flags, option| {
        flags
            | match option {
                "nosuid" => MsFlags::MS_NOSUID,
                "nodev" => MsFlags::MS_NODEV,
                "noexec" => MsFlags::MS_NOEXEC,
                "noatime" => MsFlags::MS_NOATIME,
                "nodiratime" => MsFlags::MS_NODIRATIME,
                "relatime" => MsFlags::MS_RELATIME,
                _ => MsFlags::empty(),
            }
    })
}

/// Undoes the octal escapes of mountinfo: blanks, tabs, newlines and backslashes.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn etc(own: &Path, root: &Path) -> Result<()> {
    let inside = root.join("etc");
    bind(own, &inside, false)?;
    for name in SHARED_ETC {
        let host = Path::new("/etc").join(name);
        if host.is_dir() {
            fs_err::create_dir_all(inside.join(name))?;
            bind(&host, &inside.join(name), true)?;
        }
    }
    Ok(())
}

fn variable(config: &LaunchConfig, root: &Path) -> Result<()> {
    bind(&config.directory.join("var"), &root.join("var"), false)?;
    bind(&config.directory.join("tmp"), &root.join("tmp"), false)?;
    let images = root.join("var/lib/images");
    fs_err::create_dir_all(&images)?;
    bind(&config.images, &images, false)
}

fn devices(dev: &Path) -> Result<()> {
    mount(Some("tmpfs"), dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64k"))
        .context("mounting /dev")?;
    for (name, major, minor) in DEVICES {
        device(dev, name, Some((major, minor)))?;
    }
    for name in HOST_DEVICES {
        if Path::new("/dev").join(name).exists() {
            device(dev, name, None)?;
        }
    }
    for directory in ["pts", "shm", "mqueue"] {
        fs_err::create_dir(dev.join(directory))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        quiet,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )
    .context("mounting /dev/pts")?;
    mount(Some("tmpfs"), &dev.join("shm"), Some("tmpfs"), quiet | MsFlags::MS_NODEV, Some("mode=1777"))
        .context("mounting /dev/shm")?;
    match mount(Some("mqueue"), &dev.join("mqueue"), Some("mqueue"), quiet | MsFlags::MS_NODEV, NONE) {
        // Message queues are an option of the kernel (CONFIG_POSIX_MQUEUE) that nothing here needs.
        Ok(()) | Err(Errno::ENODEV) => {}
        Err(error) => return Err(Error::from(error).within("mounting /dev/mqueue")),
    }
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(link)).context(format!("linking /dev/{link}"))?;
    }
    Ok(())
}

/// Makes a device, or shows the host's where making one is not allowed.
fn device(dev: &Path, name: &str, numbers: Option<(u64, u64)>) -> Result<()> {
    let path = dev.join(name);
    if let Some((major, minor)) = numbers {
        match mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor)) {
            Ok(()) => {
                fs_err::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
                return Ok(());
            }
            Err(Errno::EPERM) => {}
            Err(error) => return Err(Error::from(error).within(format!("making /dev/{name}"))),
        }
    }
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent)?;
    }
    fs_err::write(&path, "")?;
    mount(Some(&Path::new("/dev").join(name)), &path, NONE, MsFlags::MS_BIND, NONE)
        .context(format!("showing /dev/{name} to the node"))
}

/// Mounts the hierarchies again: within the node's cgroup namespace they show its own subtree only.
fn control_groups(hierarchies: &[Hierarchy], place: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let [only] = hierarchies
        && only.unified
    {
        return mount(Some("cgroup2"), place, Some("cgroup2"), flags, NONE).context("mounting cgroup2");
    }
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some("mode=755,size=64k"))
        .context("mounting cgroups")?;
    for hierarchy in hierarchies {
        let name = hierarchy.mount.file_name().unwrap_or_default();
        let target = place.join(name);
        fs_err::create_dir(&target)?;
        let options = if hierarchy.options.starts_with("name=") {
            format!("none,{}", hierarchy.options)
        } else {
            hierarchy.options.clone()
        };
        mount(Some("cgroup"), &target, Some("cgroup"), flags, Some(options.as_str()))
            .context(format!("mounting the control groups of {}", hierarchy.options))?;
        // Controllers that share a hierarchy are also found under each one's name.
        for controller in hierarchy.options.split(',').filter(|option| !option.contains('=')) {
            if Path::new(name) != Path::new(controller) {
                symlink(name, place.join(controller)).context(format!("linking {controller}"))?;
            }
        }
    }
    Ok(())
}
