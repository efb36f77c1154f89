//! A machine in memory, for the tests of whoever uses a [`Remote`]: it records commands, answers as told, and keeps
//! files as the real one would.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Remote;
use crate::command::{Captured, Command, Output, Status};
use crate::error::{Error, Result};
use crate::file::{File, Source, Uploaded};
use crate::ssh::Tunnel;
use crate::streams::Streams;

/// What a command's answer is made by.
type Answer = dyn Fn(&str) -> (i32, String, String) + Send + Sync;

/// A file as the fake keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Its mode.
    pub mode: u32,
    /// Its owner and group, when they were given.
    pub owner: Option<(String, String)>,
}

/// A machine in memory. Cloning shares it.
#[derive(Clone)]
pub struct Fake {
    name: String,
    answer: Arc<Answer>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    commands: Vec<String>,
    files: BTreeMap<String, Kept>,
    failures: Vec<Error>,
}

impl Fake {
    /// Returns a machine on which every command ends with exit code 0 and says nothing.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::answering(name, |_| (0, String::new(), String::new()))
    }

    /// Returns a machine that answers each command line with an exit code, standard output and standard error.
    pub fn answering(
        name: impl Into<String>,
        answer: impl Fn(&str) -> (i32, String, String) + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), answer: Arc::new(answer), state: Arc::default() }
    }

    /// Makes the next call fail.
    pub fn fail_next(&self, error: Error) {
        self.state.lock().failures.push(error);
    }

    /// The command lines so far, as the far shell would have been given them.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.state.lock().commands.clone()
    }

    /// The files as they are now.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Kept> {
        self.state.lock().files.clone()
    }

    /// Puts a file there, past all recording.
    pub fn put(&self, path: impl Into<String>, bytes: impl Into<Vec<u8>>, mode: u32) {
        self.state.lock().files.insert(path.into(), Kept { bytes: bytes.into(), mode, owner: None });
    }

    fn begin(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.failures.is_empty() { Ok(()) } else { Err(state.failures.remove(0)) }
    }

    fn answer(&self, command: &Command) -> Result<(String, i32, String, String)> {
        let line = command.line()?;
        self.begin()?;
        self.state.lock().commands.push(line.clone());
        let (code, stdout, stderr) = (self.answer)(&line);
        Ok((line, code, stdout, stderr))
    }
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fake({})", self.name)
    }
}

#[async_trait::async_trait]
impl Remote for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, command: Command) -> Result<Output> {
        let (_, code, stdout, stderr) = self.answer(&command)?;
        Ok(Output {
            machine: self.name.clone(),
            command: command.to_string(),
            status: Status::Exited(code),
            stdout: Captured::whole(stdout),
            stderr: Captured::whole(stderr),
        })
    }

    async fn attach(&self, command: Option<Command>, streams: Streams) -> Result<Status> {
        let command = command.unwrap_or_else(|| Command::new(&["login-shell"]));
        let (_, code, stdout, stderr) = self.answer(&command)?;
        crate::streams::write_all(&streams.stdout, stdout.as_bytes()).map_err(Error::local("writing"))?;
        crate::streams::write_all(&streams.stderr, stderr.as_bytes()).map_err(Error::local("writing"))?;
        Ok(Status::Exited(code))
    }

    async fn upload(&self, file: File) -> Result<Uploaded> {
        file.check()?;
        self.begin()?;
        let bytes = match &file.source {
            Source::Bytes(bytes) => bytes.to_vec(),
            Source::Path(path) => {
                fs_err::read(path).map_err(Error::local("reading what is to be uploaded"))?
            }
        };
        let size = bytes.len() as u64;
        let mut state = self.state.lock();
        let before = state.files.get(&file.path);
        let same = before.is_some_and(|kept| kept.bytes == bytes);
        let right = before
            .is_some_and(|kept| kept.mode == file.mode && (file.owner.is_none() || kept.owner == file.owner));
        if !(same && right) {
            state.files.insert(file.path.clone(), Kept { bytes, mode: file.mode, owner: file.owner.clone() });
        }
        drop(state);
        file.report(size, size);
        let sent = if same { 0 } else { size };
        Ok(Uploaded { changed: !(same && right), sent, ..Uploaded::default() })
    }

    async fn upload_many(&self, files: Vec<File>) -> Result<Vec<Uploaded>> {
        let mut done = Vec::new();
        for file in files {
            done.push(self.upload(file).await?);
        }
        Ok(done)
    }

    async fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>> {
        self.begin()?;
        let Some(kept) = self.state.lock().files.get(path).cloned() else { return Ok(None) };
        if kept.bytes.len() > most {
            return Err(Error::TooBig { machine: self.name.clone(), path: path.into(), most });
        }
        Ok(Some(kept.bytes))
    }

    async fn forward(&self, host: &str, port: u16) -> Result<Tunnel> {
        self.begin()?;
        Err(Error::Refused {
            machine: self.name.clone(),
            what: format!("a connection to {host}:{port}"),
            why: "a machine in memory reaches nothing".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_right_is_left_alone() {
        let fake = Fake::new("w1");
        let machine: &dyn Remote = &fake;
        let file = || File::new("/etc/x", "one").mode(0o644);
        assert!(machine.upload(file()).await.unwrap().changed);
        assert!(!machine.upload(file()).await.unwrap().changed);
        assert!(machine.upload(file().mode(0o600)).await.unwrap().changed);
        assert_eq!(machine.read("/etc/x", 10).await.unwrap().unwrap(), b"one");
        assert!(machine.read("/etc/x", 2).await.is_err());
        assert_eq!(machine.read("/etc/y", 2).await.unwrap(), None);
    }

    #[tokio::test]
    async fn commands_are_recorded_and_answered() {
        let fake = Fake::answering("w1", |line| (i32::from(line == "false"), "out".into(), String::new()));
        fake.run(Command::new(&["true"])).await.unwrap().check().unwrap();
        assert!(fake.run(Command::new(&["false"])).await.unwrap().check().is_err());
        fake.fail_next(Error::Invalid("no".into()));
        assert!(fake.run(Command::new(&["true"])).await.is_err());
        assert_eq!(fake.commands(), ["true", "false"]);
    }
}
