//! Which kernel parameters a pod may set.

use std::collections::BTreeMap;

use crate::{Error, HostNamespaces, Result};

/// Returns where a kernel parameter is below `/proc/sys`.
pub(crate) fn path(name: &str) -> String {
    // Both ways of writing are in use; one with a slash keeps its dots.
    if name.contains('/') { name.to_owned() } else { name.replace('.', "/") }
}

/// Kernel parameters that are not the pod's own would change the whole node.
///
/// # Errors
/// [`Error::Invalid`] names the first one.
pub(crate) fn check(host: HostNamespaces, sysctls: &BTreeMap<String, String>) -> Result<()> {
    for name in sysctls.keys() {
        let path = path(name);
        let network = path.starts_with("net/") && !host.network;
        let ipc = ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"];
        let ipc = ipc.iter().any(|start| path.starts_with(start)) && !host.ipc;
        if !(network || ipc) || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Invalid(format!(
                "sysctl {name:?} is not the pod's own, it would change the node"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_kernel_parameters_can_be_set() {
        let check = |name: &str, host: HostNamespaces| {
            let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            super::check(host, &sysctls).is_ok()
        };
        let own = HostNamespaces::default();
        let nodes = HostNamespaces { network: true, ipc: true, pid: false };
        for (name, in_own, in_nodes) in [
            ("net.core.somaxconn", true, false),
            ("net/ipv4/conf/eth0.1/forwarding", true, false),
            ("kernel.shmmax", true, false),
            ("kernel.panic", false, false),
            ("vm.swappiness", false, false),
            ("net/../vm/swappiness", false, false),
        ] {
            assert_eq!((check(name, own), check(name, nodes)), (in_own, in_nodes), "{name}");
        }
    }
}
