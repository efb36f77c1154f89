//! Up, down, and `kill -9` at bad moments.

use std::time::Duration;

use crate::images::archive;
use crate::lab::{Lab, Ran};
use crate::machine::{inventory, kill_nine, processes, same_machine};

const KUBECTL: &str = "newest";

/// A small source of moments. `E2E_SEED` repeats the run that printed it.
struct Moments(u64);

impl Moments {
    #[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a failed run must be repeatable")]
    fn new() -> Self {
        let seed = std::env::var("E2E_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_secs())
        });
        println!("E2E_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[expect(clippy::disallowed_methods, reason = "the moment of a kill is a moment in time")]
fn pass(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn kubectl(lab: &Lab, line: &str) -> Ran {
    lab.shell(KUBECTL, &format!("kubectl {line}"))
}

#[test]
fn up_and_down_twenty_times_leaves_the_machine_as_it_was() {
    let before = inventory();
    let lab = Lab::prepare("leaks", "172.22.4", "");
    for _ in 0..20 {
        lab.cluster(&["up"]).ok();
        lab.down().ok();
        same_machine(&before);
    }
    assert!(!lab.path().join("state/leaks").exists(), "the state directory is gone");
}

#[test]
fn up_twice_changes_nothing() {
    let lab = Lab::up("twice", "172.23.4", "");
    let pids = (processes("twice", "control-plane"), processes("twice", "node-agent"));
    assert_eq!((pids.0.len(), pids.1.len()), (1, 2));
    let text = lab.cluster(&["up"]).ok().to_owned();
    assert_eq!(pids, (processes("twice", "control-plane"), processes("twice", "node-agent")), "{text}");
}

#[test]
fn a_second_cluster_runs_beside_the_first() {
    let one = Lab::up("one", "172.24.4", "");
    let two = Lab::up("two", "172.25.4", "");
    for lab in [&one, &two] {
        let nodes = kubectl(lab, "get nodes --no-headers");
        assert_eq!(nodes.ok().lines().count(), 2, "{}", nodes.text);
    }
    one.down().ok();
    kubectl(&two, "get nodes").ok();
}

#[test]
fn up_killed_at_any_moment_is_continued_or_taken_down() {
    let before = inventory();
    let lab = Lab::prepare("killed", "172.26.4", "");
    let mut moments = Moments::new();
    for round in 0..20 {
        let mut up = lab.start(&["up"]);
        pass(moments.below(1500));
        up.kill().unwrap();
        up.wait().unwrap();
        if round % 2 == 0 {
            lab.cluster(&["up"]).ok();
            let nodes = kubectl(&lab, "get nodes --no-headers");
            assert_eq!(nodes.ok().lines().count(), 2, "{}", nodes.text);
        }
        lab.down().ok();
        same_machine(&before);
    }
}

#[test]
fn parts_killed_fifty_times_come_back_and_lose_nothing() {
    let before = inventory();
    let lab = Lab::up("parts", "172.28.4", "");
    lab.cluster(&["image", "load", archive("busybox").to_str().unwrap()]).ok();
    let run = "run steady --image=busybox --image-pull-policy=IfNotPresent --restart=Always -- sleep 1000000";
    kubectl(&lab, run).ok();
    kubectl(&lab, "wait --for=condition=Ready pod/steady --timeout=30s").ok();
    let container = || {
        kubectl(&lab, "get pod steady -o jsonpath={.status.containerStatuses[0].containerID}").ok().to_owned()
    };
    let started = container();
    let mut moments = Moments::new();
    let mut made = Vec::new();
    for round in 0..50 {
        let name = format!("note-{round}");
        if kubectl(&lab, &format!("create configmap {name} --from-literal=round={round}")).success {
            made.push(name);
        }
        let healer = (moments.below(4) == 0).then(|| lab.start(&["up"]));
        let program = if moments.below(2) == 0 { "control-plane" } else { "node-agent" };
        for pid in processes("parts", program) {
            kill_nine(pid);
        }
        pass(moments.below(400));
        if let Some(mut up) = healer {
            up.kill().unwrap();
            up.wait().unwrap();
        }
    }
    lab.cluster(&["up"]).ok();
    let names = kubectl(&lab, "get configmaps -o name").ok().to_owned();
    for name in &made {
        assert!(
            names.lines().any(|line| line == format!("configmap/{name}")),
            "{name} was acknowledged and is gone"
        );
    }
    assert!(!made.is_empty(), "some writes were acknowledged");
    kubectl(&lab, "wait --for=condition=Ready pod/steady --timeout=30s").ok();
    assert_eq!(started, container(), "the container went on running while its agent died");
    lab.down().ok();
    same_machine(&before);
}
