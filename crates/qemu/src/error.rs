//! What can go wrong with machines, and what to do then.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something about a machine failed. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description makes no sense; nothing was changed.
    #[error("machine {machine} cannot be made like this: {reason}")]
    Description {
        /// The machine's name.
        machine: String,
        /// What is wrong with it.
        reason: String,
    },
    /// QEMU is not there.
    #[error(
        "there is no {program} on this machine: install QEMU (Debian and Ubuntu: apt-get install \
         qemu-system-x86; Fedora: dnf install qemu-system-x86-core; Arch: pacman -S qemu-base)"
    )]
    NoProgram {
        /// The program that was looked for.
        program: String,
    },
    /// Machines are made for x86-64 only.
    #[error("this host is of the architecture {architecture}; virtual machines are made on x86_64 only")]
    Architecture {
        /// The host's.
        architecture: &'static str,
    },
    /// The file system or the kernel refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// Another QEMU runs in the machine's directory, perhaps started at this moment by another process.
    #[error("machine {machine} is already running, or being started by another process ({directory})")]
    AlreadyRunning {
        /// The machine's name.
        machine: String,
        /// Its directory.
        directory: PathBuf,
    },
    /// The machine does not run.
    #[error("the machine in {directory} does not run: {last}")]
    NotRunning {
        /// Its directory.
        directory: PathBuf,
        /// What is known of its end.
        last: String,
    },
    /// QEMU ended, or said nothing, before the machine ran.
    #[error("machine {machine} did not start: {failure}")]
    Start {
        /// The machine's name.
        machine: String,
        /// What happened.
        failure: StartFailure,
    },
    /// QEMU's monitor refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// The class that QEMU puts errors in.
        class: String,
        /// Its words.
        reason: String,
    },
    /// QEMU's monitor does not answer, or not in its protocol.
    #[error("QEMU's monitor {path}: {reason}")]
    Monitor {
        /// The monitor's socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A tap or its bridge.
    #[error("network interface {interface}: {reason}")]
    Interface {
        /// Its name.
        interface: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A disk or its base image.
    #[error("disk image {path}: {reason}")]
    Disk {
        /// The image's file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An image of an operating system cannot be fetched, or is not the one that it should be.
    #[error("image {image}: {reason}")]
    Image {
        /// Its source.
        image: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// Why QEMU did not start, by what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// What that means; empty when it is not known.
    pub(crate) meaning: &'static str,
    /// QEMU's last lines.
    pub(crate) output: String,
    /// How it ended.
    pub(crate) end: String,
}

impl StartFailure {
    /// Returns what QEMU wrote last.
    #[must_use]
    pub fn output(&self) -> &str {
        &self.output
    }

    #[cfg(any(target_os = "linux", test))]
    /// Judges a start by QEMU's output.
    pub(crate) fn judge(output: &str, end: String) -> Self {
        let known = |needle: &[&str]| needle.iter().any(|needle| output.contains(needle));
        let meaning = if known(&["Could not set up host forwarding rule", "Address already in use"]) {
            "a port of this host is taken: stop what listens on it (ss -ltnp), or choose another one"
        } else if known(&["Failed to get \"write\" lock", "Failed to get shared \"write\" lock"]) {
            "another QEMU has this disk image open: stop that machine first"
        } else if known(&["cannot set up guest memory", "Cannot allocate memory"]) {
            "this host has too little memory for it: give the machine less, or stop others"
        } else if known(&["could not configure /dev/net/tun", "Device or resource busy"]) {
            "its network interface is in use: another machine has it"
        } else if known(&["Could not access KVM kernel module", "failed to initialize kvm"]) {
            "KVM cannot be used here: load kvm_intel or kvm_amd, or join the group of /dev/kvm"
        } else if known(&["Snapshot '", "does not have the requested snapshot"]) {
            "the saved state is not in its disk"
        } else if known(&["No space left on device"]) {
            "the disk of this host is full"
        } else {
            ""
        };
        Self { meaning, output: tail(output), end }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.meaning.is_empty() {
            write!(f, "{}; ", self.meaning)?;
        }
        write!(f, "{}", self.end)?;
        if self.output.is_empty() { write!(f, " without a word") } else { write!(f, ":\n{}", self.output) }
    }
}

#[cfg(any(target_os = "linux", test))]
/// How many of a log's last lines an error carries.
const LAST_LINES: usize = 12;

#[cfg(any(target_os = "linux", test))]
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

impl Error {
    /// Wraps a failure of the system.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn image(source: &dyn fmt::Display, reason: impl Into<String>) -> Self {
        Self::Image { image: source.to_string(), reason: reason.into() }
    }

    pub(crate) fn disk(path: &Path, reason: impl Into<String>) -> Self {
        Self::Disk { path: path.into(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_is_explained_by_what_qemu_said() {
        let cases = [
            (
                "-netdev user,id=n0: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:22'",
                "a port of this",
            ),
            (
                "Failed to get \"write\" lock\nIs another process using the image [x]?",
                "another QEMU has this disk",
            ),
            (
                "cannot set up guest memory 'pc.ram': Cannot allocate memory",
                "this host has too little memory",
            ),
            ("Could not access KVM kernel module: Permission denied", "KVM cannot be used here"),
            ("something new", "it ended with exit status: 1"),
        ];
        for (output, expected) in cases {
            let failure = StartFailure::judge(output, "it ended with exit status: 1".into());
            assert!(failure.to_string().starts_with(expected), "{failure}");
            assert!(failure.to_string().contains(output.lines().last().unwrap()), "{failure}");
        }
        let silent = StartFailure::judge("", "it was killed".into());
        assert_eq!(silent.to_string(), "it was killed without a word");
    }

    #[test]
    fn an_error_carries_the_last_lines_only() {
        let long: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let failure = StartFailure::judge(&long, "it ended".into());
        assert_eq!(failure.output().lines().count(), LAST_LINES);
        assert!(failure.output().ends_with("line 99"));
    }
}
