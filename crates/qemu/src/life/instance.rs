//! A machine that was started, found again by its directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::process::Process;
use super::{ANSWER, Holder, SOCKET, connect, holder, settled};
use crate::arguments::{DISK_NODE, PID_FILE};
use crate::error::{Error, Result};
use crate::qmp::Monitor;

/// How long QEMU may take to end once it was told to: it writes its disk's caches back.
const QUIT: Duration = Duration::from_secs(20);
/// How long saving or loading the state of a machine may take: gigabytes to a slow disk.
const STATE: Duration = Duration::from_secs(600);

/// A machine that was started, alive or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    directory: PathBuf,
}

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing ever ran in its directory.
    Absent,
    /// Another process is starting it at this moment.
    Starting,
    /// Its processors run.
    Running,
    /// Its processors stand, and go on with [`Instance::resume`].
    Paused,
    /// It cannot go on: QEMU's word for why, such as `internal-error` or `io-error`.
    Stuck(String),
    /// It ended in order: the guest powered off, or QEMU was told to end.
    ShutDown,
    /// Its process is gone without having ended in order: killed, crashed, or the host was restarted.
    Gone,
}

/// How a machine came to be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOff {
    /// It did not run.
    Already,
    /// The guest shut itself down.
    Guest,
    /// The guest did not in time; QEMU ended at once, with its disk's caches written.
    Forced,
    /// QEMU did not answer and was killed.
    Killed,
}

impl Instance {
    /// Returns the machine of this directory, whether it exists or not.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Returns its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the process's id, while it lives.
    ///
    /// # Errors
    /// When the lock of its directory cannot be read.
    pub fn pid(&self) -> Result<Option<i32>> {
        Ok(match holder(&self.directory)? {
            Holder::Process(process) => Some(process.pid()),
            Holder::Never | Holder::Nobody | Holder::Starting => None,
        })
    }

    async fn process(&self) -> Result<Option<Process>> {
        Ok(match settled(&self.directory).await? {
            Holder::Process(process) => Some(process),
            Holder::Never | Holder::Nobody | Holder::Starting => None,
        })
    }

    /// Returns what it is doing.
    ///
    /// # Errors
    /// When it lives and does not answer.
    pub async fn state(&self) -> Result<State> {
        let process = match holder(&self.directory)? {
            Holder::Never => return Ok(State::Absent),
            Holder::Starting => return Ok(State::Starting),
            Holder::Nobody => return Ok(self.ended()),
            Holder::Process(process) => process,
        };
        match self.command("query-status", Value::Null, ANSWER).await {
            Ok(answer) => Ok(match answer["status"].as_str().unwrap_or_default() {
                "running" => State::Running,
                "paused" | "prelaunch" | "suspended" | "save-vm" | "restore-vm" | "finish-migrate" => {
                    State::Paused
                }
                "shutdown" => State::ShutDown,
                other => State::Stuck(other.into()),
            }),
            // It ended between the two questions.
            Err(_) if process.ended(Duration::ZERO).await? => Ok(self.ended()),
            Err(error) => Err(error),
        }
    }

    /// Tells how a process that has ended did so: QEMU takes its id file away as the last thing it does.
    fn ended(&self) -> State {
        if self.directory.join(PID_FILE).exists() { State::Gone } else { State::ShutDown }
    }

    /// Stops its processors, as if time stood still.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or when it does not answer.
    pub async fn pause(&self) -> Result<()> {
        self.command("stop", Value::Null, ANSWER).await.map(drop)
    }

    /// Lets its processors go on.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or when it does not answer.
    pub async fn resume(&self) -> Result<()> {
        self.command("cont", Value::Null, ANSWER).await.map(drop)
    }

    /// Presses its reset button.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or when it does not answer.
    pub async fn reset(&self) -> Result<()> {
        self.command("system_reset", Value::Null, ANSWER).await.map(drop)
    }

