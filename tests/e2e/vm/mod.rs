//! Virtual machines that really boot: the test image, the real Ignition, real SSH, under software emulation where
//! there is no KVM. By QEMU alone, and by Vagrant with libvirt.

mod fixture;
mod libvirt;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::images::archive;
use crate::lab::{Lab, Ran};
use crate::machine::{emulators, inventory, kill_nine, same_machine};
use crate::registry::Registry;
use crate::transcript;

const KUBECTL: &str = "newest";
/// How long a step may take where a processor is emulated and shared.
const PATIENCE: Duration = Duration::from_secs(240);

fn kubectl(lab: &Lab, line: &str) -> Ran {
    lab.shell(KUBECTL, &format!("kubectl {line}"))
}

/// A lab of one master and one worker that is not up yet, the executable for its machines, and stopwatches.
struct Machines {
    lab: Lab,
    executable: String,
}

impl Machines {
    fn prepare(name: &str, net: &str, extra: &str) -> Self {
        let extra = format!(
            "runtime: builtin\nregistries:\n  mirrors:\n    docker.io: [\"http://{net}.1:5000\"]\n{extra}"
        );
        let mut lab = Lab::prepare(name, net, &extra);
        lab.patience = PATIENCE;
        let executable = fixture::executable(lab.path());
        for directory in ["tutorial", "guestbook"] {
            let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(directory);
            std::os::unix::fs::symlink(examples, lab.path().join(directory)).unwrap();
        }
        Self { lab, executable }
    }

    fn up(&self, what: &str) -> String {
        let started = Instant::now();
        let up = self.lab.cluster(&["up", "--node-executable", &self.executable]);
        let text = up.ok().to_owned();
        took(what, started);
        text
    }

    fn verify(&self) {
        let started = Instant::now();
        self.lab.cluster(&["verify", "--wait", &PATIENCE.as_secs().to_string()]).ok();
        took("verify", started);
    }

    /// Leaves something behind that every life of these machines must still have.
    fn keep_something(&self) {
        self.lab.cluster(&["image", "load", archive("busybox").to_str().unwrap()]).ok();
        kubectl(&self.lab, "create configmap kept --from-literal=word=kept").ok();
        kubectl(&self.lab, "create deployment kept --image=busybox -- sleep 1000000").ok();
        self.still_there();
    }

    /// Both nodes are Ready under their addresses, and what was kept is there and runs.
    fn still_there(&self) {
        let net = &self.lab.net;
        let seconds = PATIENCE.as_secs();
        kubectl(
            &self.lab,
            &format!("wait --for=condition=Ready node/{net}.101 node/{net}.201 --timeout={seconds}s"),
        )
        .ok();
        let word = kubectl(&self.lab, "get configmap kept -o jsonpath={.data.word}");
        assert_eq!(word.ok(), "kept");
        kubectl(&self.lab, &format!("rollout status deployment/kept --timeout={seconds}s")).ok();
        let addresses = self.lab.cluster(&["ssh", "w1", "--", "hostname"]);
        assert_eq!(addresses.ok().trim(), "w1");
    }

    fn tutorial(&self, transcripts: &[(&str, &str)]) {
        let started = Instant::now();
        let registry = Registry::start(&format!("{}.1:5000", self.lab.net));
        registry.push(&archive("nginx"), "library/nginx");
        for (name, text) in transcripts {
            transcript::run(&self.lab, KUBECTL, name, text);
        }
        took("the tutorial", started);
    }

    fn halt(&self) {
        let started = Instant::now();
        self.lab.cluster(&["down", "--keep"]).ok();
        took("down --keep", started);
    }
}

/// What CI shows: how long the parts took.
#[expect(clippy::print_stdout, reason = "the times are a result")]
fn took(what: &str, since: Instant) {
    println!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}

#[test]
#[ignore = "boots machines for a quarter of an hour under software emulation: tests/run --vm"]
fn qemu_boots_a_cluster_that_survives_halts_and_power_cuts() {
    let image = fixture::image("coreos.qcow2");
    let before = inventory();
    let spec = format!("provider: qemu\nos: {{ flavor: flatcar, image: \"{image}\" }}\n");
    let machines = Machines::prepare("vmq", "172.18.60", &spec);
    machines.up("up from nothing");
    machines.tutorial(&[
        ("101-pods", include_str!("../transcripts/101-pods.txt")),
        ("201-controllers", include_str!("../transcripts/201-controllers.txt")),
        ("services", include_str!("../transcripts/services.txt")),
        ("vm-deployment", include_str!("../transcripts/vm-deployment.txt")),
    ]);
    machines.verify();
    machines.keep_something();
    let again = machines.up("up with nothing to do");
    assert!(again.contains("nothing to do"), "{again}");

    machines.halt();
    assert!(emulators("guest=vmq-").is_empty(), "halted machines have no process");
    machines.up("up after a halt");
    machines.still_there();

    // The cable is pulled out of both at once: nothing was written for it.
    for machine in ["vmq-m1", "vmq-w1"] {
        let running = emulators(&format!("guest={machine}"));
        assert_eq!(running.len(), 1, "{machine} runs once");
        running.into_iter().for_each(kill_nine);
    }
    machines.up("up after a power cut");
    machines.still_there();

    let started = Instant::now();
    machines.lab.down().ok();
    took("down", started);
    same_machine(&before);
    assert!(!machines.lab.path().join("state/vmq").exists(), "the state directory is gone");
}

#[test]
#[ignore = "boots machines for a quarter of an hour under software emulation: tests/run --vm"]
fn vagrant_with_libvirt_boots_the_same_cluster() {
    let image = fixture::image("coreos.box");
    let libvirt = libvirt::Libvirt::start();
    let before = libvirt.inventory();
    let spec = format!(
        "provider: vagrant\nos: {{ flavor: flatcar, box: coreos-test, boxUrl: \"file://{image}\" }}\n"
    );
    let machines = Machines::prepare("vmv", "172.18.61", &spec);
    machines.up("up from nothing");
    machines.tutorial(&[("101-pods", include_str!("../transcripts/101-pods.txt"))]);
    machines.verify();
    machines.keep_something();

    machines.halt();
    machines.up("up after a halt");
    machines.still_there();

    let started = Instant::now();
    machines.lab.down().ok();
    took("down", started);
    let after = libvirt.inventory();
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind:\n{left:#?}");
}
