//! A cluster that runs gets machines, loses machines, and gets another executable.

use std::io::Write;
use std::path::PathBuf;

use crate::lab::{Lab, Ran};

const NEWEST: &str = "newest";

fn kubectl(lab: &Lab, line: &str) -> Ran {
    lab.shell(NEWEST, &format!("kubectl {line}"))
}

/// Returns a copy of the executable under test that is another file to whoever compares them.
fn other_build(lab: &Lab) -> PathBuf {
    let copy = lab.path().join("other-build");
    std::fs::copy(env!("CARGO_BIN_EXE_cluster"), &copy).unwrap();
    std::fs::OpenOptions::new().append(true).open(&copy).unwrap().write_all(b"\n").unwrap();
    copy
}

#[test]
fn workers_come_and_go_while_the_cluster_runs() {
    let lab = Lab::up("nodes", "172.18.40", "workers: { count: 2 }\n");
    kubectl(&lab, "run bare --image=busybox --image-pull-policy=Never --overrides='{\"spec\":{\"nodeName\":\"172.18.40.201\"}}' -- sleep 1000").ok();
    let refused = lab.cluster(&["node", "remove", "w1"]);
    assert!(!refused.success && refused.text.contains("default/bare"), "{}", refused.text);
    let nodes = kubectl(&lab, "get nodes").ok().to_owned();
    assert!(
        !nodes.lines().any(|line| line.contains(".201") && line.contains("SchedulingDisabled")),
        "{nodes}"
    );

    // A node that the API calls unknown, as it does when a lease was late, says at once that it is there.
    let doubt =
        r#"{"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown"}]}}"#;
    kubectl(&lab, &format!("patch node 172.18.40.202 --subresource=status -p '{doubt}'")).ok();
    kubectl(&lab, "wait --for=condition=Ready node/172.18.40.202 --timeout=20s").ok();

    lab.cluster(&["node", "remove", "w1", "--force"]).ok();
    let nodes = kubectl(&lab, "get nodes -o name").ok().to_owned();
    assert!(!nodes.contains("172.18.40.201") && nodes.contains("172.18.40.202"), "{nodes}");
    let master = lab.cluster(&["node", "remove", "m1"]);
    assert!(!master.success && master.text.contains("m1 is a master"), "{}", master.text);

    // A place that was given up is not given to another machine: its name would lie.
    lab.cluster(&["node", "add"]).ok();
    kubectl(&lab, "wait --for=condition=Ready node/172.18.40.203 --timeout=60s").ok();
    let again = lab.cluster(&["up"]);
    assert!(again.ok().contains("nothing to do"), "{}", again.text);

    // What a command leaves that was killed after it had replaced files and before units ran them.
    let agent = || lab.cluster(&["ssh", "w2", "--", "pidof", "-s", "node-agent"]).ok().trim().to_owned();
    let before = agent();
    std::fs::write(lab.path().join("state/nodes/unfinished"), "").unwrap();
    lab.cluster(&["up"]).ok();
    assert_ne!(agent(), before, "units are started anew");
    let again = lab.cluster(&["up"]);
    assert!(again.ok().contains("nothing to do"), "{}", again.text);
}

#[test]
fn an_upgrade_goes_from_node_to_node_and_is_taken_back_where_it_fails() {
    let lab = Lab::up("upgrade", "172.18.41", "");
    let same = lab.cluster(&["upgrade"]);
    assert!(same.ok().contains("every machine has this version"), "{}", same.text);

    let other = other_build(&lab);
    let other = other.to_str().unwrap();
    kubectl(&lab, "create configmap before --from-literal=a=b").ok();
    let upgraded = lab.cluster(&["upgrade", "--node-executable", other]);
    assert!(upgraded.ok().contains("2 machines of 2 upgraded"), "{}", upgraded.text);
    kubectl(&lab, "get configmap before").ok();
    let nodes = kubectl(&lab, "get nodes").ok().to_owned();
    let worker = nodes.lines().find(|line| line.contains(".201")).unwrap();
    assert!(worker.contains(" Ready ") && !worker.contains("SchedulingDisabled"), "{nodes}");

    // A program for this processor that is no node agent at all.
    let broken = lab.cluster(&["upgrade", "--node-executable", "/bin/false", "--wait", "60"]);
    assert!(!broken.success, "{}", broken.text);
    assert!(
        broken.text.contains("m1 did not come up with the new version and has the old one again"),
        "{}",
        broken.text
    );
    lab.cluster(&["status"]).ok();
    kubectl(&lab, "wait --for=condition=Ready node --all --timeout=60s").ok();
    kubectl(&lab, "get configmap before").ok();

    let script = lab.path().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0 # long enough to have a header\n").unwrap();
    let refused = lab.cluster(&["upgrade", "--node-executable", script.to_str().unwrap()]);
    assert!(!refused.success && refused.text.contains("no ELF file"), "{}", refused.text);
}
