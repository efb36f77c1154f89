//! Limits and use of resources.

use serde::{Deserialize, Serialize};

/// CPU, memory and process limits. Zero or `None` is "not limited".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative CPU weight in cgroup v1 shares (2 to 262144).
    pub cpu_shares: u64,
    /// CPU quota in microseconds a period.
    pub cpu_quota: i64,
    /// The period in microseconds.
    pub cpu_period: u64,
    /// Memory limit in bytes.
    pub memory_limit: i64,
    /// How readily the kernel kills it, from -1000 to 1000. Best effort.
    pub oom_score_adj: i32,
    /// The largest number of processes.
    pub pids_limit: i64,
}

/// What a container or a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time used since the start, nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in use, bytes.
    pub memory_usage: u64,
    /// Memory in use that cannot easily be reclaimed, bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Page faults and major page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Bytes written to the writable layer.
    pub writable_layer_bytes: u64,
    /// Processes.
    pub processes: u64,
}
