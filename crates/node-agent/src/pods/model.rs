//! What the agent knows of one pod: what the runtime has, and what it remembers itself. Plain data that the
//! decisions in `plan` and `status` read; only the pod's own task writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use runtime::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};

/// The wait before the second restart of a container, and after the first failed pull.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// The longest wait.
const MOST_BACKOFF: Duration = Duration::from_secs(300);

/// What the runtime has for one pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The newest sandbox.
    pub(crate) sandbox: Option<SandboxStatus>,
    /// Every container of the pod, of any sandbox and any attempt.
    pub(crate) containers: Vec<ContainerStatus>,
}

impl View {
    /// Returns whether there is a sandbox that containers can be started in.
    pub(crate) fn sandbox_ready(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.state == SandboxState::Ready)
    }

    /// Returns the newest attempt of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.attempts(name).max_by_key(|one| (one.attempt, one.created_at))
    }

    /// Returns the attempt before the newest one.
    pub(crate) fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        let latest = self.latest(name)?;
        self.attempts(name).filter(|one| one.id != latest.id).max_by_key(|one| (one.attempt, one.created_at))
    }

    /// Returns every attempt of a container.
    pub(crate) fn attempts(&self, name: &str) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(move |one| one.name == name)
    }

    /// Returns the containers that have a process.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|one| one.state == ContainerState::Running)
    }

    /// Puts in what the runtime says of one container.
    pub(crate) fn put(&mut self, status: ContainerStatus) {
        match self.containers.iter_mut().find(|one| one.id == status.id) {
            Some(known) => *known = status,
            None => self.containers.push(status),
        }
    }
}

/// A wait that doubles with each failure, and is forgotten after a good while.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    delay: Duration,
    updated: Option<Timestamp>,
}

impl Backoff {
    /// Returns until when, and how long in all, to wait after a failure at `failed_at`.
    pub(crate) fn wait(&self, failed_at: Timestamp, now: Timestamp) -> Option<(Timestamp, Duration)> {
        let updated = self.updated?;
        if expired(failed_at, updated) {
            return None;
        }
        let until = failed_at + self.delay;
        (now < until).then_some((until, self.delay))
    }

    /// Notes that a new attempt is made now, after a failure at `failed_at`.
    pub(crate) fn next(&mut self, failed_at: Timestamp, now: Timestamp) {
        self.delay = match self.updated {
            Some(updated) if !expired(failed_at, updated) => (self.delay * 2).min(MOST_BACKOFF),
            _ => FIRST_BACKOFF,
        };
        self.updated = Some(now);
    }
}

/// After twice the longest wait without a failure the count begins anew.
fn expired(failed_at: Timestamp, updated: Timestamp) -> bool {
    failed_at > updated && failed_at.duration_since(updated).unsigned_abs() > MOST_BACKOFF * 2
}

/// Why a container is waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// One word, such as `CrashLoopBackOff`.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

/// What the agent remembers of one container.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerMemory {
    /// Why the last start failed, until one succeeds.
    pub(crate) failure: Option<Waiting>,
    /// When the next start may be tried after a failed one.
    pub(crate) retry_at: Option<Timestamp>,
    /// The waits between restarts.
    pub(crate) restarts: Backoff,
    /// The waits between pulls of its image.
    pub(crate) pulls: Backoff,
    /// When the image was last tried in vain.
    pub(crate) pull_failed_at: Option<Timestamp>,
    /// The container id that the probe results below are of.
    pub(crate) probed: String,
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe says so, or there is none.
    pub(crate) ready: bool,
}

/// How a pod ends that the agent itself ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// One word, such as `DeadlineExceeded`.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

/// What the agent remembers of one pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// By container name.
    pub(crate) containers: BTreeMap<String, ContainerMemory>,
    /// The container that is being started now, until its postStart hook has returned.
    pub(crate) starting: Option<String>,
    /// Ids of the containers that are being stopped.
    pub(crate) stopping: BTreeSet<String>,
    /// What ended containers left to say, by container id.
    pub(crate) messages: BTreeMap<String, String>,
    /// The pod was seen first.
    pub(crate) start_time: Option<Timestamp>,
    /// The agent has decided that the pod has failed.
    pub(crate) verdict: Option<Verdict>,
    /// The pod's addresses; they outlive the sandbox.
    pub(crate) ips: Vec<String>,
    /// The sandbox could not be made before this moment.
    pub(crate) sandbox_retry_at: Option<Timestamp>,
    /// How many sandboxes were made.
    pub(crate) sandbox_attempts: u32,
}

impl Memory {
    /// Returns what is remembered of a container.
    pub(crate) fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }
}

/// Returns whether an init container keeps running beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Returns the pod's specification; an empty one when there is none.
pub(crate) fn spec(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(|| std::borrow::Cow::Owned(PodSpec::default()), std::borrow::Cow::Borrowed)
}

/// Returns an ephemeral container in the shape of the others.
pub(crate) fn ephemeral(container: &EphemeralContainer) -> Container {
    let one = container.clone();
    Container {
        args: one.args,
        command: one.command,
        env: one.env,
        env_from: one.env_from,
        image: one.image,
        image_pull_policy: one.image_pull_policy,
        name: one.name,
        resources: one.resources,
        security_context: one.security_context,
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        termination_message_path: one.termination_message_path,
        termination_message_policy: one.termination_message_policy,
        tty: one.tty,
        volume_mounts: one.volume_mounts,
        working_dir: one.working_dir,
        ..Container::default()
    }
}

/// Returns the container of this name, of any sort.
pub(crate) fn find_container(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|one| one.name == name)
        .cloned()
        .or_else(|| spec.ephemeral_containers.iter().flatten().find(|one| one.name == name).map(ephemeral))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_each_time_and_begin_anew_after_a_good_run() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait(at(100), at(100)), None);
        backoff.next(at(100), at(100));
        assert_eq!(backoff.wait(at(101), at(102)), Some((at(111), Duration::from_secs(10))));
        assert_eq!(backoff.wait(at(101), at(111)), None);
        backoff.next(at(101), at(111));
        assert_eq!(backoff.wait(at(112), at(112)), Some((at(132), Duration::from_secs(20))));
        for _ in 0..10 {
            backoff.next(at(112), at(112));
        }
        assert_eq!(backoff.wait(at(112), at(112)), Some((at(412), Duration::from_secs(300))));
        assert_eq!(backoff.wait(at(1000), at(1000)), None);
        backoff.next(at(1000), at(1000));
        assert_eq!(backoff.wait(at(1001), at(1001)), Some((at(1011), Duration::from_secs(10))));
    }
}
