//! `cluster kubeconfig`, and what `up` and `down` do to the user's own file.

use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::Session;
use crate::artifacts::kubeconfig::{is_empty, merge, remove};
use crate::cli::Kubeconfig;
use crate::error::{Context, Error, Result};
use crate::state::{Made, State, home_directory};

/// The cluster's own kubeconfig in its state directory.
pub(super) const OWN: &str = "kubeconfig";

/// Runs `cluster kubeconfig`.
pub(super) fn run(session: &Session<'_>, action: Option<Kubeconfig>) -> Result<()> {
    let (_, state) = session.existing()?;
    let path = state.path(OWN);
    let own = std::fs::read_to_string(&path).map_err(|error| {
        Error::user(format!("reading {}: {error}", path.display())).hint("run `cluster up`")
    })?;
    match action.unwrap_or(Kubeconfig::Print) {
        Kubeconfig::Print => session.ui.raw(own.as_bytes())?,
        Kubeconfig::Merge => {
            let _lock = state.lock()?;
            let (file, _) = put(&state, &own)?;
            session.ui.note(&format!("context \"{}\" is in {}", state.name(), display(&file)));
        }
        Kubeconfig::Remove => {
            let _lock = state.lock()?;
            let file = users_file()?;
            take(&file, state.name())?;
            session.ui.note(&format!("context \"{}\" is not in {}", state.name(), display(&file)));
        }
    }
    Ok(())
}

/// Returns the file that kubectl would change: the first of $KUBECONFIG, or `~/.kube/config`.
pub(super) fn users_file() -> Result<PathBuf> {
    let named = std::env::var_os("KUBECONFIG")
        .and_then(|paths| std::env::split_paths(&paths).find(|path| !path.as_os_str().is_empty()));
    match named {
        Some(path) => std::path::absolute(path).context("reading KUBECONFIG"),
        None => Ok(home_directory()?.join(".kube/config")),
    }
}

/// Returns a path as people write it.
pub(super) fn display(path: &Path) -> String {
    match home_directory().ok().and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(relative) => format!("~/{}", relative.display()),
        None => path.display().to_string(),
    }
}

/// Puts the cluster into the user's kubeconfig; returns the file and whether it changed.
pub(super) fn put(state: &State, own: &str) -> Result<(PathBuf, bool)> {
    let file = users_file()?;
    state.record(&[Made::Context(file.clone())])?;
    let _lock = exclusive(&file)?;
    let before = read(&file)?;
    let after = merge(&before, own).context(format!("merging into {}", file.display()))?;
    let changed = before != after;
    if changed {
        write(&file, &after)?;
    }
    Ok((file, changed))
}

/// Takes the cluster out of a kubeconfig. A file that nothing is left in is removed, too.
pub(super) fn take(file: &Path, name: &str) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let _lock = exclusive(file)?;
    let before = read(file)?;
    let Some(after) = remove(&before, name).context(format!("changing {}", file.display()))? else {
        return Ok(());
    };
    if is_empty(&after) { fs_err::remove_file(file).map_err(Error::from) } else { write(file, &after) }
}

fn read(file: &Path) -> Result<String> {
    match fs_err::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    // Behind a link is where the user keeps it.
    let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    machinery::files::write_atomic(&target, text.as_bytes(), machinery::files::PRIVATE)
        .context(format!("writing {}", target.display()))
}

/// Keeps other runs of this program away from the user's kubeconfig. The lock is on the directory, which
/// leaves no file behind.
fn exclusive(file: &Path) -> Result<Flock<std::fs::File>> {
    let directory = file.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(directory)?;
    let handle = std::fs::File::open(directory).context(format!("opening {}", directory.display()))?;
    Flock::lock(handle, FlockArg::LockExclusive)
        .map_err(|(_, error)| Error::from(error).within(format!("locking {}", directory.display())))
}
