//! The last steps before a container's program: what it may do, and becoming it.
#![expect(unsafe_code, reason = "capabilities and execve have no safe form in the libraries at hand")]

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

use super::bundle::Bundle;
use super::seccomp::{self, Filter};
use crate::Security;

/// Every capability, at the place of its number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it says otherwise; the same set as containerd's and Docker's.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What a process gives up before it becomes the container's program.
#[derive(Clone)]
pub(super) struct Confinement {
    capabilities: u64,
    no_new_privileges: bool,
    filters: Vec<Filter>,
}

impl Confinement {
    pub(super) fn new(bundle: &Bundle) -> Result<Self, String> {
        let security = &bundle.config.security;
        let capabilities = if security.privileged { u64::MAX } else { capabilities(security)? };
        let filters = if security.privileged {
            Vec::new()
        } else {
            seccomp::filters(&security.seccomp, capabilities, &CAPABILITIES)?
        };
        Ok(Self { capabilities, no_new_privileges: security.no_new_privileges, filters })
    }

    /// Gives it all up, for good.
    pub(super) fn apply(&self) -> Result<(), String> {
        if self.no_new_privileges {
            prctl::set_no_new_privs().map_err(|error| format!("setting no_new_privs: {error}"))?;
            drop_capabilities(self.capabilities)?;
            // Now the filter needs no privilege, and what comes after it is only the program.
            seccomp::install(&self.filters)
        } else {
            seccomp::install(&self.filters)?;
            drop_capabilities(self.capabilities)
        }
    }
}

/// Works out the capabilities of an unprivileged container as a bit mask.
fn capabilities(security: &Security) -> Result<u64, String> {
    let bit = |name: &str| {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        let number = CAPABILITIES.iter().position(|known| *known == bare);
        number.map(|number| 1u64 << number).ok_or_else(|| format!("unknown capability {name:?}"))
    };
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut mask = 0;
    for name in DEFAULT {
        mask |= bit(name)?;
    }
    if has_all(&security.add_capabilities) {
        mask = u64::MAX;
    }
    if has_all(&security.drop_capabilities) {
        mask = 0;
    }
    for name in security.add_capabilities.iter().filter(|name| *name != "ALL") {
        mask |= bit(name)?;
    }
    for name in security.drop_capabilities.iter().filter(|name| *name != "ALL") {
        mask &= !bit(name)?;
    }
    Ok(mask)
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The version of the interface that has 64 capabilities.
const VERSION: u32 = 0x2008_0522;

fn permitted() -> Result<u64, String> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: the kernel writes two sets for this version, and both pointers live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if result != 0 {
        return Err(format!("reading capabilities: {}", io::Error::last_os_error()));
    }
    Ok(u64::from(sets[0].permitted) | u64::from(sets[1].permitted) << 32)
}

fn set_capabilities(effective_and_permitted: u64) -> Result<(), String> {
    let mut header = Header { version: VERSION, pid: 0 };
    let half = |mask: u64| u32::try_from(mask & 0xffff_ffff).unwrap_or(u32::MAX);
    let sets = [effective_and_permitted, effective_and_permitted >> 32].map(|mask| Sets {
        effective: half(mask),
        permitted: half(mask),
        inheritable: 0,
    });
    // SAFETY: the kernel reads two sets for this version, and both pointers live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    if result != 0 {
        return Err(format!("setting capabilities: {}", io::Error::last_os_error()));
    }
    Ok(())
}

/// Makes everything that this process may have count again, after it changed its user.
pub(super) fn raise_capabilities() -> Result<(), String> {
    set_capabilities(permitted()?)
}

fn drop_capabilities(keep: u64) -> Result<(), String> {
    let keep = keep & permitted()?;
    for (number, name) in CAPABILITIES.iter().enumerate() {
        if keep & (1 << number) == 0 {
            // SAFETY: the call takes numbers and touches no memory.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            // An older kernel does not know the newest ones.
            if result != 0 && Errno::last() != Errno::EINVAL {
                return Err(format!("dropping CAP_{name}: {}", Errno::last()));
            }
        }
    }
    // SAFETY: the call takes numbers and touches no memory.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    set_capabilities(keep)
}

/// Why a program could not be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotStarted {
    /// The exit code that shells use for it: 127 not found, 126 not executable.
    pub(super) code: u8,
    /// In upstream's words.
    pub(super) message: String,
}

