//! The state directory of a cluster: where it is, who may change it, and the journal of what was made.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::ClusterSpec;

const LOCK: &str = "lock";
const SPEC: &str = "cluster.json";
const JOURNAL: &str = "journal.json";
/// There while programs and files of machines are replaced and their units do not run them yet.
const UNFINISHED: &str = "unfinished";

/// The directory under which every cluster has its own.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// Returns `given`, or `$XDG_STATE_HOME/cluster`, or `~/.local/state/cluster`.
    pub(crate) fn resolve(given: Option<&Path>) -> Result<Self> {
        let root = match given {
            Some(given) => std::path::absolute(given).context("making --state-dir absolute")?,
            None => match std::env::var_os("XDG_STATE_HOME").map(PathBuf::from) {
                Some(base) if base.is_absolute() => base.join("cluster"),
                _ => home_directory()?.join(".local/state/cluster"),
            },
        };
        Ok(Self(root))
    }

    /// Returns the state of the cluster `name`, whether it exists or not.
    pub(crate) fn cluster(&self, name: &str) -> State {
        State { directory: self.0.join(name), name: name.to_owned() }
    }

    /// Returns the names of all clusters, sorted.
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = match fs_err::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let entry = entry?;
            if entry.path().join(JOURNAL).exists()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Returns the user's home directory.
pub(crate) fn home_directory() -> Result<PathBuf> {
    std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| Error::user("the home directory is not known").hint("set HOME, or give --state-dir"))
}

/// One cluster's directory.
#[derive(Debug, Clone)]
pub(crate) struct State {
    directory: PathBuf,
    name: String,
}

/// Something outside the state directory, or running, that `up` makes and `down` takes away.
/// Written to the journal before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Made {
    /// A network interface of the host: bridge or cable.
    Link(String),
    /// A table of the host's packet filter.
    Table(String),
    /// An interface of the host whose arriving packets were not forwarded before.
    Forwarding(String),
    /// A control group directory, with everything that runs in it.
    Cgroup(PathBuf),
    /// A virtual machine of QEMU, by the file that describes it: its process, its disk and its directory.
    Virtual(PathBuf),
    /// All that Vagrant made from the Vagrantfile in a directory.
    Vagrant(PathBuf),
    /// A context, with its cluster and user, in a kubeconfig.
    Context(PathBuf),
}

/// Leave to change a cluster; ends when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its end")] Flock<std::fs::File>);

