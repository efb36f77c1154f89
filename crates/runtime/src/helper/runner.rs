//! Starts a container by libcontainer, in a child of the shim that ends when the container runs.
//!
//! Libcontainer would look for control groups by itself, one hierarchy after another, and cannot place a container
//! where some are missing. So this process enters the groups that the engine has made, and then hides the node's
//! control groups from what follows, in a mount namespace of its own. The root file system is mounted in that
//! namespace, too, so that no mount can be left behind however the container ends.
#![expect(unsafe_code, reason = "fork in a process with one thread")]

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};
use oci_spec::runtime::Spec;

use super::bundle::{self, Bundle, ROOTFS, Rootfs};
use super::confine::{self, Confinement};
use super::{propagation, spec, streams, users};

/// Where the node's control groups are mounted.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// What the container's first process has for standard streams.
pub(super) struct Stdio {
    pub(super) input: Option<OwnedFd>,
    pub(super) out: Option<OwnedFd>,
    pub(super) err: Option<OwnedFd>,
    /// The socket that wants the terminal, instead of all of these.
    pub(super) console: Option<PathBuf>,
}

/// Forks a child that starts the container of the current directory. It writes `P` and the process id, or `E` and
/// what went wrong, to `report`, and ends.
pub(super) fn spawn(stdio: Stdio, report: OwnedFd) -> Result<(), String> {
    // SAFETY: this process has one thread, so the child's memory is consistent.
    match unsafe { fork() }.map_err(|error| format!("forking: {error}"))? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            let text = match start(stdio) {
                Ok(pid) => format!("P{pid}"),
                Err(why) => format!("E{why}"),
            };
            let written = std::fs::File::from(report).write_all(text.as_bytes());
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(i32::from(written.is_err())) }
        }
    }
}

fn start(stdio: Stdio) -> Result<Pid, String> {
    let directory = std::env::current_dir().map_err(|error| format!("finding the run directory: {error}"))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|error| format!("unblocking signals: {error}"))?;
    let file = std::fs::read(bundle::FILE).map_err(|error| format!("reading {}: {error}", bundle::FILE))?;
    let bundle: Bundle =
        serde_json::from_slice(&file).map_err(|error| format!("reading {}: {error}", bundle::FILE))?;
    let confinement = Confinement::new(&bundle)?;
    enter_cgroups(&bundle.cgroups.directories)?;
    score_for_memory(bundle.config.resources.oom_score_adj);
    prepare_mounts(&bundle, &directory)?;

    let rootfs = match &bundle.rootfs {
        Rootfs::Overlay { .. } => directory.join(ROOTFS),
        Rootfs::Directory(path) => path.clone(),
    };
    let identity = users::identify(
        &bundle.image.user,
        &bundle.config.security,
        &read_in(&rootfs, "etc/passwd"),
        &read_in(&rootfs, "etc/group"),
    )?;
    let describe = |error: oci_spec::OciSpecError| format!("describing the container: {error}");
    let kernel = spec::Kernel::probe(bundle.config.security.privileged).map_err(describe)?;
    let mut spec = spec::build(&bundle, &identity, &directory, &kernel).map_err(describe)?;
    make_working_directory(&rootfs, &mut spec)?;
    let path = directory.join("config.json");
    spec.save(&path).map_err(describe)?;

    let (failure, failure_to) = streams::pipe()?;
    let owner = (Some(Uid::from_raw(identity.user)), Some(Gid::from_raw(identity.group)));
    for fd in [&stdio.input, &stdio.out, &stdio.err].into_iter().flatten() {
        // So that a program without rights can open /dev/stdout again.
        nix::unistd::fchown(fd.as_fd(), owner.0, owner.1)
            .map_err(|error| format!("giving the streams to the user: {error}"))?;
    }
    let become_program = BecomeProgram { confinement, failure: failure_to.as_raw_fd() };
    let pid = create_and_start(&bundle.id, &directory, stdio, become_program)?;
    drop(failure_to);
    let mut why = String::new();
    std::fs::File::from(failure)
        .read_to_string(&mut why)
        .map_err(|error| format!("waiting for the program to start: {error}"))?;
    if why.is_empty() { Ok(pid) } else { Err(why) }
}

