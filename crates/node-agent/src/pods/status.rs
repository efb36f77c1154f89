//! The pod's status as the API shows it, from what is known. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus as ApiStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::{ContainerState, ContainerStatus};

use super::model::{Memory, View, Waiting, ephemeral, is_sidecar, spec};
use super::resources;

/// The scheme of container ids.
pub(crate) const SCHEME: &str = "cluster://";

/// What a status is made from.
pub(crate) struct Inputs<'a> {
    /// The pod, with its last status.
    pub(crate) pod: &'a Pod,
    /// What the runtime has.
    pub(crate) view: &'a View,
    /// What the agent remembers.
    pub(crate) memory: &'a Memory,
    /// Why containers wait, from the plan.
    pub(crate) waiting: &'a BTreeMap<String, Waiting>,
    /// The node's address.
    pub(crate) host_ip: &'a str,
    /// The pod is over for good: deleted or finished, and nothing of it runs.
    pub(crate) ended: bool,
    /// The time now.
    pub(crate) now: Timestamp,
}

/// Returns the pod's status.
pub(crate) fn generate(inputs: &Inputs<'_>) -> PodStatus {
    let spec = spec(inputs.pod);
    let old = inputs.pod.status.clone().unwrap_or_default();
    let has_init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    let init: Vec<ApiStatus> =
        spec.init_containers.iter().flatten().map(|one| container(inputs, one, has_init, true)).collect();
    let main: Vec<ApiStatus> =
        spec.containers.iter().map(|one| container(inputs, one, has_init, false)).collect();
    let extra: Vec<ApiStatus> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|one| container(inputs, &ephemeral(one), has_init, false))
        .collect();

    let mut phase = phase(inputs, &init, &main);
    if inputs.memory.verdict.is_some() {
        phase = "Failed";
    } else if inputs.ended && !matches!(phase, "Succeeded" | "Failed") {
        // What was deleted or stopped before its end has failed, unless every container went well.
        let good = main.iter().all(|one| terminated(one).is_some_and(|state| state.exit_code == 0));
        phase = if good && !main.is_empty() { "Succeeded" } else { "Failed" };
    } else if matches!(old.phase.as_deref(), Some("Succeeded")) {
        phase = "Succeeded";
    } else if matches!(old.phase.as_deref(), Some("Failed")) {
        phase = "Failed";
    }
    let ips = &inputs.memory.ips;
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        host_ip: Some(inputs.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: inputs.host_ip.to_owned() }]),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: old.start_time.clone().or_else(|| inputs.memory.start_time.map(seconds)),
        qos_class: old.qos_class.clone().or_else(|| Some(resources::class(&spec).name().to_owned())),
        init_container_statuses: has_init.then_some(init),
        container_statuses: Some(main),
        ephemeral_container_statuses: (!extra.is_empty()).then_some(extra),
        observed_generation: inputs.pod.metadata.generation,
        ..old.clone()
    };
    if let Some(verdict) = &inputs.memory.verdict {
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    }
    status.conditions = Some(conditions(inputs, &status, &old));
    status
}

fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn running_state(status: &ContainerStatus) -> ApiState {
    ApiState {
        running: Some(ContainerStateRunning { started_at: status.started_at.map(seconds) }),
        ..ApiState::default()
    }
}

fn terminated_state(status: &ContainerStatus, memory: &Memory) -> ApiState {
    let message = memory
        .messages
        .get(&status.id)
        .cloned()
        .or_else(|| Some(status.message.clone()))
        .filter(|text| !text.is_empty());
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: status.exit_code,
            reason: Some(if status.reason.is_empty() {
                if status.exit_code == 0 { "Completed" } else { "Error" }.to_owned()
            } else {
                status.reason.clone()
            }),
            message,
            started_at: status.started_at.or(Some(status.created_at)).map(seconds),
            finished_at: status.finished_at.map(seconds),
            container_id: Some(format!("{SCHEME}{}", status.id)),
            signal: None,
        }),
        ..ApiState::default()
    }
}

fn waiting_state(reason: &str, message: &str) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..ApiState::default()
    }
}

fn terminated(status: &ApiStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref().and_then(|state| state.terminated.as_ref())
}