/// Becomes the program `arguments[0]`, found by the `PATH` in `environment`. Returns only when it cannot.
pub(super) fn execute(arguments: &[String], environment: &[String]) -> NotStarted {
    let Some(program) = arguments.first() else {
        return NotStarted { code: 127, message: "no command specified".to_owned() };
    };
    let failed = |code, why: &str| NotStarted { code, message: format!("exec: {program:?}: {why}") };
    let strings = |list: &[String]| {
        list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<CString>, _>>()
    };
    let (Ok(arguments_c), Ok(environment_c)) = (strings(arguments), strings(environment)) else {
        return failed(126, "invalid argument");
    };
    if let Err(error) = fresh_signals() {
        return failed(126, &error.to_string());
    }
    let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let candidates: Vec<Vec<u8>> = if program.contains('/') {
        vec![program.as_bytes().to_vec()]
    } else {
        path.split(':')
            .map(|directory| {
                let directory = if directory.is_empty() { "." } else { directory };
                Path::new(directory).join(program).as_os_str().as_bytes().to_vec()
            })
            .collect()
    };
    let mut denied = false;
    for candidate in &candidates {
        let Ok(candidate_c) = CString::new(candidate.as_slice()) else { continue };
        let Err(error) = nix::unistd::execve(&candidate_c, &arguments_c, &environment_c);
        match error {
            Errno::ENOENT | Errno::ENOTDIR => {
                // The file may be there and its interpreter missing, which the kernel says the same way.
                let candidate = Path::new(OsStr::from_bytes(candidate));
                if candidate.exists() {
                    return failed(127, "no such file or directory (its interpreter is missing)");
                }
            }
            Errno::EACCES => denied = true,
            Errno::ENOEXEC => return failed(126, "exec format error"),
            other => return failed(126, &other.desc().to_lowercase()),
        }
    }
    match (denied, program.contains('/')) {
        (true, _) => failed(126, "permission denied"),
        (false, true) => failed(127, &format!("stat {program}: no such file or directory")),
        (false, false) => failed(127, "executable file not found in $PATH"),
    }
}

/// Programs expect signals as they are after boot, not as this process has set them.
fn fresh_signals() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: the default action runs no code of this process.
            unsafe { sigaction(signal, &default) }?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(names: &[&str]) -> u64 {
        names.iter().map(|name| 1u64 << CAPABILITIES.iter().position(|known| known == name).unwrap()).sum()
    }

    #[test]
    fn capabilities_start_from_the_default_set() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let cases: [(&[&str], &[&str], u64); 6] = [
            (&[], &[], mask(&DEFAULT)),
            (&["NET_ADMIN"], &[], mask(&DEFAULT) | mask(&["NET_ADMIN"])),
            (&["CAP_NET_ADMIN"], &["ALL"], mask(&["NET_ADMIN"])),
            (&[], &["ALL"], 0),
            (&["ALL"], &["SYS_ADMIN"], !mask(&["SYS_ADMIN"])),
            (&[], &["CHOWN"], mask(&DEFAULT) & !mask(&["CHOWN"])),
        ];
        for (add, drop, expect) in cases {
            let security = Security {
                add_capabilities: strings(add),
                drop_capabilities: strings(drop),
                ..Security::default()
            };
            assert_eq!(capabilities(&security), Ok(expect), "{add:?} {drop:?}");
        }
        let bad = Security { add_capabilities: strings(&["FLY"]), ..Security::default() };
        assert_eq!(capabilities(&bad), Err("unknown capability \"FLY\"".to_owned()));
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named_in_upstreams_words() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "no program").unwrap();
        let plain = plain.to_str().unwrap().to_owned();
        let path = format!("PATH={}", directory.path().display());
        let run = |program: &str| execute(&[program.to_owned()], std::slice::from_ref(&path));
        assert_eq!(
            run("nothing"),
            NotStarted { code: 127, message: "exec: \"nothing\": executable file not found in $PATH".into() }
        );
        assert_eq!(
            run("/no/such"),
            NotStarted {
                code: 127,
                message: "exec: \"/no/such\": stat /no/such: no such file or directory".into()
            }
        );
        assert_eq!(
            run(&plain),
            NotStarted { code: 126, message: format!("exec: {plain:?}: permission denied") }
        );
        assert_eq!(run("plain").code, 126);
    }
}