fn create_and_start(
    id: &str,
    directory: &Path,
    stdio: Stdio,
    become_program: BecomeProgram,
) -> Result<Pid, String> {
    let failed = |error: libcontainer::error::LibcontainerError| {
        format!("unable to start container process: {}", causes(&error))
    };
    let state = directory.join("libcontainer");
    std::fs::create_dir_all(&state).map_err(|error| format!("making {}: {error}", state.display()))?;
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(become_program)
        .with_root_path(state)
        .map_err(failed)?
        .with_console_socket(stdio.console);
    if let Some(out) = stdio.out {
        builder = builder.with_stdout(out);
    }
    if let Some(err) = stdio.err {
        builder = builder.with_stderr(err);
    }
    if let Some(input) = stdio.input {
        builder = builder.with_stdin(input);
    }
    let mut container =
        builder.as_init(directory).with_systemd(false).with_detach(true).build().map_err(failed)?;
    let pid = container.pid().ok_or("libcontainer made a container without a process")?;
    let pid = Pid::from_raw(pid.as_raw());
    if let Err(error) = container.start() {
        let why = failed(error);
        return match nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Err(why),
            Err(error) => Err(format!("{why}; killing it again: {error}")),
        };
    }
    Ok(pid)
}

/// Returns an error with everything that it came from.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Enters control groups by writing to each; `0` means the writer.
pub(super) fn enter_cgroups(directories: &[PathBuf]) -> Result<(), String> {
    for directory in directories {
        let path = directory.join("cgroup.procs");
        std::fs::write(&path, "0").map_err(|error| format!("entering {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Best effort: lowering it needs a privilege that a node may not have.
pub(super) fn score_for_memory(score: i32) {
    if std::fs::write("/proc/self/oom_score_adj", score.to_string()).is_err() && score < 0 {
        // As near as it gets. Failing here, too, leaves what the node agent has.
        drop(std::fs::write("/proc/self/oom_score_adj", "0"));
    }
}

fn prepare_mounts(bundle: &Bundle, directory: &Path) -> Result<(), String> {
    let shared = propagation::open_shared(&bundle.config.mounts)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("making a mount namespace: {error}"))?;
    let kind = propagation::of_namespace(&bundle.config.mounts);
    mount_call(None, Path::new("/"), None, kind | MsFlags::MS_REC, None)?;
    propagation::attach_shared(shared)?;
    if let Rootfs::Overlay { layers, lower, upper, work } = &bundle.rootfs {
        mount_overlay(layers, lower, upper, work, &directory.join(ROOTFS))?;
    }
    if !bundle.cgroups.unified {
        for (name, source) in spec::hierarchies(bundle) {
            let target = spec::stash(directory, &name);
            std::fs::create_dir_all(&target)
                .map_err(|error| format!("making {}: {error}", target.display()))?;
            mount_call(Some(&source), &target, None, MsFlags::MS_BIND, None)?;
        }
    }
    match umount2(CGROUP_MOUNT, MntFlags::MNT_DETACH) {
        // Not mounted is as good.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(format!("hiding {CGROUP_MOUNT}: {error}")),
    }
    mount_call(None, Path::new(CGROUP_MOUNT), Some("tmpfs"), MsFlags::MS_NOEXEC, Some("size=4k"))
}

fn mount_overlay(
    layers: &Path,
    lower: &[String],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), String> {
    let escape = |path: &Path| {
        path.display().to_string().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:")
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), escape(upper), escape(work));
    // Layers are named relative to their directory, since the kernel takes only a page of options.
    let back = std::env::current_dir().map_err(|error| format!("finding the directory: {error}"))?;
    std::env::set_current_dir(layers).map_err(|error| format!("entering {}: {error}", layers.display()))?;
    let mounted = mount_call(None, target, Some("overlay"), MsFlags::MS_NODEV, Some(&options));
    std::env::set_current_dir(&back).map_err(|error| format!("entering {}: {error}", back.display()))?;
    mounted
}

pub(super) fn mount_call(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), String> {
    let name = kind.map(Path::new);
    mount(source.or(name), target, kind, flags, options).map_err(|error| {
        format!("mounting {} on {}: {error}", kind.unwrap_or("a directory"), target.display())
    })
}

/// Reads a file of the container; what is not there or not a small file is empty. Links in the path are those of
/// the container, so that an image cannot have a file of the node read.
fn read_in(rootfs: &Path, path: &str) -> String {
    use nix::fcntl::{OpenHow, ResolveFlag, openat2};
    let open = || -> nix::Result<OwnedFd> {
        let root = nix::fcntl::open(rootfs, OFlag::O_PATH | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(root, path, how)
    };
    let mut text = Vec::new();
    let Ok(fd) = open() else { return String::new() };
    match std::fs::File::from(fd).take(4 << 20).read_to_end(&mut text) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// Makes the working directory if the image does not have it, as every runtime does.
fn make_working_directory(rootfs: &Path, spec: &mut Spec) -> Result<(), String> {
    let Some(process) = spec.process() else { return Ok(()) };
    let cwd = process.cwd();
    if cwd == Path::new("/") {
        return Ok(());
    }
    let relative = cwd.strip_prefix("/").map_err(|_| {
        format!("the working directory {:?} is invalid, it needs to be an absolute path", cwd.display())
    })?;
    // Only what exists neither as itself nor behind a link is made; libcontainer reports what remains.
    if relative.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Ok(());
    }
    let mut so_far = rootfs.to_owned();
    for part in relative.components() {
        so_far.push(part);
        match std::fs::symlink_metadata(&so_far) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(()),
            Err(_) => std::fs::create_dir(&so_far)
                .map_err(|error| format!("making the working directory {}: {error}", cwd.display()))?,
        }
    }
    Ok(())
}

/// The last step in the container's first process.
#[derive(Clone)]
struct BecomeProgram {
    confinement: Confinement,
    /// Where to say why it did not work; closed by a successful exec.
    failure: RawFd,
}

impl Executor for BecomeProgram {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let empty = Vec::new();
        let process = spec.process().as_ref();
        let arguments = process.and_then(|process| process.args().as_ref()).unwrap_or(&empty);
        // Libcontainer has put the specification's variables into this process, and added HOME.
        let environment: Vec<String> =
            std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
        let (code, message) = match self.confinement.apply() {
            Ok(()) => {
                let not_started = confine::execute(arguments, &environment);
                (not_started.code, not_started.message)
            }
            Err(why) => (126, why),
        };
        let text = format!("unable to start container process: {message}");
        // SAFETY: the pipe was made for this process and stays open until it ends.
        let failure = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.failure) };
        let written = nix::unistd::write(failure, text.as_bytes());
        // SAFETY: ends the process without running what belongs to its parents.
        unsafe { libc::_exit(if written.is_ok() { i32::from(code) } else { 125 }) }
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // Trying is the only test that tells the truth.
        Ok(())
    }

    fn setup_envs(
        &self,
        variables: HashMap<String, String>,
    ) -> Result<(), libcontainer::workload::ExecutorSetEnvsError> {
        let old: Vec<std::ffi::OsString> = std::env::vars_os().map(|(name, _)| name).collect();
        for name in old {
            // SAFETY: this process has one thread.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in variables {
            let usable = |text: &str| CString::new(text).is_ok();
            if !name.is_empty() && !name.contains('=') && usable(&name) && usable(&value) {
                // SAFETY: this process has one thread.
                #[expect(clippy::disallowed_methods, reason = "this process has one thread")]
                unsafe {
                    std::env::set_var(name, value);
                }
            }
        }
        Ok(())
    }
}
