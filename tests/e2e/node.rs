//! What a node gives its pods beyond the tutorial: terminals, loaded images, the way to the outside.

use crate::images::archive;
use crate::lab::{Lab, Ran};

const KUBECTL: &str = "newest";

fn shell(lab: &Lab, line: &str) -> Ran {
    lab.shell(KUBECTL, line)
}

#[test]
fn pods_have_terminals_and_loaded_images_and_reach_the_outside() {
    let outside = Lab::up("outside", "172.31.4", "");
    let lab = Lab::up("node", "172.30.4", "");
    lab.cluster(&["image", "load", archive("busybox").to_str().unwrap()]).ok();

    // The tag `latest` means that the image is pulled always; there is no registry that has this one.
    shell(&lab, "kubectl run box --image=busybox -- sleep 1000000").ok();
    shell(&lab, "kubectl wait --for=condition=Ready pod/box --timeout=30s").ok();
    let terminal = shell(&lab, "script -qec 'kubectl exec -it box -- busybox tty' /dev/null < /dev/null");
    assert!(terminal.ok().contains("/dev/pts/0"), "{}", terminal.text);

    // What a machine runs that shuts down. This one goes on, so that its agent starts the container again.
    lab.cluster(&["ssh", "w1", "--", "/opt/bin/node-agent", "--end-pods"]).ok();
    let restarted = "'--for=jsonpath={.status.containerStatuses[0].restartCount}=1'";
    shell(&lab, &format!("kubectl wait {restarted} pod/box --timeout=30s")).ok();

    // The other lab's machine plays the outside world: it has no route to pods, and sees who asks.
    let serve = "exec python3 -u -m http.server 8099 2>/tmp/asked";
    let mut server = outside.start(&["ssh", "w1", "--", "sh", "-c", serve]);
    let address = "http://172.31.4.201:8099/";
    lab.cluster(&["ssh", "w1", "--", "curl", "-sS", "--retry-connrefused", "--retry", "15", address]).ok();
    // Not by busybox: linked statically with glibc, its resolver crashes where the image has no libraries.
    lab.cluster(&["image", "load", archive("guestbook").to_str().unwrap()]).ok();
    shell(&lab, "kubectl run php --image=guestbook").ok();
    shell(&lab, "kubectl wait --for=condition=Ready pod/php --timeout=30s").ok();
    shell(&lab, &format!("kubectl exec php -- php8.2 -r 'exit(file_get_contents(\"{address}\") ? 0 : 1);'"))
        .ok();
    let asked = outside.cluster(&["ssh", "w1", "--", "cat", "/tmp/asked"]);
    let by_the_host = asked.ok().lines().filter(|line| line.starts_with("172.31.4.1 ")).count();
    assert_eq!(by_the_host, 2, "machine and pod come with the host's address:\n{}", asked.text);
    server.kill().unwrap();
    server.wait().unwrap();
}
