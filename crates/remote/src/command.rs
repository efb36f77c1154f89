//! A command for a machine, and what came of it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::quote;

/// How long a command may take unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many bytes of each stream are kept unless the command says otherwise.
const KEPT: usize = 1 << 20;
/// How many lines of a stream an error repeats.
const REPEATED: usize = 10;

/// A command: words, or a line for the machine's shell.
///
/// Whatever is in it can be read by every user of the machine while it runs: hand secrets over by
/// [`stdin`](Self::stdin).
#[derive(Clone)]
pub struct Command {
    line: String,
    pub(crate) stdin: Bytes,
    pub(crate) root: bool,
    pub(crate) repeatable: bool,
    pub(crate) deadline: Duration,
    pub(crate) kept: usize,
}

impl Command {
    /// Returns the command of these words: the first is the program. No shell sees inside them.
    pub fn new<W: AsRef<str>>(words: &[W]) -> Self {
        Self::of(quote::words(words))
    }

    /// Returns a line for a POSIX shell, with its pipes, variables and all.
    pub fn shell(line: impl AsRef<str>) -> Self {
        Self::of(quote::words(&["sh", "-c", line.as_ref()]))
    }

    fn of(line: String) -> Self {
        Self { line, stdin: Bytes::new(), root: false, repeatable: false, deadline: PATIENCE, kept: KEPT }
    }

    /// Gives it these bytes as standard input; without, that is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs it as root: as it is when the user is root, else through `sudo -n`.
    #[must_use]
    pub fn root(mut self) -> Self {
        self.root = true;
        self
    }

    /// Says that running it twice does no harm: it is run again when the connection breaks.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Sets how long it may take, with connecting and repeating. Without: two minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many bytes of each stream are kept; the first ones are dropped. Without: one MiB.
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Self {
        self.kept = bytes;
        self
    }

    /// The line that the far shell is given.
    pub(crate) fn line(&self) -> Result<String> {
        if self.line.trim().is_empty() {
            return Err(Error::Invalid("a command has no words".into()));
        }
        if self.line.contains('\0') {
            return Err(Error::Invalid(format!("the command {self} has a zero byte in it")));
        }
        Ok(if self.root { as_root(&self.line) } else { self.line.clone() })
    }
}

/// Returns a line that does what `line`, which must be words, does as root.
pub(crate) fn as_root(line: &str) -> String {
    format!(r#"if [ "$(id -u)" -eq 0 ]; then exec {line}; else exec sudo -n -- {line}; fi"#)
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: String = self.line.chars().take(120).collect();
        if shown.len() < self.line.len() {
            shown.push('…');
        }
        write!(f, "`{}`", shown.replace('\n', " "))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("line", &self.line)
            .field("stdin", &format_args!("{} bytes", self.stdin.len()))
            .field("root", &self.root)
            .field("repeatable", &self.repeatable)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// With this exit code.
    Exited(i32),
    /// By this signal: "KILL".
    Signaled(String),
}

impl Status {
    /// Whether it ended with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        *self == Self::Exited(0)
    }

    /// The exit code as a shell gives it: 128 and the signal's number when a signal ended it.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(code) => u8::try_from(*code).unwrap_or(u8::MAX),
            Self::Signaled(name) => {
                const NUMBERS: [(&str, u8); 12] = [
                    ("HUP", 1),
                    ("INT", 2),
                    ("QUIT", 3),
                    ("ILL", 4),
                    ("ABRT", 6),
                    ("FPE", 8),
                    ("KILL", 9),
                    ("USR1", 10),
                    ("SEGV", 11),
                    ("USR2", 12),
                    ("PIPE", 13),
                    ("ALRM", 14),
                ];
                let number =
                    NUMBERS.iter().find(|(known, _)| known == name).map_or(15, |(_, number)| *number);
                128 + number
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with exit code {code}"),
            Self::Signaled(name) => write!(f, "was ended by the signal {name}"),
        }
    }
}