    /// Presses its power button, and gives the guest `grace` to shut down before it is made to.
    ///
    /// # Errors
    /// When its process cannot be ended.
    pub async fn power_off(&self, grace: Duration) -> Result<PowerOff> {
        let Some(process) = self.process().await? else { return Ok(PowerOff::Already) };
        // A paused guest would not notice the button.
        let pressed = match self.command("cont", Value::Null, ANSWER).await {
            Ok(_) => self.command("system_powerdown", Value::Null, ANSWER).await,
            Err(error) => Err(error),
        };
        match pressed {
            Ok(_) if process.ended(grace).await? => return Ok(PowerOff::Guest),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(directory = ?self.directory, %error, "the power button does not work");
            }
        }
        match self.command("quit", Value::Null, ANSWER).await {
            Ok(_) if process.ended(QUIT).await? => return Ok(PowerOff::Forced),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(directory = ?self.directory, %error, "QEMU does not end by itself");
            }
        }
        process.kill().await?;
        Ok(PowerOff::Killed)
    }

    /// Cuts its power: what the guest has not written is lost. No error when it does not run.
    ///
    /// # Errors
    /// When its process cannot be ended.
    pub async fn kill(&self) -> Result<()> {
        match self.process().await? {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Waits until its process has ended; `false` when it still runs after `deadline`.
    ///
    /// # Errors
    /// When the process cannot be watched.
    pub async fn ended_within(&self, deadline: Duration) -> Result<bool> {
        match self.process().await? {
            Some(process) => process.ended(deadline).await,
            None => Ok(true),
        }
    }

    /// Saves memory, devices and disk under the name `tag` in its disk, replacing an earlier one. The machine
    /// stands meanwhile and then goes on. `StartOptions::load` begins from it.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's words: a machine without a disk has nowhere to keep it.
    pub async fn save(&self, tag: &str) -> Result<()> {
        // QEMU does not replace, and refuses to delete what is not there.
        match self.job("snapshot-delete", json!({ "tag": tag, "devices": [DISK_NODE] })).await {
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        self.job("snapshot-save", json!({ "tag": tag, "vmstate": DISK_NODE, "devices": [DISK_NODE] })).await
    }

    /// Goes back to the state that was saved as `tag`.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's words when there is none.
    pub async fn load(&self, tag: &str) -> Result<()> {
        self.job("snapshot-load", json!({ "tag": tag, "vmstate": DISK_NODE, "devices": [DISK_NODE] })).await
    }

    /// Connects to its monitor. Every other operation waits while the connection is held.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or when it does not answer.
    pub async fn monitor(&self) -> Result<Monitor<UnixStream>> {
        let path = self.directory.join(SOCKET);
        let last = match holder(&self.directory)? {
            Holder::Process(_) => {
                let begin = async { Monitor::begin(connect(&self.directory).await?, &path).await };
                return match tokio::time::timeout(ANSWER, begin).await {
                    Ok(begun) => begun,
                    Err(_) => {
                        let reason =
                            format!("no greeting in {ANSWER:?}: it hangs, or another client holds it");
                        Err(Error::Monitor { path, reason })
                    }
                };
            }
            Holder::Starting => "it is just being started",
            Holder::Never => "nothing was ever started there",
            Holder::Nobody => match self.ended() {
                State::Gone => "it was killed or crashed",
                _ => "it has shut down",
            },
        };
        Err(Error::NotRunning { directory: self.directory.clone(), last: last.into() })
    }

    async fn command(&self, command: &str, arguments: Value, deadline: Duration) -> Result<Value> {
        let mut monitor = self.monitor().await?;
        self.within(command, deadline, monitor.execute(command, arguments)).await
    }

    async fn within<T>(
        &self,
        what: &str,
        deadline: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(deadline, work).await {
            Ok(done) => done,
            Err(_) => {
                let reason = format!("{what} did not come to an end in {deadline:?}");
                Err(Error::Monitor { path: self.directory.join(SOCKET), reason })
            }
        }
    }

    /// Runs a command that goes on in the background, and waits for its end by its events.
    async fn job(&self, command: &str, mut arguments: Value) -> Result<()> {
        const JOB: &str = "state";
        let mut monitor = self.monitor().await?;
        arguments["job-id"] = JOB.into();
        let run = async {
            monitor.execute(command, arguments).await?;
            loop {
                let event = monitor.next_event().await?;
                let concluded = event.name == "JOB_STATUS_CHANGE"
                    && event.data["id"] == JOB
                    && event.data["status"] == "concluded";
                if concluded {
                    break;
                }
            }
            let jobs = monitor.execute("query-jobs", Value::Null).await?;
            monitor.execute("job-dismiss", json!({ "id": JOB })).await?;
            let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == JOB));
            match job.and_then(|job| job["error"].as_str()) {
                Some(reason) => Err(Error::Refused {
                    command: command.into(),
                    class: "Job".into(),
                    reason: reason.into(),
                }),
                None => Ok(()),
            }
        };
        self.within(command, STATE, run).await
    }
}
