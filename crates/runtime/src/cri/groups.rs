//! The control groups of pods: named as containerd's driver wants them, limited and removed by this engine.
//!
//! With the driver "cgroupfs" a pod's group is a directory that is made here; with "systemd" it is a slice, whose
//! name has the path of its parents in it.

use super::systemd;
use crate::cgroup::{Cgroups, belongs_to_one_pod, usage};
use crate::{Resources, Result, Stats};

/// What containerd's scopes begin with.
const SCOPE: &str = "cri-containerd";

/// The control groups of this node.
pub(super) struct Groups {
    cgroups: Cgroups,
    systemd: bool,
    /// The parent of every pod's group.
    root: String,
}

impl Groups {
    pub(super) fn detect(root: &str, systemd: bool) -> Result<Self> {
        let cgroups = Cgroups::detect(if systemd { "" } else { root })?;
        Ok(Self { cgroups, systemd, root: root.to_owned() })
    }

    pub(super) fn is_unified(&self) -> bool {
        self.cgroups.is_unified()
    }

    /// Returns what the CRI is told of a sandbox's `cgroup_parent`.
    pub(super) fn name(&self, parent: &str) -> String {
        if parent.is_empty() {
            String::new()
        } else if self.systemd {
            slice(&self.root, parent)
        } else {
            format!("{}/{}", self.root.trim_end_matches('/'), parent.trim_start_matches('/'))
        }
    }

    /// Returns the group of a sandbox as [`Cgroups`] knows it.
    fn path(&self, parent: &str) -> String {
        if self.systemd { slice_path(&slice(&self.root, parent)) } else { parent.to_owned() }
    }

    /// Makes a pod's group with its limits. Blocks, as removing it does.
    pub(super) fn create(&self, parent: &str, resources: &Resources) -> Result<()> {
        if parent.is_empty() {
            return Ok(());
        }
        if self.systemd {
            return systemd::start_slice(&self.name(parent), resources, self.is_unified());
        }
        self.cgroups.create(&self.path(parent), resources).map(drop)
    }

    /// Removes a pod's group, unless another sandbox of the pod is still in it.
    pub(super) fn remove(&self, parent: &str) {
        if !belongs_to_one_pod(parent) {
            return;
        }
        let path = self.path(parent);
        if !self.systemd {
            self.cgroups.remove(&path);
        } else if !self.cgroups.has_groups_below(&path)
            && let Err(error) = systemd::stop_slice(&self.name(parent))
        {
            tracing::warn!(%error, "a pod's slice stays behind");
        }
    }

    /// Returns what a sandbox uses as a whole.
    pub(super) fn sandbox_usage(&self, parent: &str) -> Stats {
        usage::read(&self.cgroups, &self.path(parent))
    }

    /// Returns what a container uses, without its files.
    pub(super) fn container_usage(&self, parent: &str, id: &str) -> Stats {
        let path = self.path(parent);
        let below = if self.systemd { format!("{path}/{SCOPE}-{id}.scope") } else { format!("{path}/{id}") };
        usage::read(&self.cgroups, &below)
    }
}

/// Returns the name of a slice: its parents' names and its own, joined by dashes, which no name may have.
fn slice(root: &str, parent: &str) -> String {
    let parts: Vec<String> = root
        .split('/')
        .chain(parent.split('/'))
        .filter(|part| !part.is_empty())
        .map(|part| part.replace('-', "_"))
        .collect();
    format!("{}.slice", parts.join("-"))
}

/// Returns where systemd makes a slice: `/a.slice/a-b.slice` for `a-b.slice`.
fn slice_path(name: &str) -> String {
    let name = name.trim_end_matches(".slice");
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("/{}.slice", &name[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_named_after_the_way_to_them() {
        let name = slice("/kubepods", "/burstable/pod12-34");
        assert_eq!(name, "kubepods-burstable-pod12_34.slice");
        assert_eq!(
            slice_path(&name),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice"
        );
        assert_eq!(slice("", "/pod1"), "pod1.slice");
    }
}