impl State {
    /// Returns a path within the directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.join(relative)
    }

    /// Returns the directory itself.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the cluster's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether anything is known of this cluster.
    pub(crate) fn exists(&self) -> bool {
        self.path(JOURNAL).exists()
    }

    /// Takes the lock, making the directory if needed.
    ///
    /// # Errors
    /// When another command is changing the cluster; names its process.
    pub(crate) fn lock(&self) -> Result<Lock> {
        loop {
            fs_err::create_dir_all(&self.directory)?;
            // What is in here is for the owner alone: keys, and the nodes' files.
            fs_err::set_permissions(&self.directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            let path = self.path(LOCK);
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .context(format!("opening {}", path.display()))?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder)?;
                    let holder = holder.trim();
                    return Err(Error::user(format!(
                        "cluster {} is being changed by another command",
                        self.name
                    ))
                    .because(format!("process {holder} holds {}", path.display()))
                    .hint("wait until it has ended, then try again"));
                }
                Err((_, error)) => {
                    return Err(Error::from(error).within(format!("locking {}", path.display())));
                }
            };
            // `down` removes the directory with the lock in it: a lock on a file that is gone is no lock.
            if !same_file(&lock, &path) {
                continue;
            }
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())?;
            return Ok(Lock(lock));
        }
    }

    /// Returns the spec that the cluster was made from, if there is one.
    pub(crate) fn spec(&self) -> Result<Option<ClusterSpec>> {
        self.read_json(SPEC)
    }

    /// Saves the spec.
    pub(crate) fn save_spec(&self, spec: &ClusterSpec) -> Result<()> {
        self.write_json(SPEC, spec)
    }

    /// Returns the journal.
    pub(crate) fn journal(&self) -> Result<Vec<Made>> {
        Ok(self.read_json(JOURNAL)?.unwrap_or_default())
    }

    /// Adds to the journal what it does not hold yet; durable when this returns.
    pub(crate) fn record(&self, made: &[Made]) -> Result<()> {
        let mut journal = self.journal()?;
        let before = journal.len();
        for entry in made {
            if !journal.contains(entry) {
                journal.push(entry.clone());
            }
        }
        if journal.len() == before && self.exists() { Ok(()) } else { self.write_json(JOURNAL, &journal) }
    }

    /// Takes what is gone out of the journal; durable when this returns.
    pub(crate) fn strike(&self, gone: &[Made]) -> Result<()> {
        let left: Vec<Made> = self.journal()?.into_iter().filter(|made| !gone.contains(made)).collect();
        self.write_json(JOURNAL, &left)
    }

    /// Marks that what machines run from is about to change; returns whether a command that did so was cut short
    /// before the units ran it. Then they have to be started anew, though nothing differs any more.
    pub(crate) fn begin_change(&self) -> Result<bool> {
        let path = self.path(UNFINISHED);
        let unfinished = path.exists();
        fs_err::write(&path, "")?;
        Ok(unfinished)
    }

    /// Says that all units run what their machines have.
    pub(crate) fn end_change(&self) -> Result<()> {
        Ok(fs_err::remove_file(self.path(UNFINISHED))?)
    }

    /// Reads a JSON file of the directory; `None` when it is not there.
    pub(crate) fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path(name);
        let text = match fs_err::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::user(format!("{} cannot be read", path.display()))
                .because(error.to_string())
                .hint(format!("it was written by another version or damaged; `cluster down --name {}` needs the version that wrote it", self.name))
        })
    }

    /// Writes a JSON file of the directory, durably.
    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).context(format!("writing {name}"))?;
        machinery::files::write_atomic(&self.path(name), &text, machinery::files::PRIVATE)
            .context(format!("writing {}", self.path(name).display()))
    }

    /// Removes the whole directory. The journal goes last, so that an interrupted removal can be repeated.
    pub(crate) fn remove(&self, lock: Lock) -> Result<()> {
        for entry in fs_err::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == JOURNAL || name == LOCK {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs_err::remove_dir_all(entry.path())?;
            } else {
                fs_err::remove_file(entry.path())?;
            }
        }
        fs_err::remove_dir_all(&self.directory)?;
        drop(lock);
        // The last cluster takes the common directory with it; another one keeps it.
        if let Some(home) = self.directory.parent() {
            match std::fs::remove_dir(home) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::from(error).within(format!("removing {}", home.display()))),
            }
        }
        Ok(())
    }
}

fn same_file(lock: &Flock<std::fs::File>, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (lock.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => ours.dev() == there.dev() && ours.ino() == there.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(directory: &Path) -> State {
        Home::resolve(Some(directory)).unwrap().cluster("lab")
    }

    #[test]
    fn only_one_command_changes_a_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path());
        let lock = state.lock().unwrap();
        let error = state.lock().unwrap_err();
        assert!(error.line().contains("being changed by another command"), "{}", error.line());
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn a_removed_cluster_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path());
        let lock = state.lock().unwrap();
        state.record(&[Made::Link("cl-lab".into())]).unwrap();
        fs_err::create_dir_all(state.path("nodes/m1")).unwrap();
        assert_eq!(Home::resolve(Some(directory.path())).unwrap().list().unwrap(), ["lab"]);
        state.remove(lock).unwrap();
        assert!(!directory.path().exists(), "the last cluster takes the common directory with it");
    }

    #[test]
    fn a_change_that_was_cut_short_is_known_until_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path());
        let _lock = state.lock().unwrap();
        assert!(!state.begin_change().unwrap());
        assert!(state.begin_change().unwrap(), "the one before did not end");
        state.end_change().unwrap();
        assert!(!state.begin_change().unwrap());
    }

    #[test]
    fn the_journal_holds_everything_once() {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path());
        let _lock = state.lock().unwrap();
        let link = Made::Link("cl-lab".into());
        state.record(std::slice::from_ref(&link)).unwrap();
        state.record(&[link.clone(), Made::Cgroup("/x".into())]).unwrap();
        assert_eq!(state.journal().unwrap(), [link, Made::Cgroup("/x".into())]);
    }
}
