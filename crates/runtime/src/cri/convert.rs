//! From this crate's types to the CRI's. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::proto::cri::{self, mode, profile, propagation};
use crate::helper::spec::{MASKED, READ_ONLY};
use crate::{
    ContainerConfig, HostNamespaces, Image, Mount, Propagation, Resources, SandboxConfig, Seccomp, Security,
};

/// The annotation of a sandbox that has the whole of what it was made from.
pub(super) const SANDBOX: &str = "cluster/sandbox";
/// The annotation of a container with what the CRI keeps no place for.
pub(super) const CONTAINER: &str = "cluster/container";

/// What a container's annotation says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Note {
    /// The image as the user wrote it.
    pub(super) image: String,
    /// Its id.
    pub(super) image_id: String,
    /// It has a terminal.
    pub(super) tty: bool,
    /// Its sandbox.
    pub(super) sandbox_id: String,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn namespaces(host: HostNamespaces, share_processes: bool) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: if host.network { mode::NODE } else { mode::POD },
        pid: match (host.pid, share_processes) {
            (true, _) => mode::NODE,
            (false, true) => mode::POD,
            (false, false) => mode::CONTAINER,
        },
        ipc: if host.ipc { mode::NODE } else { mode::POD },
    }
}

/// Returns a sandbox as the CRI describes it, below the control group `cgroup_parent`.
pub(super) fn sandbox(config: &SandboxConfig, cgroup_parent: String) -> cri::PodSandboxConfig {
    let mut annotations = config.annotations.clone();
    // It is made of maps with text as keys: this cannot fail.
    annotations.insert(SANDBOX.to_owned(), serde_json::to_string(config).unwrap_or_default());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: config.name.clone(),
            uid: config.uid.clone(),
            namespace: config.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: if config.host.network { String::new() } else { config.hostname.clone() },
        log_directory: text(&config.log_directory),
        dns_config: config.dns.as_ref().map(|dns| cri::DnsConfig {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        labels: config.labels.clone(),
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(config.host, config.share_processes)),
                privileged: config.privileged,
                seccomp: Some(cri::SecurityProfile {
                    profile_type: profile::RUNTIME_DEFAULT,
                    localhost_ref: String::new(),
                }),
            }),
            sysctls: config.sysctls.clone(),
        }),
    }
}

/// Returns a container as the CRI describes it. `unified` is whether control groups are of version 2.
pub(super) fn container(
    sandbox_id: &str,
    sandbox: &SandboxConfig,
    config: &ContainerConfig,
    image: &Image,
    unified: bool,
) -> cri::ContainerConfig {
    let note = Note {
        image: config.user_image.clone(),
        image_id: image.id.clone(),
        tty: config.tty,
        sandbox_id: sandbox_id.to_owned(),
    };
    let mut annotations = config.annotations.clone();
    annotations.insert(CONTAINER.to_owned(), serde_json::to_string(&note).unwrap_or_default());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
        image: Some(cri::ImageSpec {
            image: image.id.clone(),
            user_specified_image: config.user_image.clone(),
        }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_directory.clone(),
        envs: config
            .env
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: config.mounts.iter().map(mount).collect(),
        devices: config
            .devices
            .iter()
            .map(|(host, container, permissions)| cri::Device {
                container_path: text(container),
                host_path: text(host),
                permissions: permissions.clone(),
            })
            .collect(),
        labels: config.labels.clone(),
        annotations,
        log_path: text(&config.log_path),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(&config.resources, unified)),
            security_context: Some(security(sandbox, &config.security, image)),
        }),
    }
}

fn mount(mount: &Mount) -> cri::Mount {
    cri::Mount {
        container_path: text(&mount.container_path),
        host_path: text(&mount.host_path),
        readonly: mount.read_only,
        propagation: match mount.propagation {
            Propagation::Private => propagation::PRIVATE,
            Propagation::HostToContainer => propagation::HOST_TO_CONTAINER,
            Propagation::Bidirectional => propagation::BIDIRECTIONAL,
        },
    }
}

