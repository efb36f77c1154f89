//! What this node is and has: read once from the kernel, within the limits of its control group.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::List;

/// The version that the node registers with.
pub(crate) const VERSION: &str = concat!("v1.36.0+cluster.", env!("CARGO_PKG_VERSION"));
/// How many pods a node takes.
const PODS: u32 = 110;

/// The machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Memory, bytes.
    pub(crate) memory: i64,
    /// What the node has.
    pub(crate) capacity: List,
    /// What it gives to pods.
    pub(crate) allocatable: List,
    /// Kernel, system and ids. The runtime's version is filled in later.
    pub(crate) info: NodeSystemInfo,
}

impl Machine {
    /// Reads the machine. `data` is where pods keep their files.
    pub(crate) fn read(data: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let machine_milli = i64::try_from(cpus).unwrap_or(1) * 1000;
        let cpu_milli =
            cpu_limit().filter(|limit| *limit > 0).map_or(machine_milli, |limit| limit.min(machine_milli));
        let total = meminfo("MemTotal").unwrap_or(0);
        let memory = memory_limit().filter(|limit| *limit > 0).map_or(total, |limit| limit.min(total));
        let disk = disk_size(data);
        let amount = |text: String| Quantity(text);
        let cpu =
            if cpu_milli % 1000 == 0 { format!("{}", cpu_milli / 1000) } else { format!("{cpu_milli}m") };
        let capacity = BTreeMap::from([
            ("cpu".to_owned(), amount(cpu)),
            ("memory".to_owned(), amount(format!("{}Ki", memory / 1024))),
            ("ephemeral-storage".to_owned(), amount(format!("{}Ki", disk / 1024))),
            ("hugepages-1Gi".to_owned(), amount("0".into())),
            ("hugepages-2Mi".to_owned(), amount("0".into())),
            ("pods".to_owned(), amount(PODS.to_string())),
        ]);
        Self { memory, allocatable: capacity.clone(), capacity, info: info() }
    }
}

fn info() -> NodeSystemInfo {
    let line =
        |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let machine_id = line("/etc/machine-id");
    let uuid = line("/sys/class/dmi/id/product_uuid");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: String::new(),
        kernel_version: kernel,
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        operating_system: "linux".to_owned(),
        os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        ..NodeSystemInfo::default()
    }
}

/// Returns the architecture as Go names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        other => other,
    }
}

fn os_image(release: &str) -> String {
    release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Returns an entry of `/proc/meminfo` in bytes.
pub(crate) fn meminfo(name: &str) -> Option<i64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<i64>().ok().map(|kib| kib * 1024)
}

fn number(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn memory_limit() -> Option<i64> {
    number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
}

fn cpu_limit() -> Option<i64> {
    if let Ok(text) = std::fs::read_to_string("/sys/fs/cgroup/cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        return Some(quota.parse::<i64>().ok()? * 1000 / period.parse::<i64>().ok()?.max(1));
    }
    ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"].iter().find_map(|directory| {
        let quota = number(&format!("{directory}/cpu.cfs_quota_us")).filter(|quota| *quota > 0)?;
        let period = number(&format!("{directory}/cpu.cfs_period_us"))?.max(1);
        Some(quota * 1000 / period)
    })
}

/// Returns the size of the file system at `path`, or at the nearest directory above it that is there.
fn disk_size(path: &Path) -> i64 {
    path.ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok())
        .map_or(0, |found| i64::try_from(found.f_blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_cpus_memory_and_a_kernel() {
        let machine = Machine::read(Path::new("/does/not/exist"));
        assert!(machine.memory > 0 && machine.capacity["cpu"].0 != "0");
        assert!(!machine.info.kernel_version.is_empty());
        assert_eq!(machine.capacity["pods"].0, "110");
        assert_eq!(os_image("A=b\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
