//! The OCI runtime specification of a container, as containerd would write it for the same pod.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, Process, ProcessBuilder, RootBuilder,
    Spec, SpecBuilder, UserBuilder,
};

use super::bundle::{Bundle, CGROUPS, ROOTFS, Rootfs};
use super::users::Identity;
use crate::Propagation;

/// Where programs are looked for when neither image nor pod says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every runtime gives, whatever the node agent itself has.
pub(super) const UMASK: u32 = 0o022;

/// What the kernel tells of the whole machine and containers must not read.
pub(crate) const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What containers must not change.
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Builds the specification. `directory` is the container's run directory; `kernel` says what the kernel has.
pub(super) fn build(
    bundle: &Bundle,
    identity: &Identity,
    directory: &Path,
    kernel: &Kernel,
) -> Result<Spec, OciSpecError> {
    let rootfs = match &bundle.rootfs {
        Rootfs::Overlay { .. } => directory.join(ROOTFS),
        Rootfs::Directory(path) => path.clone(),
    };
    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(rootfs).readonly(bundle.config.security.read_only_root).build()?)
        .mounts(mounts(bundle, directory, kernel)?)
        .process(process(bundle, identity)?)
        .linux(linux(bundle, kernel)?)
        .build()?;
    // The pod's namespace has its name already.
    spec.set_hostname(None);
    spec.set_domainname(None);
    Ok(spec)
}

/// What of the kernel the specification depends on.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// It has POSIX message queues.
    pub(super) message_queues: bool,
    /// Every device of the node, for privileged containers.
    pub(super) devices: Vec<LinuxDevice>,
}

impl Kernel {
    pub(super) fn probe(privileged: bool) -> Result<Self, OciSpecError> {
        let systems = std::fs::read_to_string("/proc/filesystems")?;
        let message_queues = systems.lines().any(|line| line.split_whitespace().last() == Some("mqueue"));
        let mut devices = Vec::new();
        if privileged {
            collect_devices(Path::new("/dev"), &mut devices)?;
        }
        Ok(Self { message_queues, devices })
    }
}

fn process(bundle: &Bundle, identity: &Identity) -> Result<Process, OciSpecError> {
    let (config, image) = (&bundle.config, &bundle.image);
    let cwd = [&config.working_directory, &image.working_dir].into_iter().find(|path| !path.is_empty());
    // Capabilities are left to the last step before the program, which needs some to install a seccomp filter.
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .args(arguments(bundle))
        .env(environment(bundle))
        .cwd(cwd.map_or("/", String::as_str))
        .user(
            UserBuilder::default()
                .umask(UMASK)
                .uid(identity.user)
                .gid(identity.group)
                .additional_gids(identity.groups.clone())
                .build()?,
        )
        .no_new_privileges(config.security.no_new_privileges)
        .build()?;
    process.set_capabilities(None);
    process.set_rlimits(None);
    Ok(process)
}

/// Returns command and arguments: the pod's command replaces the image's entrypoint and its arguments.
pub(crate) fn arguments(bundle: &Bundle) -> Vec<String> {
    let (config, image) = (&bundle.config, &bundle.image);
    match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => [&image.entrypoint[..], &image.cmd[..]].concat(),
        (true, false) => [&image.entrypoint[..], &config.args[..]].concat(),
        (false, _) => [&config.command[..], &config.args[..]].concat(),
    }
}

fn environment(bundle: &Bundle) -> Vec<String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match variables.iter_mut().find(|(other, _)| other == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    };
    if let Some((name, value)) = PATH.split_once('=') {
        set(name, value);
    }
    set("HOSTNAME", &bundle.hostname);
    if bundle.config.tty {
        set("TERM", "xterm");
    }
    for entry in &bundle.image.env {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value);
        }
    }
    for (name, value) in &bundle.config.env {
        set(name, value);
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn linux(bundle: &Bundle, kernel: &Kernel) -> Result<Linux, OciSpecError> {
    let security = &bundle.config.security;
    let privileged = security.privileged;
    let mut devices = kernel.devices.clone();
    for (host, container, _) in &bundle.config.devices {
        devices.push(device(host, container)?);
    }
    let mut linux = LinuxBuilder::default().namespaces(namespaces(bundle)?).devices(devices).build()?;
    linux.set_resources(None);
    let hidden = !privileged && !security.unmasked_proc;
    let list = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
    linux.set_masked_paths(if hidden { list(&MASKED) } else { None });
    linux.set_readonly_paths(if hidden { list(&READ_ONLY) } else { None });
    if bundle.config.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        linux.set_rootfs_propagation(Some("shared".to_owned()));
    }
    Ok(linux)
}