/// Returns limits as the CRI has them.
pub(super) fn resources(resources: &Resources, unified: bool) -> cri::LinuxContainerResources {
    let mut files = BTreeMap::new();
    if unified && resources.pids_limit > 0 {
        files.insert("pids.max".to_owned(), resources.pids_limit.to_string());
    }
    if unified && resources.memory_limit > 0 {
        // As the built-in engine does and upstream since 1.28: all of a container ends, or nothing.
        files.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    cri::LinuxContainerResources {
        cpu_period: i64::try_from(resources.cpu_period).unwrap_or(0),
        cpu_quota: resources.cpu_quota,
        cpu_shares: i64::try_from(resources.cpu_shares).unwrap_or(0),
        memory_limit_in_bytes: resources.memory_limit,
        oom_score_adj: i64::from(resources.oom_score_adj),
        unified: files,
        // The same as the memory: no swap. Version 1 may not count swap at all, and then refuses the figure.
        memory_swap_limit_in_bytes: if unified { resources.memory_limit } else { 0 },
    }
}

fn security(
    sandbox: &SandboxConfig,
    security: &Security,
    image: &Image,
) -> cri::LinuxContainerSecurityContext {
    let number = |value: i64| cri::Int64Value { value };
    // A group without a user is refused, so the image's user is named even where nobody asked for another.
    let image_user = image.user.split(':').next().unwrap_or_default();
    let (run_as_user, run_as_username) = match (security.run_as_user, image_user.parse::<i64>()) {
        (Some(user), _) | (None, Ok(user)) => (Some(number(user)), String::new()),
        (None, Err(_)) if image_user.is_empty() => (Some(number(0)), String::new()),
        (None, Err(_)) => (None, image_user.to_owned()),
    };
    let hidden = !security.privileged && !security.unmasked_proc;
    let list = |paths: &[&str]| -> Vec<String> {
        if hidden { paths.iter().map(|path| (*path).to_owned()).collect() } else { Vec::new() }
    };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(sandbox.host, sandbox.share_processes)),
        run_as_user,
        run_as_username,
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.supplemental_groups.clone(),
        no_new_privs: security.no_new_privileges,
        run_as_group: security.run_as_group.map(number),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(match &security.seccomp {
            Seccomp::Unconfined => {
                cri::SecurityProfile { profile_type: profile::UNCONFINED, localhost_ref: String::new() }
            }
            Seccomp::RuntimeDefault => {
                cri::SecurityProfile { profile_type: profile::RUNTIME_DEFAULT, localhost_ref: String::new() }
            }
            Seccomp::Localhost(path) => {
                cri::SecurityProfile { profile_type: profile::LOCALHOST, localhost_ref: text(path) }
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(user: &str) -> Image {
        Image {
            id: "sha256:1".into(),
            tags: Vec::new(),
            digests: Vec::new(),
            size: 0,
            user: user.into(),
            pinned: false,
        }
    }

    #[test]
    fn somebody_is_always_named_as_user() {
        for (asked, of_image, user, name) in [
            (Some(7), "web", Some(7), ""),
            (None, "", Some(0), ""),
            (None, "33:34", Some(33), ""),
            (None, "web:logs", None, "web"),
        ] {
            let security = Security { run_as_user: asked, ..Security::default() };
            let found = super::security(&SandboxConfig::default(), &security, &image(of_image));
            let found = (found.run_as_user.map(|user| user.value), found.run_as_username);
            assert_eq!(found, (user, name.to_owned()), "{asked:?} {of_image}");
        }
    }

    #[test]
    fn namespaces_are_the_pods_the_nodes_or_each_containers() {
        let host = HostNamespaces { network: true, pid: true, ipc: true };
        let own = HostNamespaces::default();
        for (host, share, expect) in [
            (own, false, (mode::POD, mode::CONTAINER, mode::POD)),
            (own, true, (mode::POD, mode::POD, mode::POD)),
            (host, false, (mode::NODE, mode::NODE, mode::NODE)),
        ] {
            let found = namespaces(host, share);
            assert_eq!((found.network, found.pid, found.ipc), expect);
        }
    }

    #[test]
    fn a_sandbox_is_found_again_in_its_annotation() {
        let config = SandboxConfig {
            name: "web".into(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            ..SandboxConfig::default()
        };
        let made = sandbox(&config, "/kubepods/pod1".into());
        let read: SandboxConfig = serde_json::from_str(&made.annotations[SANDBOX]).unwrap();
        assert_eq!((read.name.as_str(), read.annotations), ("web", config.annotations));
        assert_eq!(made.linux.unwrap().cgroup_parent, "/kubepods/pod1");
    }

    #[test]
    fn proc_is_masked_unless_asked_otherwise() {
        let paths = |security: Security| {
            let found = super::security(&SandboxConfig::default(), &security, &image(""));
            (found.masked_paths.len(), found.readonly_paths.len())
        };
        assert_eq!(paths(Security::default()), (MASKED.len(), READ_ONLY.len()));
        assert_eq!(paths(Security { unmasked_proc: true, ..Security::default() }), (0, 0));
        assert_eq!(paths(Security { privileged: true, ..Security::default() }), (0, 0));
    }
}
