//! A machine with systemd, over SSH: what every provider of virtual machines makes.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use machinery::clock;
use machinery::names::Random;
use machinery::retry::Backoff;
use remote::{Command, Remote, Ssh, Streams};

use super::{EXECUTABLE, Host, Output, Seen, Status, UnitState, UnitStatus};
use crate::artifacts::File;
use crate::error::{Context, Result};
use crate::plan::{PROGRAMS, Unit};
use crate::ui::Ui;

/// The names beside its own under which a machine has the executable.
const NAMES: [&str; 2] = ["control-plane", "node-agent"];
/// Where the executable is kept that was there before an upgrade.
const PREVIOUS: &str = "/opt/bin/cluster.previous";
/// What makes a change of a file work that Ignition puts there before the system starts: a machine whose provider
/// hands over a small configuration gets the rest later. In the order in which it has to be done.
const APPLY: [(&str, &str); 7] = [
    ("/etc/systemd/system/", "systemctl daemon-reload"),
    ("/etc/hostname", "hostname -F /etc/hostname"),
    ("/etc/modules-load.d/", "systemctl restart systemd-modules-load"),
    ("/etc/sysctl.d/", "systemctl restart systemd-sysctl"),
    ("/etc/systemd/network", "systemctl try-restart systemd-networkd"),
    ("/etc/NetworkManager/", "systemctl try-reload-or-restart NetworkManager"),
    ("/etc/containerd/", "systemctl try-restart containerd"),
];
/// How long a command may take: unpacking a large image under emulation is the longest.
const PATIENCE: Duration = Duration::from_secs(600);
/// How many bytes of a unit's log are fetched at most.
const MOST_LOG: usize = 16 << 20;

/// One machine.
pub(super) struct Systemd {
    machine: String,
    remote: Ssh,
}

impl Systemd {
    /// Returns the machine behind `remote`.
    pub(super) fn new(machine: &str, remote: Ssh) -> Self {
        Self { machine: machine.to_owned(), remote }
    }

    /// Runs a command that may be run twice, and must end well.
    async fn check(&self, command: Command) -> Result<remote::Output> {
        Ok(self.remote.run(command.root().repeatable()).await?.check()?)
    }
}

#[async_trait(?Send)]
impl Host for Systemd {
    async fn install_executable(&self, executable: &Path, ui: &Ui) -> Result<bool> {
        ui.phase(&self.machine, "copying the executable");
        let file = remote::File::new(EXECUTABLE, executable)
            .mode(0o755)
            .owner("root", "root")
            .noted()
            .progress(ui.transfer(&self.machine));
        let changed = self.remote.upload(file).await?.changed;
        let links = NAMES.map(|name| {
            format!("[ \"$(readlink /opt/bin/{name})\" = cluster ] || ln -sfn cluster /opt/bin/{name}")
        });
        self.check(Command::shell(links.join("\n"))).await?;
        Ok(changed)
    }

    async fn install_program(&self, name: &str, source: &Path, ui: &Ui) -> Result<bool> {
        ui.phase(&self.machine, &format!("copying {name}"));
        let file = remote::File::new(format!("{PROGRAMS}/{name}").as_str(), source)
            .mode(0o755)
            .owner("root", "root")
            .progress(ui.transfer(&self.machine));
        Ok(self.remote.upload(file).await?.changed)
    }

    async fn replace_executable(&self, executable: &Path, ui: &Ui) -> Result<bool> {
        // A second name for the same file: the upload puts another one in its place and leaves this one.
        let keep = format!("ln -f {EXECUTABLE} {PREVIOUS}.new");
        self.check(Command::shell(keep)).await?;
        let changed = self.install_executable(executable, ui).await?;
        let decide =
            if changed { format!("mv {PREVIOUS}.new {PREVIOUS}") } else { format!("rm -f {PREVIOUS}.new") };
        self.remote.run(Command::shell(decide).root()).await?.check()?;
        Ok(changed)
    }

    async fn restore_executable(&self) -> Result<()> {
        let restore = format!("cp -p {PREVIOUS} {EXECUTABLE}.old && mv {EXECUTABLE}.old {EXECUTABLE}");
        self.check(Command::shell(restore)).await?;
        Ok(())
    }

    async fn write(&self, files: &[File]) -> Result<bool> {
        let uploads = files
            .iter()
            .map(|file| {
                remote::File::new(file.path.as_str(), file.contents.clone())
                    .mode(file.mode)
                    .owner("root", "root")
            })
            .collect();
        let outcome = self.remote.upload_many(uploads).await?;
        let changed: Vec<&str> = files
            .iter()
            .zip(&outcome)
            .filter(|(_, uploaded)| uploaded.changed)
            .map(|(file, _)| file.path.as_str())
            .collect();
        let apply = APPLY
            .iter()
            .filter(|(prefix, _)| changed.iter().any(|path| path.starts_with(prefix)))
            .map(|(_, command)| *command);
        let script = apply.collect::<Vec<_>>().join("\n");
        if !script.is_empty() {
            self.check(Command::shell(format!("set -e\n{script}"))).await?;
        }
        Ok(!changed.is_empty())
    }

