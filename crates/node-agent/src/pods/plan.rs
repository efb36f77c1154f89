//! What to do next for a pod. Pure: the same knowledge gives the same plan.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{ContainerState, ContainerStatus};

use super::model::{Memory, View, Waiting, ephemeral, is_sidecar, spec};

/// What to do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Make a sandbox first.
    pub(crate) create_sandbox: bool,
    /// Nothing runs any more and nothing will: take the sandbox down.
    pub(crate) stop_sandbox: bool,
    /// The container to start next.
    pub(crate) start: Option<Start>,
    /// Containers to stop.
    pub(crate) kill: Vec<Kill>,
    /// Why containers that could be started are not.
    pub(crate) waiting: BTreeMap<String, Waiting>,
    /// When to plan again if nothing happens before.
    pub(crate) wake_at: Option<Timestamp>,
    /// The pod has ended: every container that matters is over for good.
    pub(crate) finished: bool,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    /// Its name.
    pub(crate) name: String,
    /// How often it was started before.
    pub(crate) attempt: u32,
    /// When its last run ended; the back-off counts from there.
    pub(crate) failed_at: Option<Timestamp>,
}

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// The text of the event.
    pub(crate) message: String,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

/// Returns what to do next for `pod`. `ending` says that it is to go: it is deleted, or has a verdict.
pub(crate) fn plan(pod: &Pod, view: &View, memory: &Memory, ending: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if ending {
        end(pod, view, memory, &mut plan);
        return plan;
    }
    let spec = spec(pod);
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    if over(pod, view) {
        plan.finished = true;
        end(pod, view, memory, &mut plan);
        return plan;
    }
    if !view.sandbox_ready() {
        // Containers of a sandbox that is gone are dead or must die; a new sandbox begins with the init containers.
        for one in view.running() {
            kill(&mut plan, memory, one, format!("Stopping container {}", one.name));
        }
        match memory.sandbox_retry_at {
            Some(at) if now < at => plan.wake(at),
            _ if plan.kill.is_empty() && memory.stopping.is_empty() => plan.create_sandbox = true,
            _ => {}
        }
        return plan;
    }
    let sandbox = view.sandbox.as_ref().map(|one| one.id.as_str()).unwrap_or_default();
    let current = |name: &str| view.latest(name).filter(|one| one.sandbox_id == sandbox);

    for one in spec.ephemeral_containers.iter().flatten().map(ephemeral) {
        if view.latest(&one.name).is_none() {
            consider(&mut plan, view, memory, &one, now);
        }
    }
    let mut initialized = true;
    // Once a main container was started in this sandbox the ordinary init containers are behind it, also
    // when their remains were collected.
    let begun = spec.containers.iter().any(|one| current(&one.name).is_some());
    for one in spec.init_containers.iter().flatten() {
        let found = current(&one.name);
        if is_sidecar(one) {
            match found.map(|status| status.state) {
                Some(ContainerState::Running) => {
                    let started = memory.starting.as_deref() != Some(one.name.as_str())
                        && memory.containers.get(&one.name).is_none_or(|known| known.started);
                    if !started && !begun {
                        initialized = false;
                    }
                }
                _ => {
                    consider(&mut plan, view, memory, one, now);
                    initialized = begun;
                }
            }
        } else if !begun {
            match found {
                Some(status) if status.state == ContainerState::Exited && status.exit_code == 0 => {}
                Some(status) if status.state == ContainerState::Running => initialized = false,
                Some(status)
                    if status.state == ContainerState::Exited
                        && policy == "Never"
                        && status.exit_code != 0 =>
                {
                    initialized = false;
                }
                _ => {
                    consider(&mut plan, view, memory, one, now);
                    initialized = false;
                }
            }
        }
        if !initialized {
            break;
        }
    }
    if initialized {
        for one in &spec.containers {
            match current(&one.name) {
                Some(status) if status.state == ContainerState::Running => {
                    if let Some(image) = one.image.as_deref()
                        && !status.image.is_empty()
                        && status.image != image
                    {
                        let message = format!("Container {} definition changed, will be restarted", one.name);
                        kill(&mut plan, memory, status, message);
                    }
                }
                Some(status)
                    if status.state == ContainerState::Exited && !restarts(policy, status.exit_code) => {}
                _ => consider(&mut plan, view, memory, one, now),
            }
        }
    }
    plan
}

