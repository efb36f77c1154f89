//! Runs a command inside a running container: joins its namespaces and control groups, then becomes the command.
#![expect(unsafe_code, reason = "fork in a process with one thread, and the calls that change users")]

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Process, Spec};

use super::bundle::{self, Bundle};
use super::confine::{self, Confinement};
use super::runner;

/// The exit code of a command that could not be started for a reason that is not the command's.
const BROKEN: u8 = 126;

/// Arguments: the container's run directory, its first process, `t` or `-` for a terminal, the command.
/// Standard streams are the command's.
pub(super) fn main(arguments: &[OsString]) -> ExitCode {
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            complain(&why);
            ExitCode::from(BROKEN)
        }
    }
}

/// Says on the command's standard error why there is no command.
fn complain(why: &str) {
    let text = format!("OCI runtime exec failed: exec failed: unable to start container process: {why}\n");
    // Nobody is left to tell when even that fails; the exit code says it all the same.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn run(arguments: &[OsString]) -> Result<u8, String> {
    let [directory, pid, terminal, command @ ..] = arguments else {
        return Err("the engine gave too few arguments".to_owned());
    };
    let directory = PathBuf::from(directory);
    let pid = pid.to_str().ok_or("the engine gave no process id")?;
    let command: Vec<String> = command.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let file = std::fs::read(directory.join(bundle::FILE))
        .map_err(|error| format!("reading {}: {error}", bundle::FILE))?;
    let bundle: Bundle =
        serde_json::from_slice(&file).map_err(|error| format!("reading {}: {error}", bundle::FILE))?;
    let spec =
        Spec::load(directory.join("config.json")).map_err(|error| format!("reading config.json: {error}"))?;
    let process = spec.process().as_ref().ok_or("config.json has no process")?;
    let confinement = Confinement::new(&bundle)?;
    runner::enter_cgroups(&bundle.cgroups.directories)?;
    runner::score_for_memory(bundle.config.resources.oom_score_adj);
    join(pid, bundle.cgroups.unified)?;
    // Entering a process table counts for children only.
    // SAFETY: this process has one thread, so the child's memory is consistent.
    match unsafe { fork() }.map_err(|error| format!("forking: {error}"))? {
        ForkResult::Child => {
            let code = become_command(process, &command, &confinement, terminal == "t");
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(i32::from(code)) }
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code & 0xff).unwrap_or(BROKEN)),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Ok(u8::try_from(128 + signal as i32).unwrap_or(BROKEN));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(format!("waiting for the command: {error}")),
            }
        },
    }
}

/// Joins every namespace that the container's first process is in and this one is not.
fn join(pid: &str, unified: bool) -> Result<(), String> {
    let wanted = [
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    // All are opened before the first is joined: afterwards /proc is another one.
    let mut open = Vec::new();
    for (name, flag) in wanted {
        if name == "cgroup" && !unified {
            continue;
        }
        let theirs = Path::new("/proc").join(pid).join("ns").join(name);
        let link = |path: &Path| {
            std::fs::read_link(path).map_err(|error| format!("reading {}: {error}", path.display()))
        };
        if link(&theirs)? == link(&Path::new("/proc/self/ns").join(name))? {
            continue;
        }
        let file = File::open(&theirs).map_err(|error| format!("opening {}: {error}", theirs.display()))?;
        open.push((file, flag, theirs));
    }
    for (file, flag, path) in open {
        setns(&file, flag).map_err(|error| format!("joining {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Returns only with the exit code of a failure.
fn become_command(process: &Process, command: &[String], confinement: &Confinement, terminal: bool) -> u8 {
    match prepare(process, confinement, terminal) {
        Err(why) => {
            complain(&why);
            BROKEN
        }
        Ok(()) => {
            let mut environment = process.env().clone().unwrap_or_default();
            if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
                environment.push(format!("HOME={}", home(process.user().uid())));
            }
            if terminal && !environment.iter().any(|entry| entry.starts_with("TERM=")) {
                environment.push("TERM=xterm".to_owned());
            }
            let not_started = confine::execute(command, &environment);
            complain(&not_started.message);
            not_started.code
        }
    }
}

fn prepare(process: &Process, confinement: &Confinement, terminal: bool) -> Result<(), String> {
    // The command ends with the helper, which is how the engine kills it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("tying it to the helper: {error}"))?;
    nix::unistd::setsid().map_err(|error| format!("starting a session: {error}"))?;
    if terminal {
        // SAFETY: the call takes numbers and touches no memory.
        let result = unsafe { libc::ioctl(std::io::stdin().as_raw_fd(), libc::TIOCSCTTY, 0) };
        if result != 0 {
            return Err(format!("taking the terminal: {}", std::io::Error::last_os_error()));
        }
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(super::spec::UMASK));
    let (user, cwd) = (process.user(), process.cwd());
    if terminal {
        // So that the command can open its terminal by name.
        nix::unistd::fchown(std::io::stdin(), Some(Uid::from_raw(user.uid())), None)
            .map_err(|error| format!("giving the terminal to user {}: {error}", user.uid()))?;
    }
    std::env::set_current_dir(cwd).map_err(|error| format!("chdir to cwd ({cwd:?}): {error}"))?;
    let failed = |error: Errno| format!("changing to user {}: {error}", user.uid());
    let groups: Vec<Gid> =
        user.additional_gids().iter().flatten().map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups).map_err(failed)?;
    let (group, uid) = (Gid::from_raw(user.gid()), Uid::from_raw(user.uid()));
    setresgid(group, group, group).map_err(failed)?;
    prctl::set_keepcaps(true).map_err(failed)?;
    setresuid(uid, uid, uid).map_err(failed)?;
    prctl::set_keepcaps(false).map_err(failed)?;
    confine::raise_capabilities()?;
    // The change of user has cleared it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("tying it to the helper: {error}"))?;
    close_others()?;
    confinement.apply()
}

/// Everything but the standard streams goes at exec.
fn close_others() -> Result<(), String> {
    // SAFETY: the call only marks descriptors.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(format!("closing files: {}", std::io::Error::last_os_error())) }
}

fn home(user: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|number| number.parse() == Ok(user)));
    entry.and_then(|fields| fields.get(5).map(|home| (*home).to_owned())).unwrap_or_else(|| "/".to_owned())
}