fn container(inputs: &Inputs<'_>, container: &Container, has_init: bool, init: bool) -> ApiStatus {
    let name = container.name.as_str();
    let (view, memory) = (inputs.view, inputs.memory);
    let remembered = memory.containers.get(name);
    let creating = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let default_waiting = || waiting_state(creating, "");
    let starting = memory.starting.as_deref() == Some(name);
    let latest = view.latest(name);
    let failure = inputs.waiting.get(name).or_else(|| remembered.and_then(|known| known.failure.as_ref()));
    let before = |status: Option<&ContainerStatus>| {
        status.filter(|one| one.state == ContainerState::Exited).map(|one| terminated_state(one, memory))
    };
    let old = old_status(inputs.pod, name);
    // How a container ended is known for good, also when nothing is left of it in the runtime.
    let over = matches!(
        inputs.pod.status.as_ref().and_then(|status| status.phase.as_deref()),
        Some("Succeeded" | "Failed")
    );
    if latest.is_none()
        && (over || inputs.ended)
        && let Some(known) = old.filter(|one| terminated(one).is_some())
    {
        return known.clone();
    }
    // What is never started again and has ended does not wait. While it is being started it has not ended: a pod
    // fails only when its container shows how.
    let policy = inputs.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let once = policy == Some("Never") && !is_sidecar(container);
    let (state, last) = match latest {
        None => match (failure, old.filter(|_| inputs.ended || memory.verdict.is_some())) {
            (_, Some(old)) if old.state.as_ref().is_some_and(|state| state.running.is_some()) => {
                (lost(), None)
            }
            (Some(waiting), _) => (waiting_state(&waiting.reason, &waiting.message), None),
            (None, _) => (default_waiting(), None),
        },
        Some(one) => match one.state {
            ContainerState::Running if starting => (default_waiting(), before(view.previous(name))),
            ContainerState::Running => (running_state(one), before(view.previous(name))),
            ContainerState::Exited => match failure.filter(|_| !inputs.ended && !once) {
                Some(waiting) => (waiting_state(&waiting.reason, &waiting.message), before(Some(one))),
                None if starting && once => (default_waiting(), before(view.previous(name))),
                None if starting => (default_waiting(), before(Some(one))),
                None => (terminated_state(one, memory), before(view.previous(name))),
            },
            ContainerState::Created => match failure {
                Some(waiting) => {
                    (waiting_state(&waiting.reason, &waiting.message), before(view.previous(name)))
                }
                None => (default_waiting(), before(view.previous(name))),
            },
            ContainerState::Unknown => (lost(), before(view.previous(name))),
        },
    };
    let is_running = state.running.is_some();
    let probed = remembered.filter(|known| latest.is_some_and(|one| one.id == known.probed));
    let started = is_running && probed.map_or(container.startup_probe.is_none(), |known| known.started);
    let ready = if init && !is_sidecar(container) {
        state.terminated.as_ref().is_some_and(|one| one.exit_code == 0)
    } else {
        started && probed.map_or(container.readiness_probe.is_none(), |known| known.ready)
    };
    let image = latest.map(|one| one.image.clone()).filter(|image| !image.is_empty());
    ApiStatus {
        name: name.to_owned(),
        image: image.or_else(|| container.image.clone()).unwrap_or_default(),
        image_id: latest.map(|one| one.image_id.clone()).unwrap_or_default(),
        container_id: latest
            .filter(|one| one.state != ContainerState::Created)
            .map(|one| format!("{SCHEME}{}", one.id)),
        ready,
        started: Some(started),
        restart_count: latest.map_or_else(
            || old.map_or(0, |one| one.restart_count),
            |one| i32::try_from(one.attempt).unwrap_or(i32::MAX),
        ),
        last_state: Some(last.unwrap_or_default()),
        resources: container.resources.clone().filter(|_| is_running),
        allocated_resources: container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.clone())
            .filter(|_| is_running),
        volume_mounts: container.volume_mounts.as_ref().filter(|list| !list.is_empty()).map(|list| {
            list.iter()
                .map(|mount| VolumeMountStatus {
                    name: mount.name.clone(),
                    mount_path: mount.mount_path.clone(),
                    read_only: mount.read_only.filter(|only| *only),
                    recursive_read_only: mount.read_only.filter(|only| *only).map(|_| "Disabled".to_owned()),
                    ..VolumeMountStatus::default()
                })
                .collect()
        }),
        state: Some(state),
        ..ApiStatus::default()
    }
}

