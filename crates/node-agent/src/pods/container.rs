//! From a container as the API describes it to one as the runtime makes it. Pure but for its arguments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{ContainerConfig, Image, Mount, Propagation};

use super::expand::expand;
use super::model::spec;
use super::{labels, resources, security};
use crate::volumes::Mounted;

/// Where seccomp profiles of `type: Localhost` are.
const SECCOMP_PROFILES: &str = "/var/lib/kubelet/seccomp";
/// Where a container leaves its last words, when nothing else is said.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// What a container's configuration is made from, beside the pod and the container.
pub(crate) struct Parts<'a> {
    /// How often it was started before.
    pub(crate) attempt: u32,
    /// The image.
    pub(crate) image: &'a Image,
    /// Its environment.
    pub(crate) env: Vec<(String, String)>,
    /// The pod's volumes.
    pub(crate) volumes: &'a BTreeMap<String, Mounted>,
    /// Where volume mounts with a `subPath` lead, by their place in the list.
    pub(crate) sub_paths: &'a BTreeMap<usize, PathBuf>,
    /// The pod's `/etc/hosts` on the node.
    pub(crate) hosts: PathBuf,
    /// The file for its last words on the node.
    pub(crate) termination_file: PathBuf,
    /// The node's memory, bytes.
    pub(crate) machine_memory: i64,
}

/// Returns the `subPath` of a volume mount, with `subPathExpr` expanded by `env`.
///
/// # Errors
/// When a variable is not known.
pub(crate) fn sub_path(
    mount: &k8s_openapi::api::core::v1::VolumeMount,
    env: &[(String, String)],
) -> Result<Option<String>, String> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        let expanded = expand(expression, &|name| lookup(env, name));
        if expanded.contains("$(") {
            return Err(format!("failed to expand subPathExpr {expression:?}: a variable in it is not set"));
        }
        return Ok(Some(expanded));
    }
    Ok(mount.sub_path.clone().filter(|text| !text.is_empty()))
}

fn lookup(env: &[(String, String)], name: &str) -> Option<String> {
    env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// Returns what the runtime is to make.
///
/// # Errors
/// The text of a `CreateContainerConfigError`.
pub(crate) fn config(pod: &Pod, container: &Container, parts: Parts<'_>) -> Result<ContainerConfig, String> {
    let spec = spec(pod);
    let merged = security::merge(pod, container, Path::new(SECCOMP_PROFILES));
    security::check_non_root(pod, container, &merged, &parts.image.user)?;
    let words = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|word| expand(word, &|name| lookup(&parts.env, name))).collect()
    };
    let mut mounts = Vec::new();
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = parts
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("volume {:?} of a mount is not in the pod", mount.name))?;
        mounts.push(Mount {
            host_path: parts.sub_paths.get(&at).cloned().unwrap_or_else(|| volume.path.clone()),
            container_path: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true) || volume.read_only,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let taken = |path: &str| mounts.iter().any(|mount: &Mount| mount.container_path == Path::new(path));
    let mut own = Vec::new();
    if !taken("/etc/hosts") {
        own.push(Mount {
            host_path: parts.hosts,
            container_path: "/etc/hosts".into(),
            read_only: merged.read_only_root,
            ..Mount::default()
        });
    }
    let last_words = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let last_words = last_words.unwrap_or(TERMINATION_PATH);
    if !taken(last_words) {
        own.push(Mount {
            host_path: parts.termination_file.clone(),
            container_path: last_words.into(),
            ..Mount::default()
        });
    }
    mounts.append(&mut own);
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: parts.attempt,
        image: parts.image.id.clone(),
        user_image: text(&container.image),
        command: words(container.command.as_ref()),
        args: words(container.args.as_ref()),
        working_directory: text(&container.working_dir),
        env: parts.env,
        mounts,
        devices: Vec::new(),
        labels: BTreeMap::from([
            (labels::POD_NAME.to_owned(), text(&meta.name)),
            (labels::POD_NAMESPACE.to_owned(), text(&meta.namespace)),
            (labels::POD_UID.to_owned(), text(&meta.uid)),
            (labels::CONTAINER_NAME.to_owned(), container.name.clone()),
        ]),
        annotations: BTreeMap::from([
            (labels::TERMINATION_FILE.to_owned(), parts.termination_file.display().to_string()),
            (
                labels::TERMINATION_POLICY.to_owned(),
                container.termination_message_policy.clone().unwrap_or_else(|| "File".into()),
            ),
            (labels::GRACE.to_owned(), spec.termination_grace_period_seconds.unwrap_or(30).to_string()),
        ]),
        log_path: PathBuf::from(&container.name).join(format!("{}.log", parts.attempt)),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: resources::container(&spec, container, parts.machine_memory),
        security: merged,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;

    #[test]
    fn words_are_expanded_and_the_agents_files_are_mounted() {
        let pod =
            pod(serde_json::json!({"containers": [{"name": "a", "image": "x", "args": ["$(A)", "$(B)"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}));
        let image = Image {
            id: "sha256:1".into(),
            tags: vec![],
            digests: vec![],
            size: 0,
            user: String::new(),
            pinned: false,
        };
        let volumes = BTreeMap::from([("v".to_owned(), Mounted { path: "/node/v".into(), read_only: true })]);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let found = config(
            &pod,
            container,
            Parts {
                attempt: 2,
                image: &image,
                env: vec![("A".into(), "1".into())],
                volumes: &volumes,
                sub_paths: &BTreeMap::new(),
                hosts: "/node/hosts".into(),
                termination_file: "/node/t".into(),
                machine_memory: 1,
            },
        )
        .unwrap();
        assert_eq!(found.args, ["1", "$(B)"]);
        assert!(found.mounts[0].read_only);
        let inside: Vec<_> =
            found.mounts.iter().map(|mount| mount.container_path.display().to_string()).collect();
        assert_eq!(inside, ["/v", "/etc/hosts", "/dev/termination-log"]);
        assert_eq!(found.log_path, PathBuf::from("a/2.log"));
    }
}