/// Returns whether a container that ended with `code` is started again.
fn restarts(policy: &str, code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// Returns whether the pod has run to its end by itself.
fn over(pod: &Pod, view: &View) -> bool {
    let spec = spec(pod);
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let done = |name: &str| {
        view.latest(name)
            .is_some_and(|one| one.state == ContainerState::Exited && !restarts(policy, one.exit_code))
    };
    if policy == "Always" {
        return false;
    }
    let init_failed = policy == "Never"
        && spec.init_containers.iter().flatten().filter(|one| !is_sidecar(one)).any(|one| {
            view.latest(&one.name)
                .is_some_and(|last| last.state == ContainerState::Exited && last.exit_code != 0)
        });
    init_failed || spec.containers.iter().all(|one| done(&one.name))
}

/// Stops the main containers, then the sidecars in reverse order, then the sandbox.
fn end(pod: &Pod, view: &View, memory: &Memory, plan: &mut Plan) {
    let spec = spec(pod);
    let sidecars: Vec<&Container> =
        spec.init_containers.iter().flatten().filter(|one| is_sidecar(one)).collect();
    let is_side = |name: &str| sidecars.iter().any(|one| one.name == name);
    let mut main_alive = false;
    for one in view.running().filter(|one| !is_side(&one.name)) {
        main_alive = true;
        kill(plan, memory, one, format!("Stopping container {}", one.name));
    }
    if main_alive {
        return;
    }
    for sidecar in sidecars.iter().rev() {
        let alive: Vec<&ContainerStatus> = view.running().filter(|one| one.name == sidecar.name).collect();
        if !alive.is_empty() {
            for one in alive {
                kill(plan, memory, one, format!("Stopping container {}", one.name));
            }
            return;
        }
    }
    plan.stop_sandbox =
        view.running().next().is_none() && memory.stopping.is_empty() && memory.starting.is_none();
}

fn kill(plan: &mut Plan, memory: &Memory, status: &ContainerStatus, message: String) {
    if !memory.stopping.contains(&status.id) {
        plan.kill.push(Kill { id: status.id.clone(), name: status.name.clone(), message });
    }
}

/// Starts `container` unless another one is being started or it has to wait.
fn consider(plan: &mut Plan, view: &View, memory: &Memory, container: &Container, now: Timestamp) {
    let remembered = memory.containers.get(&container.name);
    let latest = view.latest(&container.name);
    if let Some(at) = remembered.and_then(|known| known.retry_at)
        && now < at
    {
        plan.wake(at);
        return;
    }
    let ended = latest.filter(|one| one.state == ContainerState::Exited);
    let failed_at = ended.and_then(|one| one.finished_at);
    if let (Some(known), Some(at)) = (remembered, failed_at)
        && let Some((until, delay)) = known.restarts.wait(at, now)
    {
        plan.wake(until);
        let pod = ended.map(|one| one.labels.clone()).unwrap_or_default();
        let label = |key: &str| pod.get(key).cloned().unwrap_or_default();
        plan.waiting.insert(
            container.name.clone(),
            Waiting {
                reason: "CrashLoopBackOff".into(),
                message: format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(delay),
                    container.name,
                    label(super::labels::POD_NAME),
                    label(super::labels::POD_NAMESPACE),
                    label(super::labels::POD_UID),
                ),
            },
        );
        return;
    }
    if plan.start.is_none() && memory.starting.is_none() {
        plan.start = Some(Start {
            name: container.name.clone(),
            attempt: latest.map_or(0, |one| one.attempt + 1),
            failed_at,
        });
    }
}

