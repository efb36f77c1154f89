//! A cluster of the test's own, brought up by the executable as a user would and taken down at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A running lab. Dropping it takes the cluster down.
pub(crate) struct Lab {
    name: String,
    directory: tempfile::TempDir,
    /// The first three bytes of the node network, such as `172.18.4`.
    pub(crate) net: String,
    /// How long a step may take to show what it should.
    pub(crate) patience: Duration,
}

/// Where `tests/run` puts clients and images.
pub(crate) fn fixtures() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("E2E_FIXTURES").map_or_else(|| root.join("target/e2e"), PathBuf::from);
    assert!(
        path.join("clients").is_dir() && path.join("images").is_dir(),
        "{} is not there: run tests/run, which makes it, instead of cargo test alone",
        path.display()
    );
    path
}

impl Lab {
    /// Writes a spec with `extra` lines and brings the cluster `name` up on `net`.0/24.
    pub(crate) fn up(name: &str, net: &str, extra: &str) -> Self {
        let lab = Self::prepare(name, net, extra);
        lab.cluster(&["up"]).ok();
        lab
    }

    /// Writes the spec only.
    pub(crate) fn prepare(name: &str, net: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spec = format!("name: {name}\nnetwork:\n  nodes: {net}.0/24\n{extra}");
        std::fs::write(directory.path().join("cluster.yaml"), spec).unwrap();
        Self { name: name.into(), directory, net: net.into(), patience: Duration::from_secs(60) }
    }

    /// Returns the lab's own directory: spec, state, kubeconfig.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_in(self.path(), program)
    }

    fn command_in(&self, directory: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(directory)
            .env("KUBECONFIG", directory.join("kubeconfig"))
            .env("CLUSTER_STATE_DIR", self.path().join("state"))
            .env("HOME", directory)
            .env_remove("XDG_STATE_HOME");
        command
    }

    /// Runs the executable under test.
    pub(crate) fn cluster(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_cluster"));
        command.args(arguments);
        Ran::of(&mut command)
    }

    /// Starts the executable under test and does not wait for it.
    pub(crate) fn start(&self, arguments: &[&str]) -> std::process::Child {
        let mut command = self.command(env!("CARGO_BIN_EXE_cluster"));
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs a shell line with `kubectl` (the `version` under test: newest or oldest) and `cluster` in the path.
    pub(crate) fn shell(&self, version: &str, line: &str) -> Ran {
        self.shell_in(self.path(), version, line)
    }

    /// The same in another directory, whose file `kubeconfig` says how the cluster is reached.
    pub(crate) fn shell_in(&self, directory: &Path, version: &str, line: &str) -> Ran {
        // No client may hang: what takes longer than this has failed.
        let mut command = self.command_in(directory, "timeout");
        let clients = fixtures().join("clients");
        let own = [version, "python", "javascript"].map(|client| clients.join(client).display().to_string());
        let executable = Path::new(env!("CARGO_BIN_EXE_cluster"));
        let path = format!(
            "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            own.join(":"),
            executable.parent().unwrap().display(),
        );
        let seconds = (self.patience.as_secs() + 30).to_string();
        command.args([seconds.as_str(), "bash", "-c", line]).env("PATH", path).stdin(Stdio::null());
        Ran::of(&mut command)
    }

    /// Takes the cluster down and says whether that went well.
    pub(crate) fn down(&self) -> Ran {
        self.cluster(&["down"])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = self.down();
        if !down.success && !std::thread::panicking() {
            panic!("down of {} failed:\n{}", self.name, down.text);
        }
    }
}

/// A command that ran to its end.
pub(crate) struct Ran {
    pub(crate) success: bool,
    /// Both streams, output first.
    pub(crate) text: String,
    line: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let Output { status, stdout, stderr } =
            command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        Self { success: status.success(), text, line }
    }

    /// Returns the text of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert!(self.success, "{} failed:\n{}", self.line, self.text);
        &self.text
    }
}