/// What a command wrote to one stream: all of it, or its end.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Captured {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Captured {
    /// Returns a stream's bytes, all of them.
    pub fn whole(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), dropped: 0 }
    }

    /// The bytes that were kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The kept bytes as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// How many bytes before the kept ones were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The last lines that are not empty.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = self.text();
        let mut lines: Vec<String> = text
            .lines()
            .rev()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .take(count)
            .map(str::to_owned)
            .collect();
        lines.reverse();
        lines
    }

    /// Adds bytes; only the last `kept` stay.
    pub(crate) fn push(&mut self, bytes: &[u8], kept: usize) {
        self.bytes.extend_from_slice(bytes);
        // Not at each push: moving the rest down costs as much as what stays.
        if self.bytes.len() > kept.saturating_mul(2).max(4096) {
            self.trim(kept);
        }
    }

    /// Drops all but the last `kept` bytes.
    pub(crate) fn trim(&mut self, kept: usize) {
        let excess = self.bytes.len().saturating_sub(kept);
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.bytes))
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it ran.
    pub machine: String,
    /// What ran, for messages.
    pub command: String,
    /// How it ended.
    pub status: Status,
    /// Its standard output.
    pub stdout: Captured,
    /// Its standard error.
    pub stderr: Captured,
}

impl Output {
    /// Returns the output of a command that ended with exit code 0.
    ///
    /// # Errors
    /// [`Error::Failed`] with the last lines of both streams, or [`Error::Root`] when sudo refused.
    pub fn check(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        if let Some(why) = sudo_refusal(&self.stderr) {
            return Err(Error::Root { machine: self.machine, why });
        }
        let mut said = String::new();
        for (stream, lines) in
            [("stdout", self.stdout.last_lines(REPEATED)), ("stderr", self.stderr.last_lines(REPEATED))]
        {
            for line in lines {
                said.push_str(&format!("\n  {stream}: {line}"));
            }
        }
        Err(Error::Failed {
            machine: self.machine,
            command: self.command,
            status: self.status.to_string(),
            said,
        })
    }
}

/// What sudo itself said, when it refused to run anything.
pub(crate) fn sudo_refusal(stderr: &Captured) -> Option<String> {
    const REFUSALS: [&str; 5] = [
        "password is required",
        "not in the sudoers file",
        "is not allowed to",
        "may not run sudo",
        "must have a tty",
    ];
    let first = stderr.last_lines(usize::MAX).into_iter().next()?;
    let missing = first.contains("sudo: not found") || first.contains("sudo: command not found");
    let refused = first.starts_with("sudo: ") || first.ends_with("This incident will be reported.");
    (missing || refused && REFUSALS.iter().any(|refusal| first.contains(refusal))).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(status: Status, stdout: &str, stderr: &str) -> Output {
        Output {
            machine: "w1".into(),
            command: Command::new(&["false"]).to_string(),
            status,
            stdout: Captured::whole(stdout),
            stderr: Captured::whole(stderr),
        }
    }

    #[test]
    fn a_failed_command_is_told_with_its_last_lines() {
        let error = output(Status::Exited(3), "", "one\ntwo\n\n").check().unwrap_err();
        assert_eq!(error.to_string(), "w1: `false` ended with exit code 3\n  stderr: one\n  stderr: two");
    }

    #[test]
    fn a_refusal_of_sudo_is_told_apart() {
        let error = output(Status::Exited(1), "", "sudo: a password is required\n").check().unwrap_err();
        assert!(matches!(error, Error::Root { .. }), "{error}");
        let error = output(Status::Exited(1), "", "sudo: nothing of the kind\n").check().unwrap_err();
        assert!(matches!(error, Error::Failed { .. }), "{error}");
    }

    #[test]
    fn only_the_end_of_a_long_stream_is_kept() {
        let mut captured = Captured::default();
        for _ in 0..10_000 {
            captured.push(b"0123456789", 100);
        }
        captured.trim(100);
        assert_eq!((captured.bytes().len(), captured.dropped()), (100, 99_900));
    }

    #[test]
    fn words_are_no_shell_and_a_line_is() {
        assert_eq!(Command::new(&["echo", "$HOME"]).line().unwrap(), "echo '$HOME'");
        assert_eq!(Command::shell("echo $HOME").line().unwrap(), "sh -c 'echo $HOME'");
        assert!(Command::new::<&str>(&[]).line().is_err());
        assert!(Command::new(&["a\0b"]).line().is_err());
    }

    #[test]
    fn a_signal_has_the_code_that_a_shell_gives_it() {
        assert_eq!(Status::Signaled("KILL".into()).code(), 137);
        assert_eq!(Status::Signaled("TERM".into()).code(), 143);
        assert_eq!(Status::Exited(3).code(), 3);
    }
}
