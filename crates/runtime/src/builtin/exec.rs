//! Running commands in containers. Each has a helper process that joins the container; the engine holds the
//! command's streams itself.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::Inner;
use super::state::Phase;
use super::terminal::Terminal;
use crate::helper::MARK;
use crate::{Error, ExecConfig, ExecOutput, Result, Session, TerminalSize};

/// As much output as `exec_sync` keeps of each stream.
const MOST_OUTPUT: usize = 64 * 1024;
/// How long the rest of the output may take once the command has ended. Something that the command left running
/// may hold the streams open for ever.
const REST: Duration = Duration::from_millis(500);

impl Inner {
    /// Prepares the helper for a command in a running container.
    fn helper(&self, id: &str, command: &[String], terminal: bool) -> Result<Command> {
        let container = self.container(id)?;
        let Phase::Running(pid) = container.phase() else {
            return Err(Error::Invalid(format!("container {id:?} is not running")));
        };
        if command.is_empty() {
            return Err(Error::Invalid("no command was given".to_owned()));
        }
        let mut helper = Command::new(&self.config.shim_executable);
        helper
            .args([MARK, "exec"])
            .arg(&container.run)
            .arg(pid.to_string())
            .arg(if terminal { "t" } else { "-" })
            .args(command)
            .env_clear();
        Ok(helper)
    }

    pub(super) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let mut helper = self.helper(id, command, false)?;
        helper.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = helper.spawn().map_err(|error| Error::system("starting the helper", error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut output = ExecOutput::default();
        let mut collected = false;
        // Boxed, so that it can be dropped before what it has collected is taken.
        let mut collect = Box::pin(async {
            tokio::join!(collect(stdout, &mut output.stdout), collect(stderr, &mut output.stderr));
        });
        let run = async {
            loop {
                tokio::select! {
                    () = &mut collect, if !collected => collected = true,
                    status = child.wait() => break status,
                }
            }
        };
        let status = match timeout {
            None => run.await,
            Some(after) => tokio::select! {
                status = run => status,
                // The command is killed with its helper, and that by being dropped.
                () = self.config.clock.after(after) => {
                    return Err(Error::Timeout { what: format!("command {command:?}"), after });
                }
            },
        };
        let status = status.map_err(|error| Error::system("waiting for the helper", error))?;
        if !collected {
            tokio::select! {
                () = &mut collect => {}
                () = self.config.clock.after(REST) => {}
            }
        }
        drop(collect);
        output.exit_code = exit_code(status);
        Ok(output)
    }

    pub(super) async fn exec(&self, id: &str, config: ExecConfig) -> Result<Session> {
        let mut helper = self.helper(id, &config.command, config.tty)?;
        if config.tty {
            return self.exec_terminal(helper, config.stdin);
        }
        helper.stdin(if config.stdin { Stdio::piped() } else { Stdio::null() });
        helper.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = helper.spawn().map_err(|error| Error::system("starting the helper", error))?;
        Ok(Session {
            stdin: child.stdin.take().map(|stdin| Box::pin(stdin) as crate::Writer),
            stdout: child.stdout.take().map(|stdout| Box::pin(stdout) as crate::Reader),
            stderr: child.stderr.take().map(|stderr| Box::pin(stderr) as crate::Reader),
            resize: None,
            exit: exit(child),
        })
    }

    fn exec_terminal(&self, mut helper: Command, stdin: bool) -> Result<Session> {
        let context = "making a terminal";
        let failed = |error: rustix::io::Errno| Error::system(context, error);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).map_err(failed)?;
        grantpt(&terminal).map_err(failed)?;
        unlockpt(&terminal).map_err(failed)?;
        let peer = ioctl_tiocgptpeer(&terminal, flags).map_err(failed)?;
        let clone = |fd: &OwnedFd| fd.try_clone().map_err(|error| Error::system(context, error));
        helper.stdin(clone(&peer)?).stdout(clone(&peer)?).stderr(peer);
        let child = helper.spawn().map_err(|error| Error::system("starting the helper", error))?;
        // The command keeps the other end of the terminal, and this one must not.
        drop(helper);
        rustix::io::ioctl_fionbio(&terminal, true).map_err(failed)?;
        let sizes_of = clone(&terminal)?;
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(1);
        self.tasks.spawn("terminal sizes", async move {
            while let Some(TerminalSize { width, height }) = sizes.recv().await {
                let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
                if let Err(error) = tcsetwinsize(&sizes_of, size) {
                    tracing::debug!(%error, "a terminal was not resized");
                }
            }
        });
        let end = |fd: OwnedFd| Terminal::new(fd).map_err(|error| Error::system(context, error));
        Ok(Session {
            stdin: if stdin { Some(Box::pin(end(clone(&terminal)?)?)) } else { None },
            stdout: Some(Box::pin(end(terminal)?)),
            stderr: None,
            resize: Some(resize),
            exit: exit(child),
        })
    }
}

fn exit(mut child: Child) -> std::pin::Pin<Box<dyn Future<Output = Result<i32>> + Send>> {
    Box::pin(async move {
        let status = child.wait().await.map_err(|error| Error::system("waiting for the helper", error))?;
        Ok(exit_code(status))
    })
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// Reads a stream to its end and keeps the first part.
async fn collect(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0u8; 8 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let room = MOST_OUTPUT.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
        }
    }
}