fn namespaces(bundle: &Bundle) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let pod = &bundle.namespaces;
    let mut namespaces = vec![LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Mount).build()?];
    if bundle.cgroups.unified {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup).build()?);
    }
    if pod.pid.is_none() && !pod.host.pid {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid).build()?);
    }
    for (typ, path) in [
        (LinuxNamespaceType::Pid, &pod.pid),
        (LinuxNamespaceType::Network, &pod.network),
        (LinuxNamespaceType::Ipc, &pod.ipc),
        (LinuxNamespaceType::Uts, &pod.uts),
    ] {
        if let Some(path) = path {
            namespaces.push(LinuxNamespaceBuilder::default().typ(typ).path(path.as_path()).build()?);
        }
    }
    Ok(namespaces)
}

fn mounts(bundle: &Bundle, directory: &Path, kernel: &Kernel) -> Result<Vec<Mount>, OciSpecError> {
    let config = &bundle.config;
    let writable = if config.security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
    ];
    if kernel.message_queues {
        mounts.push(mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"])?);
    }
    mounts.push(mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", writable])?);
    cgroup_mounts(bundle, directory, writable, &mut mounts)?;
    let taken: Vec<PathBuf> = config.mounts.iter().map(|mount| lexical(&mount.container_path)).collect();
    for (source, destination) in &bundle.pod_files {
        if !taken.contains(destination) {
            mounts.push(bind(source, destination, &["rbind", "rw"])?);
        }
    }
    let mut of_pod: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    for wanted in &config.mounts {
        let destination = lexical(&wanted.container_path);
        let mode = if wanted.read_only { "ro" } else { "rw" };
        let propagation = match wanted.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        of_pod.insert(
            destination.clone(),
            bind(&wanted.host_path, &destination, &["rbind", propagation, mode])?,
        );
    }
    // In the order of their paths, so that one inside another comes after it.
    mounts.extend(of_pod.into_values());
    Ok(mounts)
}

fn cgroup_mounts(
    bundle: &Bundle,
    directory: &Path,
    writable: &str,
    mounts: &mut Vec<Mount>,
) -> Result<(), OciSpecError> {
    let options = ["nosuid", "noexec", "nodev", writable];
    if bundle.cgroups.directories.is_empty() {
        return Ok(());
    }
    if bundle.cgroups.unified {
        mounts.push(mount("cgroup2", "cgroup", "/sys/fs/cgroup", &options)?);
        return Ok(());
    }
    mounts.push(mount("tmpfs", "tmpfs", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "mode=755"])?);
    for (name, _) in hierarchies(bundle) {
        let options = ["rbind", "nosuid", "noexec", "nodev", writable];
        let source = stash(directory, &name);
        mounts.push(bind(&source, &Path::new("/sys/fs/cgroup").join(&name), &options)?);
    }
    Ok(())
}

/// Returns where a control group of a cgroup v1 hierarchy is found once the node's are hidden. The last part of the
/// path must not be a controller's name: libcontainer would take it for that controller's mount point.
pub(super) fn stash(directory: &Path, name: &str) -> PathBuf {
    directory.join(CGROUPS).join(format!("v1-{name}"))
}

/// Returns the container's directory of each cgroup v1 hierarchy with the hierarchy's name.
pub(super) fn hierarchies(bundle: &Bundle) -> Vec<(String, PathBuf)> {
    let mount_point =
        |path: &Path| path.strip_prefix("/sys/fs/cgroup").ok()?.iter().next().map(|name| name.to_owned());
    bundle
        .cgroups
        .directories
        .iter()
        .filter_map(|path| Some((mount_point(path)?.into_string().ok()?, path.clone())))
        .collect()
}

fn mount(typ: &str, source: &str, destination: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .typ(typ)
        .source(source)
        .destination(destination)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .typ("bind")
        .source(source)
        .destination(destination)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
}

/// Returns `path` as an absolute one without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn device(host: &Path, container: &Path) -> Result<LinuxDevice, OciSpecError> {
    let metadata = std::fs::metadata(host)
        .map_err(|error| OciSpecError::Other(format!("the device {}: {error}", host.display())))?;
    let kind = metadata.file_type();
    let typ = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return Err(OciSpecError::Other(format!("{} is not a device", host.display())));
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(container)
        .typ(typ)
        .major(i64::from(libc::major(number)))
        .minor(i64::from(libc::minor(number)))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
}

