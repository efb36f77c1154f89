//! Rotation of container logs: a file that has grown too large is moved aside and the container's shim opens a
//! new one. Sizes have no event to wait for, so they are looked at now and then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::Agent;

/// How often sizes are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// The size at which a log is moved aside, bytes.
const LARGEST: u64 = 10 * 1024 * 1024;
/// How many files a container's log is kept in, the current one included.
const FILES: usize = 5;

/// Rotates logs until the agent ends.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        agent.clock.after(EVERY).await;
        for snapshot in agent.pods.all() {
            for container in snapshot.view.running() {
                let large = std::fs::metadata(&container.log_path).is_ok_and(|meta| meta.len() > LARGEST);
                if !large {
                    continue;
                }
                if let Err(error) = rotate(&agent, &container.id, &container.log_path).await {
                    tracing::warn!(log = %container.log_path.display(), error = format!("{error:#}"), "rotating a log");
                }
            }
        }
    }
}

async fn rotate(agent: &Agent, id: &str, log: &Path) -> anyhow::Result<()> {
    let mut aside = log.as_os_str().to_owned();
    aside.push(format!(".{}", agent.clock.now().strftime("%Y%m%d-%H%M%S")));
    fs_err::rename(log, &aside)?;
    if let Err(error) = agent.runtime.reopen_log(id).await {
        // Without a new file the old one must be found under its name.
        fs_err::rename(&aside, log)?;
        return Err(error.into());
    }
    for old in superfluous(rotated(log)?, FILES - 1) {
        fs_err::remove_file(old)?;
    }
    Ok(())
}

/// Returns the files that were moved aside from `log`.
fn rotated(log: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Returns the oldest files beyond `keep`; their names sort by time.
fn superfluous(mut files: Vec<PathBuf>, keep: usize) -> Vec<PathBuf> {
    files.sort();
    let excess = files.len().saturating_sub(keep);
    files.truncate(excess);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go_first() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let all = files(&["0.log.20260103-000000", "0.log.20260101-000000", "0.log.20260102-000000"]);
        assert_eq!(superfluous(all.clone(), 2), files(&["0.log.20260101-000000"]));
        assert!(superfluous(all, 3).is_empty());
    }
}
