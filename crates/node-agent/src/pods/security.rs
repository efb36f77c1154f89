//! Who a container runs as: the container's security context over the pod's. Pure.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use runtime::{Seccomp, Security};

use super::model::spec;

/// Returns the security settings of a container. Localhost seccomp profiles are files below `profiles`.
pub(crate) fn merge(pod: &Pod, container: &Container, profiles: &Path) -> Security {
    let spec = spec(pod);
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let mut groups: Vec<i64> = of_pod.supplemental_groups.clone().unwrap_or_default();
    groups.extend(of_pod.fs_group);
    groups.sort_unstable();
    groups.dedup();
    let names = |list: Option<Vec<String>>| {
        list.into_iter()
            .flatten()
            .map(|name| name.trim_start_matches("CAP_").to_uppercase())
            .collect::<Vec<_>>()
    };
    Security {
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_non_root: own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false),
        supplemental_groups: groups,
        privileged: own.privileged.unwrap_or(false),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: names(capabilities.add),
        drop_capabilities: names(capabilities.drop),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), profiles),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> Seccomp {
    match profile {
        Some(profile) if profile.type_ == "RuntimeDefault" => Seccomp::RuntimeDefault,
        Some(profile) if profile.type_ == "Localhost" => {
            Seccomp::Localhost(profiles.join(profile.localhost_profile.as_deref().unwrap_or_default()))
        }
        _ => Seccomp::Unconfined,
    }
}

/// Checks `runAsNonRoot` against who the container would run as.
///
/// # Errors
/// The text of a `CreateContainerConfigError`.
pub(crate) fn check_non_root(
    pod: &Pod,
    container: &Container,
    security: &Security,
    image_user: &str,
) -> Result<(), String> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let who = format!("(pod: {:?}, container: {})", full_name(pod), container.name);
    let user = image_user.split(':').next().unwrap_or_default();
    match (security.run_as_user, user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {who}")),
        (Some(_), _) => Ok(()),
        (None, "") => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        (None, user) => match user.parse::<i64>() {
            Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {who}")),
            Ok(_) => Ok(()),
            Err(_) => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {who}"
            )),
        },
    }
}

/// Returns a pod's name, namespace and UID as the API's messages write them.
pub(crate) fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;

    #[test]
    fn the_container_overrides_the_pod() {
        let pod = pod(serde_json::json!({
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 5, "supplementalGroups": [7, 5]},
            "containers": [{"name": "a", "securityContext": {"runAsUser": 0, "capabilities": {"add": ["CAP_NET_ADMIN"]},
                "allowPrivilegeEscalation": false}}]}));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let found = merge(&pod, container, Path::new("/p"));
        assert_eq!((found.run_as_user, found.supplemental_groups.as_slice()), (Some(0), &[5, 7][..]));
        assert_eq!(found.add_capabilities, ["NET_ADMIN"]);
        assert!(found.no_new_privileges);
        assert_eq!(
            check_non_root(&pod, container, &found, ""),
            Err("container's runAsUser breaks non-root policy (pod: \"p_ns(uid)\", container: a)".into())
        );
    }

    #[test]
    fn non_root_is_judged_by_the_image_when_no_user_is_given() {
        let pod = pod(
            serde_json::json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}),
        );
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let security = merge(&pod, container, Path::new("/p"));
        for (user, good) in [("", false), ("0", false), ("1000:1000", true), ("redis", false)] {
            assert_eq!(check_non_root(&pod, container, &security, user).is_ok(), good, "{user}");
        }
    }
}
