//! What containers and pods use, as their control groups count it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Inner;
use super::state::Phase;
use crate::cgroup::usage;
use crate::{Error, Result, Stats};

impl Inner {
    pub(super) async fn container_stats(&self, id: &str) -> Result<Stats> {
        let container = self.container(id)?;
        if !matches!(container.phase(), Phase::Running(_)) {
            return Err(Error::Invalid(format!("container {id:?} is not running")));
        }
        let mut stats = usage::read(&self.cgroups, &container.record().cgroup);
        let upper = container.data.join("upper");
        stats.writable_layer_bytes = Self::blocking(move || Ok(disk_usage(&upper))).await?;
        Ok(stats)
    }

    pub(super) fn sandbox_stats(&self, id: &str) -> Result<Stats> {
        let parent = self.sandbox(id)?.record().config.cgroup_parent;
        if parent.is_empty() {
            return Err(Error::Invalid(format!("sandbox {id:?} has no control group of its own")));
        }
        Ok(usage::read(&self.cgroups, &parent))
    }
}

/// Returns the bytes on disk of everything below `path`. What disappears meanwhile does not count.
fn disk_usage(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => metadata.blocks() * 512 + disk_usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