fn collect_devices(directory: &Path, devices: &mut Vec<LinuxDevice>) -> Result<(), OciSpecError> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            // These are file systems of their own, and the container has its own of each.
            if !["pts", "shm", "mqueue", "fd", ".lxc", ".lxd-mounts"]
                .iter()
                .any(|name| entry.file_name() == *name)
            {
                collect_devices(&path, devices)?;
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            let own = ["console", "ptmx", "tty", "null", "zero", "full", "random", "urandom"];
            if !own.iter().any(|name| path == Path::new("/dev").join(name)) {
                devices.push(device(&path, &path)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::bundle::{Groups, Namespaces};
    use crate::images::ImageConfig;
    use crate::{ContainerConfig, HostNamespaces, Security};

    fn bundle() -> Bundle {
        Bundle {
            id: "c1".into(),
            config: ContainerConfig::default(),
            image: ImageConfig {
                env: vec!["PATH=/bin".into(), "A=image".into()],
                entrypoint: vec!["/entry".into()],
                cmd: vec!["default".into()],
                working_dir: "/srv".into(),
                ..ImageConfig::default()
            },
            rootfs: Rootfs::Directory("/root-of-container".into()),
            cgroups: Groups::default(),
            namespaces: Namespaces {
                network: Some("/run/net".into()),
                ipc: Some("/run/ipc".into()),
                uts: Some("/run/uts".into()),
                ..Namespaces::default()
            },
            pod_files: vec![("/run/resolv.conf".into(), "/etc/resolv.conf".into())],
            hostname: "web-0".into(),
        }
    }

    fn identity() -> Identity {
        Identity { user: 0, group: 0, groups: vec![0] }
    }

    fn spec(bundle: &Bundle) -> Spec {
        build(bundle, &identity(), Path::new("/run/c1"), &Kernel::default()).unwrap()
    }

    #[test]
    fn command_and_arguments_replace_the_images_as_kubernetes_documents() {
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["/entry", "default"]),
            (&[], &["x"], &["/entry", "x"]),
            (&["/cmd"], &[], &["/cmd"]),
            (&["/cmd"], &["x"], &["/cmd", "x"]),
        ];
        for (command, args, expect) in cases {
            let mut bundle = bundle();
            bundle.config.command = command.iter().map(|text| (*text).to_owned()).collect();
            bundle.config.args = args.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(arguments(&bundle), expect);
        }
    }

    #[test]
    fn the_pods_variables_win_over_the_images_and_later_ones_over_earlier_ones() {
        let mut bundle = bundle();
        bundle.config.env =
            vec![("A".into(), "pod".into()), ("B".into(), "1".into()), ("B".into(), "2=3".into())];
        assert_eq!(environment(&bundle), ["PATH=/bin", "HOSTNAME=web-0", "A=pod", "B=2=3"]);
        bundle.image.env.clear();
        assert!(environment(&bundle)[0].starts_with("PATH=/usr/local/sbin:"));
    }

    #[test]
    fn mounts_inside_others_come_after_them_and_replace_the_pods_files() {
        let mut bundle = bundle();
        let wanted = |path: &str| crate::Mount {
            host_path: "/source".into(),
            container_path: path.into(),
            ..crate::Mount::default()
        };
        bundle.config.mounts =
            vec![wanted("/data/in/side"), wanted("/data"), wanted("etc/../etc/resolv.conf")];
        let spec = spec(&bundle);
        let destinations: Vec<&Path> =
            spec.mounts().as_ref().unwrap().iter().map(|mount| mount.destination().as_path()).collect();
        let last: Vec<&Path> = destinations[destinations.len() - 3..].to_vec();
        assert_eq!(last, [Path::new("/data"), Path::new("/data/in/side"), Path::new("/etc/resolv.conf")]);
        assert_eq!(destinations.iter().filter(|path| path.ends_with("resolv.conf")).count(), 1);
    }

    #[test]
    fn a_privileged_container_sees_proc_as_it_is() {
        let mut bundle = bundle();
        assert_eq!(spec(&bundle).linux().as_ref().unwrap().masked_paths().as_ref().unwrap().len(), 11);
        bundle.config.security = Security { privileged: true, ..Security::default() };
        let spec = spec(&bundle);
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.masked_paths().is_none() && linux.readonly_paths().is_none());
        let sys = spec.mounts().as_ref().unwrap().iter().find(|mount| mount.destination() == "/sys").unwrap();
        assert!(sys.options().as_ref().unwrap().contains(&"rw".to_owned()));
    }

    #[test]
    fn namespaces_are_the_pods_or_the_nodes() {
        let kinds = |bundle: &Bundle| {
            let mut kinds: Vec<String> = spec(bundle)
                .linux()
                .as_ref()
                .unwrap()
                .namespaces()
                .as_ref()
                .unwrap()
                .iter()
                .map(|one| format!("{}{}", one.typ(), if one.path().is_some() { "=pod" } else { "" }))
                .collect();
            kinds.sort();
            kinds.join(" ")
        };
        let mut bundle = bundle();
        assert_eq!(kinds(&bundle), "ipc=pod mnt net=pod pid uts=pod");
        bundle.namespaces.pid = Some("/run/pid".into());
        assert_eq!(kinds(&bundle), "ipc=pod mnt net=pod pid=pod uts=pod");
        bundle.namespaces = Namespaces {
            host: HostNamespaces { network: true, pid: true, ipc: true },
            ..Namespaces::default()
        };
        bundle.cgroups.unified = true;
        assert_eq!(kinds(&bundle), "cgroup mnt");
    }
}
