//! What containers and pods use, as their control groups count it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Inner;
use super::cgroup::Cgroups;
use super::state::Phase;
use crate::{Error, Result, Stats};

impl Inner {
    pub(super) async fn container_stats(&self, id: &str) -> Result<Stats> {
        let container = self.container(id)?;
        if !matches!(container.phase(), Phase::Running(_)) {
            return Err(Error::Invalid(format!("container {id:?} is not running")));
        }
        let mut stats = read(&self.cgroups, &container.record().cgroup);
        let upper = container.data.join("upper");
        stats.writable_layer_bytes = Self::blocking(move || Ok(disk_usage(&upper))).await?;
        Ok(stats)
    }

    pub(super) fn sandbox_stats(&self, id: &str) -> Result<Stats> {
        let parent = self.sandbox(id)?.record().config.cgroup_parent;
        if parent.is_empty() {
            return Err(Error::Invalid(format!("sandbox {id:?} has no control group of its own")));
        }
        Ok(read(&self.cgroups, &parent))
    }
}

/// Reads what there is; a missing controller counts nothing.
fn read(cgroups: &Cgroups, path: &str) -> Stats {
    let file = |controller: &str, name: &str| {
        let directory = cgroups.directory(controller, path)?;
        std::fs::read_to_string(directory.join(name)).ok()
    };
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    let processes = number(file("pids", "pids.current"));
    if cgroups.is_unified() {
        let cpu = file("cpu", "cpu.stat").unwrap_or_default();
        let memory = file("memory", "memory.stat").unwrap_or_default();
        let usage = number(file("memory", "memory.current"));
        Stats {
            cpu_nanoseconds: entry(&cpu, "usage_usec").saturating_mul(1_000),
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(entry(&memory, "inactive_file")),
            memory_rss: entry(&memory, "anon"),
            page_faults: entry(&memory, "pgfault"),
            major_page_faults: entry(&memory, "pgmajfault"),
            writable_layer_bytes: 0,
            processes,
        }
    } else {
        let memory = file("memory", "memory.stat").unwrap_or_default();
        let usage = number(file("memory", "memory.usage_in_bytes"));
        Stats {
            cpu_nanoseconds: number(file("cpuacct", "cpuacct.usage")),
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(entry(&memory, "total_inactive_file")),
            memory_rss: entry(&memory, "total_rss"),
            page_faults: entry(&memory, "total_pgfault"),
            major_page_faults: entry(&memory, "total_pgmajfault"),
            writable_layer_bytes: 0,
            processes,
        }
    }
}

/// Reads a number from a file of lines with a name and a number.
fn entry(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_names() {
        let text = "inactive_file_more 1\ninactive_file 2\nanon 3\n";
        assert_eq!(entry(text, "inactive_file"), 2);
        assert_eq!(entry(text, "anon"), 3);
        assert_eq!(entry(text, "pgfault"), 0);
    }
}
