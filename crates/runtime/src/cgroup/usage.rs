//! What a control group counts.

use super::Cgroups;
use crate::Stats;

/// Reads what there is; a missing controller counts nothing.
pub(crate) fn read(cgroups: &Cgroups, path: &str) -> Stats {
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
