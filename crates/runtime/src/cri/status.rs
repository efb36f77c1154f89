//! From what the CRI tells to this crate's types. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;

use super::convert::{CONTAINER, Note, SANDBOX};
use super::failure::tidy;
use super::proto::cri;
use crate::{ContainerState, ContainerStatus, Image, SandboxConfig, SandboxState, SandboxStatus};

/// Returns a time that the CRI gives in nanoseconds; 0 is never.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanoseconds)).ok() }
}

/// Returns what a sandbox was made from, or `None` when this engine did not make it.
pub(super) fn sandbox_config(
    annotations: &std::collections::BTreeMap<String, String>,
) -> Option<SandboxConfig> {
    serde_json::from_str(annotations.get(SANDBOX)?).ok()
}

/// Returns a sandbox, or `None` when this engine did not make it.
pub(super) fn sandbox(found: &cri::PodSandbox, ips: Vec<IpAddr>) -> Option<SandboxStatus> {
    Some(SandboxStatus {
        id: found.id.clone(),
        config: sandbox_config(&found.annotations)?,
        state: if found.state == cri::SANDBOX_READY { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: time(found.created_at).unwrap_or_default(),
        ips,
    })
}

/// Returns a sandbox's addresses, the primary one first.
pub(super) fn addresses(status: &cri::PodSandboxStatus) -> Vec<IpAddr> {
    let Some(network) = &status.network else { return Vec::new() };
    let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|other| &other.ip));
    all.filter_map(|ip| ip.parse().ok()).collect()
}

/// Returns what a container's annotation says, or `None` when this engine did not make it.
pub(super) fn note(annotations: &std::collections::BTreeMap<String, String>) -> Option<Note> {
    serde_json::from_str(annotations.get(CONTAINER)?).ok()
}

/// Returns a container, or `None` when this engine did not make it. `info` is the CRI's further description.
pub(super) fn container(found: &cri::ContainerStatus, info: Option<&str>) -> Option<(ContainerStatus, Note)> {
    let note = note(&found.annotations)?;
    let metadata = found.metadata.clone().unwrap_or_default();
    let state = match found.state {
        cri::state::CREATED => ContainerState::Created,
        cri::state::RUNNING => ContainerState::Running,
        cri::state::EXITED => ContainerState::Exited,
        _ => ContainerState::Unknown,
    };
    let mut annotations = found.annotations.clone();
    annotations.remove(CONTAINER);
    let status = ContainerStatus {
        id: found.id.clone(),
        sandbox_id: note.sandbox_id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        created_at: time(found.created_at).unwrap_or_default(),
        started_at: time(found.started_at),
        // containerd notes the start after the call that makes it, and the end by the kernel's clock of the shim: a
        // short life may seem to end before it began.
        finished_at: time(found.finished_at).map(|end| end.max(time(found.started_at).unwrap_or(end))),
        exit_code: found.exit_code,
        pid: info.filter(|_| state == ContainerState::Running).and_then(pid),
        reason: found.reason.clone(),
        message: tidy(&found.message).to_owned(),
        image_id: note.image_id.clone(),
        image: note.image.clone(),
        labels: found.labels.clone(),
        annotations,
        log_path: PathBuf::from(&found.log_path),
    };
    Some((status, note))
}

/// Reads the first process's id from the further description of a sandbox or container.
pub(super) fn pid(info: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Info {
        pid: i32,
    }
    let info: Info = serde_json::from_str(info).ok()?;
    Some(info.pid).filter(|pid| *pid > 0)
}

/// Returns an image. `sandbox_image` is never collected: without it no sandbox can be made.
pub(super) fn image(found: cri::Image, sandbox_image: Option<&str>) -> Image {
    let is_sandbox_image = sandbox_image.is_some_and(|name| found.repo_tags.iter().any(|tag| tag == name));
    Image {
        id: found.id,
        tags: found.repo_tags,
        digests: found.repo_digests,
        size: found.size,
        user: match found.uid {
            Some(uid) if found.username.is_empty() => {
                if uid.value == 0 {
                    String::new()
                } else {
                    uid.value.to_string()
                }
            }
            _ => found.username,
        },
        pinned: found.pinned || is_sandbox_image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_made_is_left_alone() {
        assert!(sandbox(&cri::PodSandbox::default(), Vec::new()).is_none());
        assert!(container(&cri::ContainerStatus::default(), None).is_none());
    }

    #[test]
    fn a_container_is_told_with_what_its_note_says() {
        let note =
            Note { image: "nginx".into(), image_id: "sha256:1".into(), tty: false, sandbox_id: "s".into() };
        let found = cri::ContainerStatus {
            id: "c".into(),
            state: cri::state::EXITED,
            created_at: 1_000_000_000,
            message: "no such file: unknown".into(),
            annotations: [(CONTAINER.to_owned(), serde_json::to_string(&note).unwrap())].into(),
            ..cri::ContainerStatus::default()
        };
        let (status, _) = container(&found, Some(r#"{"pid": 5}"#)).unwrap();
        assert_eq!((status.sandbox_id.as_str(), status.image.as_str()), ("s", "nginx"));
        assert_eq!((status.state, status.pid, status.started_at), (ContainerState::Exited, None, None));
        assert_eq!(status.created_at.as_second(), 1);
        assert_eq!(status.message, "no such file");
        assert!(status.annotations.is_empty());

        let short = cri::ContainerStatus { started_at: 3_000_000_000, finished_at: 2_000_000_000, ..found };
        let (status, _) = container(&short, None).unwrap();
        assert_eq!(status.finished_at, status.started_at, "no container ends before it began");
    }

    #[test]
    fn the_user_of_an_image_is_a_number_a_name_or_nothing() {
        for (uid, name, expect) in
            [(Some(0), "", ""), (Some(33), "", "33"), (None, "web", "web"), (None, "", "")]
        {
            let found = cri::Image {
                uid: uid.map(|value| cri::Int64Value { value }),
                username: name.into(),
                ..cri::Image::default()
            };
            assert_eq!(image(found, None).user, expect);
        }
    }
}