    async fn set_units(&self, units: &[Unit], restart: bool) -> Result<bool> {
        let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        let names = names.join(" ");
        // Jobs are left to systemd: `watch` waits for them, and says why one failed.
        let verb = if restart { "restart" } else { "start" };
        let script = format!("set -e\nsystemctl enable --quiet {names}\nsystemctl {verb} --no-block {names}");
        self.check(Command::shell(script)).await?;
        // Their descriptions are files like others, and were written with them.
        Ok(false)
    }

    async fn status(&self, units: &[Unit]) -> Result<Status> {
        let mut words = vec![
            "systemctl".to_owned(),
            "show".into(),
            "--property=Id,ActiveState,SubState,NRestarts,StatusText,MainPID,Result".into(),
        ];
        words.extend(units.iter().map(|unit| format!("{}.service", unit.name)));
        let output = self.check(Command::new(&words)).await?;
        Ok(parse(&output.stdout.text()))
    }

    async fn watch(&self, units: &[Unit], deadline: Instant, seen: &mut Seen<'_>) -> Result<bool> {
        let clock = clock::system();
        let random = Random::from_os();
        let mut words = vec!["systemctl".to_owned(), "start".into()];
        words.extend(units.iter().map(|unit| unit.name.clone()));
        for failures in 0.. {
            if !seen(&self.status(units).await?) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // It returns when every unit is ready or has failed: systemd does the waiting.
            let start = Command::new(&words).root().repeatable().deadline(left);
            match self.remote.run(start).await {
                Ok(_) => {}
                Err(remote::Error::Deadline { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            if !seen(&self.status(units).await?) {
                return Ok(true);
            }
            clock.after(Backoff::QUICK.delay(failures, &random).min(left)).await;
        }
        Ok(false)
    }

    async fn log(&self, unit: &str, lines: Option<usize>) -> Result<String> {
        let lines = lines.map_or("all".to_owned(), |lines| lines.to_string());
        let words = [
            "journalctl".to_owned(),
            format!("--unit={unit}"),
            format!("--lines={lines}"),
            "--no-pager".into(),
            "--quiet".into(),
            "--output=short-iso".into(),
        ];
        Ok(self.check(Command::new(&words).keep(MOST_LOG)).await?.stdout.text())
    }

    async fn upload(&self, source: &Path, target: &str, ui: &Ui) -> Result<()> {
        let file = remote::File::new(target, source).progress(ui.transfer(&self.machine));
        self.remote.upload(file).await?;
        Ok(())
    }

    async fn run(&self, command: &[String]) -> Result<Output> {
        let output = self.remote.run(Command::new(command).root().deadline(PATIENCE)).await?;
        let code = i32::from(output.status.code());
        Ok(Output { code, stdout: output.stdout.text(), stderr: output.stderr.text() })
    }

    async fn enter(&self, command: &[String], terminal: bool) -> Result<u8> {
        let streams = Streams::inherit().context("taking this process's streams")?;
        let streams = if terminal { streams } else { streams.plain() };
        let command = (!command.is_empty()).then(|| Command::new(command));
        Ok(self.remote.attach(command, streams).await?.code())
    }
}

/// Reads what `systemctl show` prints: a block of NAME=VALUE lines for each unit.
fn parse(text: &str) -> Status {
    let mut status = Status::default();
    for block in text.split("\n\n") {
        let value = |name: &str| {
            block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let Some(name) = value("Id").strip_suffix(".service") else { continue };
        let state = match (value("ActiveState"), value("SubState")) {
            ("active", _) => UnitState::Ready,
            ("activating", "auto-restart") | ("failed", _) => UnitState::Failed,
            ("activating" | "reloading", _) => UnitState::Starting,
            _ => UnitState::Waiting,
        };
        let said = value("StatusText");
        let text = if said.is_empty() && state == UnitState::Failed { value("Result") } else { said };
        let unit = UnitStatus {
            state,
            restarts: value("NRestarts").parse().unwrap_or_default(),
            text: text.to_owned(),
            pid: value("MainPID").parse().ok().filter(|pid| *pid != 0),
        };
        status.units.insert(name.to_owned(), unit);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_of_units_is_understood() {
        let status = parse(
            "Id=control-plane.service\nActiveState=active\nSubState=running\nNRestarts=0\nStatusText=serving\nMainPID=7\nResult=success\n\n\
             Id=node-agent.service\nActiveState=activating\nSubState=auto-restart\nNRestarts=3\nStatusText=\nMainPID=0\nResult=exit-code\n",
        );
        let control_plane = &status.units["control-plane"];
        assert_eq!((control_plane.state, control_plane.pid), (UnitState::Ready, Some(7)));
        let agent = &status.units["node-agent"];
        assert_eq!((agent.state, agent.restarts, agent.text.as_str()), (UnitState::Failed, 3, "exit-code"));
        assert_eq!(agent.pid, None);
    }
}
