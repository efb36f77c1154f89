//! The Kubernetes 101/201 walk-through, every command, with the newest and the oldest kubectl.

use std::path::Path;

use crate::images::archive;
use crate::lab::Lab;
use crate::registry::Registry;
use crate::transcript;

const NEWEST: &str = "newest";
const OLDEST: &str = "oldest";

/// A lab that pulls nginx from a registry on the host through a mirror setting, with the rest loaded.
fn lab(name: &str, net: &str) -> (Lab, Registry) {
    let lab =
        Lab::up(name, net, &format!("registries:\n  mirrors:\n    docker.io: [\"http://{net}.1:5000\"]\n"));
    let registry = Registry::start(&format!("{net}.1:5000"));
    registry.push(&archive("nginx"), "library/nginx");
    for image in ["redis", "guestbook", "busybox"] {
        lab.cluster(&["image", "load", archive(image).to_str().unwrap()]).ok();
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for directory in ["tutorial", "guestbook"] {
        std::os::unix::fs::symlink(examples.join(directory), lab.path().join(directory)).unwrap();
    }
    (lab, registry)
}

#[test]
fn every_step_works_with_the_newest_and_the_oldest_kubectl() {
    let (lab, _registry) = lab("tutorial", "172.21.4");
    for version in [NEWEST, OLDEST] {
        for (name, text) in [
            ("101-pods", include_str!("transcripts/101-pods.txt")),
            ("201-controllers", include_str!("transcripts/201-controllers.txt")),
            ("services", include_str!("transcripts/services.txt")),
            ("deployments", include_str!("transcripts/deployments.txt")),
            ("guestbook", include_str!("transcripts/guestbook.txt")),
        ] {
            transcript::run(&lab, version, name, text);
        }
    }
}
