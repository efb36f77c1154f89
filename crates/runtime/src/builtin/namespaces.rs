//! A pod's namespaces, made by a thread that ends and pinned by bind mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};
use tokio::sync::oneshot;

use crate::helper::bundle::Namespaces;
use crate::{Error, HostNamespaces, Result, loopback, sysctl};

/// The type of the file system that namespaces are files of.
const NSFS: FsType = FsType(0x6e73_6673);
/// The name of the mount that pins a shared process table.
pub(super) const PID: &str = "pid";
/// The directory that is every container's `/dev/shm`.
pub(super) const SHM: &str = "shm";
/// As much as other runtimes give.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// What namespaces a pod needs of its own.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) host: HostNamespaces,
    pub(super) hostname: String,
    pub(super) sysctls: BTreeMap<String, String>,
}

/// Makes the pod's namespaces and its `/dev/shm` in `directory`.
pub(super) async fn make(directory: PathBuf, wanted: Wanted) -> Result<()> {
    sysctl::check(wanted.host, &wanted.sysctls)?;
    let (done, result) = oneshot::channel();
    // The thread changes its own namespaces and so cannot be one that is used again.
    let thread = std::thread::Builder::new().name("namespaces".to_owned()).spawn(move || {
        // The receiver goes only when the caller gives up, who then needs no answer.
        drop(done.send(make_here(&directory, &wanted)));
    });
    thread.map_err(|error| Error::system("starting a thread", error))?;
    result.await.map_err(|error| Error::system("making namespaces", error))?
}

/// Returns where the namespaces in `directory` are pinned.
pub(super) fn pinned(directory: &Path, host: HostNamespaces, share_processes: bool) -> Namespaces {
    let path = |own: bool, name: &str| own.then(|| directory.join(name));
    Namespaces {
        host,
        network: path(!host.network, "net"),
        ipc: path(!host.ipc, "ipc"),
        // A pod in its node's network has its node's name.
        uts: path(!host.network, "uts"),
        pid: path(share_processes && !host.pid, PID),
    }
}

/// Tells whether everything that should be pinned is.
pub(super) fn are_pinned(namespaces: &Namespaces) -> bool {
    [&namespaces.network, &namespaces.ipc, &namespaces.uts, &namespaces.pid]
        .into_iter()
        .flatten()
        .all(|path| statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS))
}

/// Pins the process table of `pid`.
pub(super) fn pin_process_table(directory: &Path, pid: i32) -> Result<()> {
    pin(&format!("/proc/{pid}/ns/pid"), &directory.join(PID))
}

/// Takes every mount in `directory` away. Succeeds when there is none.
pub(super) fn unpin(directory: &Path) -> Result<()> {
    for name in ["net", "ipc", "uts", PID, SHM] {
        let path = directory.join(name);
        loop {
            match umount2(&path, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(error) => return Err(Error::system(format!("unmounting {}", path.display()), error)),
            }
        }
    }
    Ok(())
}

fn make_here(directory: &Path, wanted: &Wanted) -> Result<()> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS, !wanted.host.network);
    flags.set(CloneFlags::CLONE_NEWIPC, !wanted.host.ipc);
    unshare(flags).map_err(|error| Error::system("making namespaces", error))?;
    if !wanted.host.network {
        nix::unistd::sethostname(&wanted.hostname)
            .map_err(|error| Error::system(format!("setting the host name {:?}", wanted.hostname), error))?;
        loopback::raise().map_err(|error| Error::system("raising the loopback interface", error))?;
        // As containerd does: in a network of its own, no port is special and everybody may ping.
        for (name, value) in
            [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")]
        {
            if let Err(error) = std::fs::write(Path::new("/proc/sys").join(name), value) {
                tracing::debug!(%name, %error, "the kernel does not have it");
            }
        }
    }
    for (name, value) in &wanted.sysctls {
        let path = Path::new("/proc/sys").join(sysctl::path(name));
        std::fs::write(&path, value)
            .map_err(|error| Error::system(format!("setting the sysctl {name} to {value:?}"), error))?;
    }
    if !wanted.host.network {
        pin("/proc/thread-self/ns/net", &directory.join("net"))?;
        pin("/proc/thread-self/ns/uts", &directory.join("uts"))?;
    }
    if !wanted.host.ipc {
        pin("/proc/thread-self/ns/ipc", &directory.join("ipc"))?;
        let shm = directory.join(SHM);
        std::fs::create_dir_all(&shm)
            .map_err(|error| Error::system(format!("making {}", shm.display()), error))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))
            .map_err(|error| Error::system(format!("mounting {}", shm.display()), error))?;
    }
    Ok(())
}

fn pin(source: &str, target: &Path) -> Result<()> {
    let context = || format!("pinning {source} at {}", target.display());
    std::fs::File::create(target).map_err(|error| Error::system(context(), error))?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| Error::system(context(), error))
}
