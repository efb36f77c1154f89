//! What the scheduler needs to know of a pod, parsed once for each version of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::Key;
use k8s_openapi::api::core::v1::{
    Container, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::quantity::{milli, units};

/// What a container without a request counts for when nodes are compared, so that it counts at all.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Thousandths of a CPU.
    pub(crate) milli_cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes.
    pub(crate) ephemeral: i64,
    /// Whole units of everything else.
    pub(crate) extended: BTreeMap<String, i64>,
}

type List = BTreeMap<String, Quantity>;

impl Resources {
    pub(crate) fn of(list: &List) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => resources.milli_cpu = milli(quantity),
                "memory" => resources.memory = units(quantity),
                "ephemeral-storage" => resources.ephemeral = units(quantity),
                "pods" => {}
                _ => {
                    resources.extended.insert(name.clone(), units(quantity));
                }
            }
        }
        resources
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Self) {
        self.each(other, i64::max);
    }

    fn each(&mut self, other: &Self, join: fn(i64, i64) -> i64) {
        self.milli_cpu = join(self.milli_cpu, other.milli_cpu);
        self.memory = join(self.memory, other.memory);
        self.ephemeral = join(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.extended {
            let sum = self.extended.entry(name.clone()).or_insert(0);
            *sum = join(*sum, *amount);
        }
    }
}

/// A port that a pod wants of its node: address, protocol, port.
pub(crate) type HostPort = (String, String, i32);

/// A term of pod (anti-)affinity with its selectors parsed.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    pub(crate) topology_key: String,
    selector: Option<Selector>,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
    pub(crate) weight: i64,
}

impl Term {
    fn new(term: &PodAffinityTerm, own_namespace: &str, weight: i64) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own_namespace.to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: term.label_selector.clone().and_then(parse_selector),
            namespaces,
            namespace_selector: term.namespace_selector.clone().and_then(parse_selector),
            weight,
        }
    }

    /// Tells whether the term speaks of `pod`; `namespace_labels` are those of the pod's namespace.
    pub(crate) fn matches(&self, pod: &PodInfo, namespace_labels: &BTreeMap<String, String>) -> bool {
        let in_namespace = self.namespaces.contains(&*pod.key.namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(namespace_labels));
        in_namespace && self.selector.as_ref().is_some_and(|selector| selector.matches(pod.labels()))
    }
}

/// A topology spread constraint with its selector parsed.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: i64,
    pub(crate) required: bool,
    pub(crate) selector: Selector,
    pub(crate) honor_affinity: bool,
    pub(crate) honor_taints: bool,
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Option<Self> {
        let mut selector = constraint.label_selector.clone()?;
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
            }
        }
        Some(Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            selector: parse_selector(selector)?,
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        })
    }
}

fn parse_selector(selector: LabelSelector) -> Option<Selector> {
    Selector::try_from(selector).ok()
}

/// A pod as the scheduler sees it.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) priority: i32,
    /// What it asks for.
    pub(crate) requests: Resources,
    /// CPU and memory that it counts for when nodes are compared.
    pub(crate) weight: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    /// The controller that made it.
    pub(crate) owner: Option<String>,
    pub(crate) required_affinity: Vec<Term>,
    pub(crate) required_anti_affinity: Vec<Term>,
    pub(crate) preferred_affinity: Vec<Term>,
    /// Anti-affinity terms carry negative weights here.
    pub(crate) spread: Vec<Spread>,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let key = Key::of(&*pod);
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        let labels = pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS);
        let owner = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone());
        let affinity = spec.affinity.as_ref();
        let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let against = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| {
            terms.into_iter().flatten().map(|term| Term::new(term, &key.namespace, 0)).collect()
        };
        let mut preferred_affinity = Vec::new();
        for (terms, sign) in [
            (with.and_then(|with| with.preferred_during_scheduling_ignored_during_execution.as_ref()), 1),
            (
                against.and_then(|against| {
                    against.preferred_during_scheduling_ignored_during_execution.as_ref()
                }),
                -1,
            ),
        ] {
            for weighted in terms.into_iter().flatten() {
                let weight = sign * i64::from(weighted.weight);
                preferred_affinity.push(Term::new(&weighted.pod_affinity_term, &key.namespace, weight));
            }
        }
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: requests(spec),
            weight: weight(spec),
            ports: host_ports(spec),
            owner,
            required_affinity: required(
                with.and_then(|with| with.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                against
                    .and_then(|against| against.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity,
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .filter_map(|constraint| Spread::new(constraint, labels))
                .collect(),
            key,
            pod,
        }
    }

    pub(crate) fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        self.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().tolerations.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

fn container_requests(container: &Container) -> Resources {
    container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
        .map(Resources::of)
        .unwrap_or_default()
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Sums the containers; an init container needs its share only while it runs, beside the sidecars before it.
fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of(container);
        if is_sidecar(container) {
            running.add(&needs);
            sidecars.add(&needs);
            needs = sidecars.clone();
        } else {
            needs.add(&sidecars);
        }
        starting.raise_to(&needs);
    }
    running.raise_to(&starting);
    running
}

fn requests(spec: &PodSpec) -> Resources {
    let mut sum = total(spec, container_requests);
    if let Some(list) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let whole = Resources::of(list);
        if list.contains_key("cpu") {
            sum.milli_cpu = whole.milli_cpu;
        }
        if list.contains_key("memory") {
            sum.memory = whole.memory;
        }
    }
    if let Some(overhead) = &spec.overhead {
        sum.add(&Resources::of(overhead));
    }
    sum
}

fn weight(spec: &PodSpec) -> (i64, i64) {
    let sum = total(spec, |container| {
        let mut needs = container_requests(container);
        let given = |name| {
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref())
                .is_some_and(|requests| requests.contains_key(name))
        };
        if !given("cpu") {
            needs.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !given("memory") {
            needs.memory = DEFAULT_MEMORY;
        }
        needs
    });
    let overhead = spec.overhead.as_ref().map(Resources::of).unwrap_or_default();
    (sum.milli_cpu.saturating_add(overhead.milli_cpu), sum.memory.saturating_add(overhead.memory))
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0".into());
            let protocol = port.protocol.clone().unwrap_or("TCP".into());
            Some((address, protocol, number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_add_up() {
        let info = pod(serde_json::json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "300m", "memory": "64Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "200m"}}},
            ],
            "overhead": {"cpu": "50m"},
        }));
        assert_eq!(info.requests.milli_cpu, 2150);
        assert_eq!(info.requests.memory, 1 << 30);
    }

    #[test]
    fn a_container_without_requests_still_weighs_something() {
        let info = pod(serde_json::json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        assert_eq!(info.requests, Resources::default());
        assert_eq!(info.weight, (200, 400 * 1024 * 1024));
    }
}