/// The state of a container that ran and of which nothing is left.
fn lost() -> ApiState {
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    }
}

fn old_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ApiStatus> {
    let status = pod.status.as_ref()?;
    status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten())
        .find(|one| one.name == name)
}

fn phase(inputs: &Inputs<'_>, init: &[ApiStatus], main: &[ApiStatus]) -> &'static str {
    let spec = spec(inputs.pod);
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let last = |one: &ApiStatus| one.last_state.as_ref().and_then(|state| state.terminated.clone());
    let (mut pending, mut failed) = (0, 0);
    for (one, container) in init.iter().zip(spec.init_containers.iter().flatten()) {
        let state = one.state.clone().unwrap_or_default();
        if is_sidecar(container) {
            if one.started != Some(true) && state.terminated.is_none() {
                pending += 1;
            }
        } else if let Some(ended) = &state.terminated {
            failed += usize::from(ended.exit_code != 0);
        } else if state.waiting.is_some() && last(one).is_some_and(|ended| ended.exit_code != 0) {
            failed += 1;
        } else {
            pending += 1;
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for one in main {
        let state = one.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(ended) = &state.terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else if last(one).is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    // Collected remains of init containers do not take a pod back to Pending.
    let begun = running + stopped > 0;
    if failed > 0 && policy == "Never" && !begun {
        return "Failed";
    }
    if (pending > 0 || failed > 0) && !begun {
        return "Pending";
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    match policy {
        _ if stopped == 0 => "Pending",
        "Always" => "Running",
        _ if stopped == succeeded => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

fn conditions(inputs: &Inputs<'_>, status: &PodStatus, old: &PodStatus) -> Vec<PodCondition> {
    let spec = spec(inputs.pod);
    let phase = status.phase.as_deref().unwrap_or_default();
    let mut wanted: Vec<(&str, bool, Option<&str>, Option<String>)> = Vec::new();
    let sandbox = inputs.view.sandbox_ready()
        && (!inputs.memory.ips.is_empty() || spec.host_network == Some(true))
        && !inputs.ended;
    wanted.push(("PodReadyToStartContainers", sandbox, None, None));

    let begun = status.container_statuses.iter().flatten().any(|one| {
        one.started == Some(true)
            || one.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
            || terminated(one).is_some()
            || one.state.as_ref().is_some_and(|state| state.running.is_some())
    });
    let incomplete: Vec<&str> = status
        .init_container_statuses
        .iter()
        .flatten()
        .zip(spec.init_containers.iter().flatten())
        .filter(|(one, container)| {
            !begun && if is_sidecar(container) { one.started != Some(true) } else { !one.ready }
        })
        .map(|(one, _)| one.name.as_str())
        .collect();
    if phase == "Succeeded" {
        wanted.push(("Initialized", true, Some("PodCompleted"), None));
    } else if incomplete.is_empty() {
        wanted.push(("Initialized", true, None, None));
    } else {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        wanted.push(("Initialized", false, Some("ContainersNotInitialized"), Some(message)));
    }

    let sidecars = status
        .init_container_statuses
        .iter()
        .flatten()
        .zip(spec.init_containers.iter().flatten())
        .filter(|(_, container)| is_sidecar(container))
        .map(|(one, _)| one);
    let unready: Vec<&str> = sidecars
        .chain(status.container_statuses.iter().flatten())
        .filter(|one| !one.ready)
        .map(|one| one.name.as_str())
        .collect();
    let (containers_ready, reason, message) = match phase {
        "Succeeded" => (false, Some("PodCompleted"), None),
        "Failed" => (false, Some("PodFailed"), None),
        _ if unready.is_empty() => (true, None, None),
        _ => (
            false,
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        ),
    };
    let mut gates = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match old.conditions.iter().flatten().find(|one| one.type_ == *name) {
            None => {
                gates.push(format!("corresponding condition of pod readiness gate {name:?} does not exist."));
            }
            Some(found) if found.status != "True" => gates.push(format!(
                "the status of pod readiness gate {name:?} is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    if !containers_ready {
        wanted.push(("Ready", false, reason, message.clone()));
    } else if gates.is_empty() {
        wanted.push(("Ready", true, None, None));
    } else {
        wanted.push(("Ready", false, Some("ReadinessGatesNotReady"), Some(gates.join(", "))));
    }
    wanted.push(("ContainersReady", containers_ready, reason, message));
    wanted.push(("PodScheduled", true, None, None));

    let mut out: Vec<PodCondition> = wanted
        .into_iter()
        .map(|(type_, value, reason, message)| {
            let value = if value { "True" } else { "False" };
            let known = old.conditions.iter().flatten().find(|one| one.type_ == type_);
            let since = known
                .filter(|one| one.status == value)
                .and_then(|one| one.last_transition_time.clone())
                .unwrap_or_else(|| seconds(inputs.now));
            PodCondition {
                type_: type_.to_owned(),
                status: value.to_owned(),
                reason: reason.map(str::to_owned),
                message,
                last_transition_time: Some(since),
                last_probe_time: None,
                observed_generation: inputs.pod.metadata.generation,
            }
        })
        .collect();
    // Conditions that others wrote stay as they are.
    for other in old.conditions.iter().flatten() {
        if !out.iter().any(|one| one.type_ == other.type_) {
            out.push(other.clone());
        }
    }
    out
}

/// How soon a change of the status is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// At once.
    Now,
    /// A little later, with what comes then.
    Later,
    /// Not by itself.
    Never,
}

/// Returns how soon the change from `old` to `new` is to be told. While a pod is being started, each step
/// changes something that nobody acts on; one message less for each of many pods that start together counts.
pub(crate) fn weigh(old: &PodStatus, new: &PodStatus, deleted: bool) -> Weight {
    let plain = |status: &PodStatus| {
        let mut status = status.clone();
        status.observed_generation = None;
        for one in status.conditions.iter_mut().flatten() {
            one.observed_generation = None;
        }
        status
    };
    if deleted && patch("", &plain(old), &plain(new)).is_none() {
        return Weight::Never;
    }
    let waiting = |status: &PodStatus| -> Vec<Option<String>> {
        let main = status.container_statuses.iter().flatten();
        main.chain(status.init_container_statuses.iter().flatten())
            .map(|one| one.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.clone()))
            .collect()
    };
    let pending = |status: &PodStatus| status.phase.as_deref() == Some("Pending");
    let begun = old.container_statuses.is_some();
    if begun && pending(old) && pending(new) && waiting(old) == waiting(new) {
        Weight::Later
    } else {
        Weight::Now
    }
}

/// Returns the smallest strategic merge patch from `old` to `new`, or `None` when they are equal.
pub(crate) fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<serde_json::Value> {
    let old = serde_json::to_value(old).unwrap_or_default();
    let new = serde_json::to_value(new).unwrap_or_default();
    let empty = serde_json::Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut changed = serde_json::Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            // Merged by type: only those that changed are sent.
            "conditions" => {
                let known = old.get(key).and_then(|list| list.as_array()).cloned().unwrap_or_default();
                let news: Vec<_> = value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|one| !known.contains(one))
                    .cloned()
                    .collect();
                if news.is_empty() {
                    continue;
                }
                serde_json::Value::Array(news)
            }
            // Merged by address: old ones would stay.
            "podIPs" if old.contains_key(key) => {
                let mut list = vec![serde_json::json!({"$patch": "replace"})];
                list.extend(value.as_array().into_iter().flatten().cloned());
                serde_json::Value::Array(list)
            }
            _ => value.clone(),
        };
        changed.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changed.insert(key.clone(), serde_json::Value::Null);
    }
    (!changed.is_empty()).then(|| serde_json::json!({"metadata": {"uid": uid}, "status": changed}))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, exited, pod, running, view};
    use super::*;

    fn status(spec: serde_json::Value, view: &View, memory: &Memory) -> PodStatus {
        let pod = pod(spec);
        let plan = super::super::plan::plan(&pod, view, memory, false, at(100));
        generate(&Inputs {
            pod: &pod,
            view,
            memory,
            waiting: &plan.waiting,
            host_ip: "172.17.4.201",
            ended: false,
            now: at(100),
        })
    }

    fn condition(status: &PodStatus, type_: &str) -> (String, Option<String>) {
        let found = status.conditions.iter().flatten().find(|one| one.type_ == type_).unwrap();
        (found.status.clone(), found.message.clone())
    }

    #[test]
    fn a_new_pod_is_creating() {
        let found = status(
            serde_json::json!({"containers": [{"name": "a", "image": "x"}]}),
            &View::default(),
            &Memory::default(),
        );
        assert_eq!(found.phase.as_deref(), Some("Pending"));
        let state = found.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
        assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
        assert_eq!(
            condition(&found, "Ready"),
            ("False".into(), Some("containers with unready status: [a]".into()))
        );
        assert_eq!(condition(&found, "Initialized").0, "True");
        assert_eq!(condition(&found, "PodReadyToStartContainers").0, "False");
    }

    #[test]
    fn a_running_pod_is_ready_unless_a_probe_or_gate_says_no() {
        let plain = serde_json::json!({"containers": [{"name": "a"}]});
        let memory = Memory { ips: vec!["10.2.0.5".into()], ..Memory::default() };
        let found = status(plain, &view(vec![running("a", 0)]), &memory);
        assert_eq!(found.phase.as_deref(), Some("Running"));
        assert_eq!(condition(&found, "Ready").0, "True");
        assert_eq!(found.pod_ip.as_deref(), Some("10.2.0.5"));
        let probed = serde_json::json!({"containers": [{"name": "a", "readinessProbe": {}}]});
        assert_eq!(condition(&status(probed, &view(vec![running("a", 0)]), &memory), "Ready").0, "False");
        let gated =
            serde_json::json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]});
        let found = status(gated, &view(vec![running("a", 0)]), &memory);
        assert_eq!(condition(&found, "ContainersReady").0, "True");
        assert_eq!(
            condition(&found, "Ready").1.unwrap(),
            "corresponding condition of pod readiness gate \"x/y\" does not exist."
        );
    }

    #[test]
    fn phases_follow_policy_and_exit_codes() {
        for (policy, containers, expected) in [
            ("Always", vec![exited("a", 0, 1, 99)], "Running"),
            ("Never", vec![exited("a", 0, 1, 99)], "Failed"),
            ("Never", vec![exited("a", 0, 0, 99)], "Succeeded"),
            ("OnFailure", vec![exited("a", 0, 0, 99)], "Succeeded"),
            ("OnFailure", vec![exited("a", 0, 2, 99)], "Running"),
            ("Never", vec![], "Pending"),
        ] {
            let spec = serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
            let found = status(spec, &view(containers), &Memory::default());
            assert_eq!(found.phase.as_deref(), Some(expected), "{policy}");
        }
    }

    #[test]
    fn a_pod_fails_only_when_its_container_shows_how() {
        let spec = |policy: &str| serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
        let starting = Memory { starting: Some("a".into()), ..Memory::default() };
        // The process is gone before the agent knows that it was started.
        let found = status(spec("Never"), &view(vec![exited("a", 0, 128, 99)]), &starting);
        assert_eq!(found.phase.as_deref(), Some("Pending"));
        let one = &found.container_statuses.as_ref().unwrap()[0];
        assert!(one.state.as_ref().unwrap().waiting.is_some());
        assert_eq!(one.last_state.as_ref().and_then(|state| state.terminated.as_ref()), None);
        let found = status(spec("Never"), &view(vec![exited("a", 0, 128, 99)]), &Memory::default());
        assert_eq!(found.phase.as_deref(), Some("Failed"));
        assert!(terminated(&found.container_statuses.unwrap()[0]).is_some());
        // It could not be started: it has ended all the same.
        let mut refused = Memory::default();
        refused.container("a").failure =
            Some(Waiting { reason: "RunContainerError".into(), message: "no such file".into() });
        let found = status(spec("Never"), &view(vec![exited("a", 0, 128, 99)]), &refused);
        assert_eq!(found.phase.as_deref(), Some("Failed"));
        assert!(terminated(&found.container_statuses.unwrap()[0]).is_some());
        // What is started again shows how it ended the last time.
        let found = status(spec("Always"), &view(vec![exited("a", 0, 1, 99)]), &starting);
        assert_eq!(found.phase.as_deref(), Some("Running"));
        assert!(found.container_statuses.unwrap()[0].last_state.as_ref().unwrap().terminated.is_some());
    }

    #[test]
    fn init_containers_hold_the_pod_pending() {
        let spec = serde_json::json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
        let found = status(spec.clone(), &view(vec![running("i", 0)]), &Memory::default());
        assert_eq!(found.phase.as_deref(), Some("Pending"));
        assert_eq!(
            condition(&found, "Initialized").1.as_deref(),
            Some("containers with incomplete status: [i]")
        );
        let state = found.container_statuses.unwrap()[0].state.clone().unwrap();
        assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("PodInitializing"));
        let found = status(spec, &view(vec![exited("i", 0, 0, 5), running("a", 0)]), &Memory::default());
        assert_eq!(found.phase.as_deref(), Some("Running"));
        assert!(found.init_container_statuses.unwrap()[0].ready);
    }

    #[test]
    fn a_crash_loop_shows_its_wait_and_its_last_end() {
        let mut memory = Memory::default();
        memory.container("a").restarts.next(at(80), at(80));
        let spec = serde_json::json!({"containers": [{"name": "a"}]});
        let found = status(spec, &view(vec![exited("a", 3, 7, 95)]), &memory);
        let one = &found.container_statuses.as_ref().unwrap()[0];
        assert_eq!(one.restart_count, 3);
        assert_eq!(
            one.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
            Some("CrashLoopBackOff")
        );
        assert_eq!(one.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 7);
        assert_eq!(found.phase.as_deref(), Some("Running"));
    }

    #[test]
    fn steps_of_a_start_are_told_later_and_results_now() {
        let spec = serde_json::json!({"containers": [{"name": "a"}]});
        let none = PodStatus::default();
        let creating = status(spec.clone(), &View::default(), &Memory::default());
        let addressed = Memory { ips: vec!["10.2.0.5".into()], ..Memory::default() };
        let with_sandbox = status(spec.clone(), &view(vec![]), &addressed);
        let mut failing = addressed.clone();
        failing.container("a").failure = Some(Waiting { reason: "ErrImagePull".into(), message: "x".into() });
        let failed = status(spec.clone(), &view(vec![]), &failing);
        let running = status(spec, &view(vec![running("a", 0)]), &addressed);
        let mut newer = running.clone();
        newer.observed_generation = Some(2);
        for (old, new, deleted, expected) in [
            (&none, &creating, false, Weight::Now),
            (&creating, &with_sandbox, false, Weight::Later),
            (&with_sandbox, &failed, false, Weight::Now),
            (&with_sandbox, &running, false, Weight::Now),
            (&running, &newer, false, Weight::Now),
            (&running, &newer, true, Weight::Never),
        ] {
            assert_eq!(weigh(old, new, deleted), expected);
        }
    }

    #[test]
    fn how_a_container_ended_is_kept_when_the_runtime_has_forgotten_it() {
        let spec = serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
        let mut over = pod(spec.clone());
        over.status = Some(status(spec, &view(vec![exited("a", 0, 3, 99)]), &Memory::default()));
        let found = generate(&Inputs {
            pod: &over,
            view: &View::default(),
            memory: &Memory::default(),
            waiting: &BTreeMap::new(),
            host_ip: "172.17.4.201",
            ended: true,
            now: at(200),
        });
        assert_eq!(found.phase.as_deref(), Some("Failed"));
        assert_eq!(found.container_statuses, over.status.unwrap().container_statuses);
    }

    #[test]
    fn a_patch_holds_only_what_changed() {
        let spec = serde_json::json!({"containers": [{"name": "a"}]});
        let old = status(spec.clone(), &view(vec![]), &Memory::default());
        assert_eq!(patch("u", &old, &old), None);
        let new = status(spec, &view(vec![running("a", 0)]), &Memory::default());
        let found = patch("u", &old, &new).unwrap();
        let fields: Vec<&String> = found["status"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["conditions", "containerStatuses", "phase"]);
        let types: Vec<&str> = found["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["Ready", "ContainersReady"]);
    }
}
