//! What is on this machine, to compare before and after, and the processes of a lab.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything outside the state directory that a lab could leave behind, as lines of text.
pub(crate) fn inventory() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for link in std::fs::read_dir("/sys/class/net").unwrap() {
        found.insert(format!("link {}", link.unwrap().file_name().display()));
    }
    for line in std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        found.insert(format!("mount {} {}", words[4], words[words.len() - 3]));
    }
    groups(Path::new("/sys/fs/cgroup"), &mut found);
    let tables = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
    found.extend(String::from_utf8_lossy(&tables.stdout).lines().map(|line| format!("nftables {line}")));
    for interface in std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap() {
        let path = interface.unwrap().path().join("forwarding");
        let forwarding = std::fs::read_to_string(&path).unwrap_or_default();
        found.insert(format!("{} {}", path.display(), forwarding.trim()));
    }
    for pid in pids() {
        // One that has ended and was not waited for holds nothing; the first process of this machine gets to it.
        let about = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if about.rsplit(") ").next().is_none_or(|rest| rest.starts_with(['Z', 'X'])) {
            continue;
        }
        let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        // This very process and its parents are there before and after.
        let emulator = executable.to_string_lossy().contains("/qemu-system-");
        if executable == Path::new(env!("CARGO_BIN_EXE_cluster"))
            || executable.ends_with("cluster")
            || emulator
        {
            found.insert(format!("process {pid} {}", command_line(pid).join(" ")));
        }
        for kind in ["net", "mnt", "pid"] {
            if let Ok(namespace) = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")) {
                found.insert(format!(
                    "namespace {} of {pid} {}",
                    namespace.display(),
                    command_line(pid).join(" ")
                ));
            }
        }
    }
    found
}

/// Says what is here that was not `before`.
#[track_caller]
pub(crate) fn same_machine(before: &BTreeSet<String>) {
    let after = inventory();
    let left: Vec<_> = after.difference(before).filter(|line| !line.starts_with("namespace")).collect();
    assert!(left.is_empty(), "left behind:\n{left:#?}");
    // By the namespace alone: processes of others come and go in those that were there before.
    let name = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let known: BTreeSet<String> = before.iter().map(|line| name(line)).collect();
    let new: Vec<_> = after
        .iter()
        .filter(|line| line.starts_with("namespace") && !known.contains(&name(line)) && !is_ending(line))
        .collect();
    assert!(new.is_empty(), "namespaces are left behind:\n{new:#?}");
}

/// Whether the process of a line has given its memory back, so that it has no command line, and ends: one that was
/// killed has its namespace of processes until the very end.
fn is_ending(line: &str) -> bool {
    let Some(pid) = line.split(' ').nth(3).and_then(|word| word.parse().ok()) else { return false };
    command_line(pid).concat().is_empty() && process(pid).is_none_or(|process| ends(&process))
}

fn groups(directory: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(format!("cgroup {}", entry.path().display()));
            groups(&entry.path(), found);
        }
    }
}

fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Returns the processes of the lab `name` that run as `program` (`control-plane` or `node-agent`).
pub(crate) fn processes(name: &str, program: &str) -> Vec<i32> {
    pids()
        .filter(|pid| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| line.split('/').any(|part| part.contains(name)))
                && command_line(*pid).first().is_some_and(|first| first.ends_with(program))
        })
        .collect()
}

/// Returns the emulators of the lab's machine `machine`: those that were told to use its disk.
pub(crate) fn emulators(machine: &str) -> Vec<i32> {
    pids()
        .filter(|pid| {
            let line = command_line(*pid);
            let emulator = line.first().is_some_and(|first| first.contains("qemu-system-"));
            emulator && line.iter().any(|word| word.contains(machine))
        })
        .collect()
}

/// Kills with SIGKILL and waits for the end. A process that has gone by itself is none that is left.
pub(crate) fn kill_nine(pid: i32) {
    // Opened before the signal: the number may be another process's afterwards.
    let Some(process) = process(pid) else { return };
    let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    // The first process of a node ends after all the others of it.
    assert!(ends(&process), "process {pid} outlives SIGKILL");
}

/// Returns a process that is there, by its number.
fn process(pid: i32) -> Option<OwnedFd> {
    let number = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()).ok()
}

/// Waits for the end of a process; `false` when it takes longer than any end does.
fn ends(process: &OwnedFd) -> bool {
    let mut ends = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    let deadline = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    rustix::event::poll(&mut ends, Some(&deadline)) == Ok(1)
}
