//! From requests and limits to quality of service, control groups and their limits. Pure.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use runtime::Resources;

use crate::quantity::{List, milli_of, whole_of};

/// The CPU scheduler's period, microseconds.
const PERIOD: i64 = 100_000;

/// How a pod is treated when resources are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    /// Every container has limits equal to its requests.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// Returns the API's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Returns a pod's quality of service.
pub(crate) fn class(spec: &PodSpec) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in all {
        let empty = ResourceRequirements::default();
        let resources = container.resources.as_ref().unwrap_or(&empty);
        for name in ["cpu", "memory"] {
            let request = milli_of(resources.requests.as_ref(), name).filter(|amount| *amount > 0);
            let limit = milli_of(resources.limits.as_ref(), name).filter(|amount| *amount > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &=
                limit.is_some() && request.unwrap_or_else(|| limit.unwrap_or(0)) == limit.unwrap_or(0);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// Returns the pod's control group, below the one that the engine was given as its root.
pub(crate) fn cgroup_parent(qos: Qos, uid: &str) -> String {
    match qos {
        Qos::Guaranteed => format!("/pod{uid}"),
        Qos::Burstable => format!("/burstable/pod{uid}"),
        Qos::BestEffort => format!("/besteffort/pod{uid}"),
    }
}

fn request_or_limit(
    resources: Option<&ResourceRequirements>,
    name: &str,
    read: fn(Option<&List>, &str) -> Option<i64>,
) -> i64 {
    let Some(resources) = resources else { return 0 };
    read(resources.requests.as_ref(), name).or_else(|| read(resources.limits.as_ref(), name)).unwrap_or(0)
}

fn shares(milli_cpu: i64) -> u64 {
    u64::try_from(milli_cpu.saturating_mul(1024) / 1000).unwrap_or(2).clamp(2, 262_144)
}

fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu.saturating_mul(PERIOD) / 1000).max(1000) }
}

/// Returns a container's limits. `machine_memory` is the node's, in bytes.
pub(crate) fn container(spec: &PodSpec, container: &Container, machine_memory: i64) -> Resources {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    Resources {
        cpu_shares: shares(request_or_limit(container.resources.as_ref(), "cpu", milli_of)),
        cpu_quota: quota(milli_of(limits, "cpu").unwrap_or(0)),
        cpu_period: PERIOD.unsigned_abs(),
        memory_limit: whole_of(limits, "memory").unwrap_or(0).max(0),
        oom_score_adj: oom_score(spec, container, machine_memory),
        pids_limit: 0,
    }
}

/// Returns the limits of the pod as a whole: the sum of its containers', unlimited when one has none.
pub(crate) fn pod(spec: &PodSpec) -> Resources {
    let sum = |name: &str, read: fn(Option<&List>, &str) -> Option<i64>| -> (i64, bool) {
        let mut total = 0i64;
        let mut all = true;
        for one in &spec.containers {
            let limit = read(one.resources.as_ref().and_then(|r| r.limits.as_ref()), name).unwrap_or(0);
            all &= limit > 0;
            total = total.saturating_add(limit);
        }
        let mut largest = 0;
        for one in spec.init_containers.iter().flatten() {
            let limit = read(one.resources.as_ref().and_then(|r| r.limits.as_ref()), name).unwrap_or(0);
            all &= limit > 0;
            if one.restart_policy.as_deref() == Some("Always") {
                total = total.saturating_add(limit);
            } else {
                largest = largest.max(limit);
            }
        }
        (total.max(largest), all)
    };
    let (cpu, cpu_limited) = sum("cpu", milli_of);
    let (memory, memory_limited) = sum("memory", whole_of);
    let requested: i64 =
        spec.containers.iter().map(|one| request_or_limit(one.resources.as_ref(), "cpu", milli_of)).sum();
    Resources {
        cpu_shares: shares(requested),
        cpu_quota: if cpu_limited { quota(cpu) } else { 0 },
        cpu_period: PERIOD.unsigned_abs(),
        memory_limit: if memory_limited { memory } else { 0 },
        oom_score_adj: 0,
        pids_limit: 0,
    }
}

fn oom_score(spec: &PodSpec, container: &Container, machine_memory: i64) -> i32 {
    if spec.priority.is_some_and(|priority| priority >= 2_000_000_000) {
        return -997;
    }
    match class(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request_or_limit(container.resources.as_ref(), "memory", whole_of);
            let score = 1000 - (1000i128 * i128::from(request)) / i128::from(machine_memory.max(1));
            // Below a guaranteed container's score it must not fall, nor equal a best-effort one's.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resources: serde_json::Value) -> PodSpec {
        serde_json::from_value(serde_json::json!({"containers": [{"name": "c", "resources": resources}]}))
            .unwrap()
    }

    #[test]
    fn the_quality_of_service_follows_requests_and_limits() {
        let both = serde_json::json!({"cpu": "1", "memory": "1Gi"});
        for (resources, expected) in [
            (serde_json::json!({}), Qos::BestEffort),
            (serde_json::json!({"limits": both, "requests": both}), Qos::Guaranteed),
            (serde_json::json!({"limits": both}), Qos::Guaranteed),
            (serde_json::json!({"requests": both}), Qos::Burstable),
            (serde_json::json!({"limits": {"cpu": "1"}}), Qos::Burstable),
            (
                serde_json::json!({"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}}),
                Qos::Burstable,
            ),
        ] {
            assert_eq!(class(&spec(resources.clone())), expected, "{resources}");
        }
    }

    #[test]
    fn limits_become_shares_quota_and_bytes() {
        let spec = spec(serde_json::json!({
            "requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}
        }));
        let found = container(&spec, &spec.containers[0], 1 << 30);
        assert_eq!((found.cpu_shares, found.cpu_quota, found.memory_limit), (256, 50_000, 128 << 20));
        assert_eq!(found.oom_score_adj, 1000 - 62);
        assert_eq!(pod(&spec).memory_limit, 128 << 20);
    }

    #[test]
    fn a_pod_group_sits_below_its_class() {
        assert_eq!(cgroup_parent(Qos::BestEffort, "u"), "/besteffort/podu");
        assert_eq!(cgroup_parent(Qos::Guaranteed, "u"), "/podu");
    }
}