/// Returns a duration as Go prints it, for whole seconds: `10s`, `2m40s`, `5m0s`.
fn go_duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{at, exited, pod, running, view};
    use super::*;

    fn start(name: &str, attempt: u32) -> Option<Start> {
        Some(Start { name: name.into(), attempt, failed_at: None })
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_then_its_containers_one_by_one() {
        let pod = pod(serde_json::json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let memory = Memory::default();
        let first = plan(&pod, &View::default(), &memory, false, at(0));
        assert!(first.create_sandbox && first.start.is_none());
        let second = plan(&pod, &view(vec![]), &memory, false, at(0));
        assert_eq!(second.start, start("a", 0));
        let third = plan(&pod, &view(vec![running("a", 0)]), &memory, false, at(0));
        assert_eq!(third.start, start("b", 0));
        let busy = Memory { starting: Some("b".into()), ..Memory::default() };
        assert_eq!(plan(&pod, &view(vec![running("a", 0)]), &busy, false, at(0)), Plan::default());
    }

    #[test]
    fn init_containers_run_in_order_before_the_others() {
        let pod = pod(serde_json::json!({
            "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}],
            "containers": [{"name": "a"}]}));
        let memory = Memory::default();
        let next =
            |containers| plan(&pod, &view(containers), &memory, false, at(100)).start.map(|one| one.name);
        assert_eq!(next(vec![]).as_deref(), Some("i1"));
        assert_eq!(next(vec![running("i1", 0)]), None);
        assert_eq!(next(vec![exited("i1", 0, 0, 50)]).as_deref(), Some("side"));
        assert_eq!(next(vec![exited("i1", 0, 0, 50), running("side", 0)]).as_deref(), Some("i2"));
        assert_eq!(
            next(vec![exited("i1", 0, 0, 50), running("side", 0), exited("i2", 0, 0, 60)]).as_deref(),
            Some("a")
        );
        assert_eq!(next(vec![exited("i1", 0, 1, 50)]).as_deref(), Some("i1"), "a failed one is tried again");
        // A sidecar comes back although the main container runs.
        assert_eq!(
            next(vec![
                exited("i1", 0, 0, 1),
                exited("side", 0, 1, 60),
                exited("i2", 0, 0, 1),
                running("a", 0)
            ])
            .as_deref(),
            Some("side")
        );
    }

    #[test]
    fn restart_policies_decide_over_ended_containers() {
        for (policy, code, starts, finished) in [
            ("Always", 0, true, false),
            ("Always", 1, true, false),
            ("OnFailure", 0, false, true),
            ("OnFailure", 1, true, false),
            ("Never", 0, false, true),
            ("Never", 1, false, true),
        ] {
            let pod = pod(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let found = plan(&pod, &view(vec![exited("a", 0, code, 90)]), &Memory::default(), false, at(100));
            assert_eq!(found.start.is_some(), starts, "{policy} {code}");
            assert_eq!(found.finished, finished, "{policy} {code}");
            assert_eq!(found.stop_sandbox, finished, "{policy} {code}");
        }
    }

    #[test]
    fn a_crashing_container_waits() {
        let pod = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        let mut memory = Memory::default();
        memory.container("a").restarts.next(at(80), at(80));
        let found = plan(&pod, &view(vec![exited("a", 1, 1, 95)]), &memory, false, at(100));
        assert_eq!(found.start, None);
        assert_eq!(found.wake_at, Some(at(105)));
        assert_eq!(found.waiting["a"].message, "back-off 10s restarting failed container=a pod=p_ns(uid)");
        let later = plan(&pod, &view(vec![exited("a", 1, 1, 95)]), &memory, false, at(105));
        assert_eq!(later.start.map(|one| one.attempt), Some(2));
        assert_eq!(go_duration(Duration::from_secs(160)), "2m40s");
    }

    #[test]
    fn an_ending_pod_stops_its_containers_then_its_sidecars_then_the_sandbox() {
        let pod = pod(serde_json::json!({
            "initContainers": [{"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}));
        let memory = Memory::default();
        let kills = |found: &Plan| found.kill.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        let first = plan(&pod, &view(vec![running("side", 0), running("a", 0)]), &memory, true, at(0));
        assert_eq!((kills(&first), first.stop_sandbox), (vec!["a".to_owned()], false));
        let second = plan(&pod, &view(vec![running("side", 0), exited("a", 0, 0, 1)]), &memory, true, at(0));
        assert_eq!((kills(&second), second.stop_sandbox), (vec!["side".to_owned()], false));
        let third =
            plan(&pod, &view(vec![exited("side", 0, 0, 1), exited("a", 0, 0, 1)]), &memory, true, at(0));
        assert_eq!((kills(&third), third.stop_sandbox), (vec![], true));
    }
}
