//! The local provider behind the traits that all providers have.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use async_trait::async_trait;

use super::{Local, copy_program, install_executable};
use crate::artifacts::File;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Unit, cable_name};
use crate::provider::{Boot, Host, Output, Power, Provider, Seen, Status, last_lines};
use crate::state::{Home, Made};
use crate::ui::Ui;

/// Where the images of all machines are, within the state directory.
const IMAGES: &str = "images";

#[async_trait(?Send)]
impl Provider for Local<'_> {
    async fn check(&self, home: &Home, ui: &Ui) -> Result<()> {
        crate::preflight::check(self.plan, self.state, home, ui).await
    }

    async fn boot(&self, with: &Boot<'_>) -> Result<Vec<String>> {
        fs_err::create_dir_all(self.state.path(IMAGES))?;
        // Every machine has the same file for its executable: it is there before the first one starts.
        self.new_executable.set(install_executable(with.executable, &self.state.path("bin"))?);
        let started = self.start().await?;
        self.started.replace(started.clone());
        Ok(started)
    }

    async fn power(&self, machine: &Machine) -> Result<Power> {
        Ok(if self.running(machine)? { Power::Running } else { Power::Stopped })
    }

    async fn reach<'s>(&'s self, machine: &'s Machine, _: Instant, _: &Ui) -> Result<Box<dyn Host + 's>> {
        Ok(Box::new(Node { local: self, machine }))
    }

    async fn remove(&self, machine: &Machine) -> Result<()> {
        self.end(machine).await?;
        let cable = Made::Link(cable_name(&self.plan.spec.name, &machine.name));
        super::destroy(std::slice::from_ref(&cable)).await?;
        self.state.strike(&[cable])?;
        fs_err::remove_dir_all(self.node_directory(&machine.name)).or_else(absent).map_err(Error::from)
    }

    async fn halt(&self, _: &Ui) -> Result<()> {
        self.stop()
    }

    fn console(&self, machine: &Machine) -> PathBuf {
        self.host_path(machine, "/console.log")
    }

    fn shared_images(&self) -> Option<PathBuf> {
        Some(self.state.path(IMAGES))
    }
}

/// One machine, by way of its directory and its namespaces.
struct Node<'a> {
    local: &'a Local<'a>,
    machine: &'a Machine,
}

#[async_trait(?Send)]
impl Host for Node<'_> {
    async fn install_executable(&self, _: &Path, _: &Ui) -> Result<bool> {
        // A machine that has just started runs the new program by itself.
        Ok(self.local.new_executable.get() && !self.local.started.borrow().contains(&self.machine.name))
    }

    async fn install_program(&self, name: &str, source: &Path, _: &Ui) -> Result<bool> {
        // One file serves all machines; whether another machine's turn has replaced it does not count as the same.
        let directory = self.local.state.path("bin");
        fs_err::create_dir_all(&directory)?;
        let changed = copy_program(source, &directory, name)?;
        let mut new = self.local.new_programs.borrow_mut();
        if changed {
            new.insert(name.to_owned());
        }
        Ok(new.contains(name))
    }

    async fn replace_executable(&self, executable: &Path, _: &Ui) -> Result<bool> {
        // One file serves all machines: the first one replaces it, and each runs it from its units' next start on.
        let directory = self.local.state.path("bin");
        let current = directory.join("cluster");
        let previous = directory.join("cluster.previous");
        if !self.local.new_executable.get() {
            let kept = directory.join(".cluster-previous");
            fs_err::copy(&current, &kept)?;
            if install_executable(executable, &directory)? {
                fs_err::rename(&kept, &previous)?;
                self.local.new_executable.set(true);
            } else {
                fs_err::remove_file(&kept)?;
            }
        }
        Ok(self.local.new_executable.get())
    }

    async fn restore_executable(&self) -> Result<()> {
        let directory = self.local.state.path("bin");
        let copy = directory.join(".cluster-new");
        fs_err::copy(directory.join("cluster.previous"), &copy)?;
        fs_err::rename(&copy, directory.join("cluster"))?;
        Ok(())
    }

    async fn write(&self, files: &[File]) -> Result<bool> {
        self.local.write(self.machine, files)
    }

    async fn set_units(&self, units: &[Unit], restart: bool) -> Result<bool> {
        self.local.set_units(self.machine, units, restart)
    }

    async fn status(&self, _: &[Unit]) -> Result<Status> {
        self.local.status(self.machine)
    }

    async fn watch(&self, _: &[Unit], deadline: Instant, seen: &mut Seen<'_>) -> Result<bool> {
        self.local.watch(self.machine, deadline, seen)
    }

    async fn log(&self, unit: &str, lines: Option<usize>) -> Result<String> {
        let mut text = String::new();
        for suffix in ["log.1", "log"] {
            let path = self.local.host_path(self.machine, &format!("/var/log/{unit}.{suffix}"));
            match fs_err::read(&path) {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lines.map_or(text.as_str(), |lines| last_lines(&text, lines)).to_owned())
    }

    async fn upload(&self, source: &Path, target: &str, _: &Ui) -> Result<()> {
        let target = self.local.host_path(self.machine, target);
        fs_err::copy(source, &target)?;
        fs_err::set_permissions(&target, std::fs::Permissions::from_mode(machinery::files::PRIVATE))?;
        Ok(())
    }

    async fn run(&self, command: &[String]) -> Result<Output> {
        let output = tokio::process::Command::from(self.local.command(self.machine, command, false)?)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context(format!("running a command on {}", self.machine.name))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // The helper that enters the machine ends with the command's own code.
        let code = output.status.code().unwrap_or(126);
        Ok(Output { code, stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    async fn enter(&self, command: &[String], terminal: bool) -> Result<u8> {
        let command = if command.is_empty() { login_shell() } else { command.to_vec() };
        let error = self.local.command(self.machine, &command, terminal)?.exec();
        Err(Error::from(error).within(format!("entering {}", self.machine.name)))
    }
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn login_shell() -> Vec<String> {
    let shell = ["/bin/bash", "/usr/bin/bash"].into_iter().find(|shell| Path::new(shell).exists());
    vec![shell.unwrap_or("/bin/sh").to_owned(), "-l".into()]
}
