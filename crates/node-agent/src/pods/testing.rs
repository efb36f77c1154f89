//! Pods and containers for tests.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerState, ContainerStatus, SandboxConfig, SandboxState, SandboxStatus};

use super::labels;
use super::model::View;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "uid"}, "spec": spec
    }))
    .unwrap()
}

pub(crate) fn view(containers: Vec<ContainerStatus>) -> View {
    View {
        sandbox: Some(SandboxStatus {
            id: "sandbox".into(),
            config: SandboxConfig::default(),
            state: SandboxState::Ready,
            created_at: at(0),
            ips: vec!["10.2.0.5".parse().unwrap()],
        }),
        containers,
    }
}

fn container(name: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}-{attempt}"),
        sandbox_id: "sandbox".into(),
        name: name.into(),
        attempt,
        state,
        created_at: at(1),
        started_at: Some(at(2)),
        finished_at: None,
        exit_code: 0,
        pid: None,
        reason: String::new(),
        message: String::new(),
        image_id: "sha256:1".into(),
        image: String::new(),
        labels: BTreeMap::from([
            (labels::POD_NAME.to_owned(), "p".to_owned()),
            (labels::POD_NAMESPACE.to_owned(), "ns".to_owned()),
            (labels::POD_UID.to_owned(), "uid".to_owned()),
        ]),
        annotations: BTreeMap::new(),
        log_path: "/log".into(),
    }
}

pub(crate) fn running(name: &str, attempt: u32) -> ContainerStatus {
    container(name, attempt, ContainerState::Running)
}

pub(crate) fn exited(name: &str, attempt: u32, code: i32, finished: i64) -> ContainerStatus {
    ContainerStatus {
        finished_at: Some(at(finished)),
        exit_code: code,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        ..container(name, attempt, ContainerState::Exited)
    }
}
