//! Running commands in containers. Each has a helper process that joins the container; the engine holds the
//! command's streams itself.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
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

/// The device numbers of `/dev/ptmx` and of each `pts/ptmx`.
const MULTIPLEXER: (u32, u32) = (5, 2);

impl Inner {
    fn first_process(&self, id: &str) -> Result<i32> {
        match self.container(id)?.phase() {
            Phase::Running(pid) => Ok(pid),
            _ => Err(Error::Invalid(format!("container {id:?} is not running"))),
        }
    }

    /// Prepares the helper for a command in a running container.
    fn helper(&self, id: &str, command: &[String], terminal: bool) -> Result<Command> {
        let container = self.container(id)?;
        let pid = self.first_process(id)?;
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
            return self.exec_terminal(helper, self.first_process(id)?, config.stdin);
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

    fn exec_terminal(&self, mut helper: Command, pid: i32, stdin: bool) -> Result<Session> {
        let context = "making a terminal";
        let failed = |error: rustix::io::Errno| Error::system(context, error);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = open_multiplexer(pid)?;
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

/// Opens a new terminal among the container's own, so that its other end has a name there (`/dev/pts/0`).
fn open_multiplexer(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root/dev/pts/ptmx");
    let context = || format!("making a terminal with {path}");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| Error::system(context(), error))?;
    let about = rustix::fs::fstat(&file).map_err(|error| Error::system(context(), error))?;
    // The path is the container's to change: what it leads to must still be a terminal multiplexer.
    let device = (rustix::fs::major(about.st_rdev), rustix::fs::minor(about.st_rdev));
    if FileType::from_raw_mode(about.st_mode) == FileType::CharacterDevice && device == MULTIPLEXER {
        Ok(file)
    } else {
        Err(Error::Invalid(
            "the container has changed /dev/pts/ptmx: it is no terminal multiplexer".to_owned(),
        ))
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
