//! Machines on a network of their own: taps in a bridge, and the segment that needs no root.

use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use qemu::{Card, Link, Mac, Machine, destroy, tap};

use crate::kit::{Guard, Lab, console_until, start};

/// Moves this thread into a network namespace of its own, with a bridge at 172.32.4.1/24.
fn own_network() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes a network namespace: run it as root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    ip("link add vmbr0 type bridge");
    ip("addr add 172.32.4.1/24 dev vmbr0");
    ip("link set vmbr0 up");
}

fn ip(arguments: &str) {
    // By way of this thread, whose network namespace is not the process's.
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn interfaces() -> Vec<String> {
    // /sys shows the namespace in which it was mounted; this file the one of the thread that opens it.
    let file = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    file.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned()).collect()
}

fn on_tap(number: u8) -> Card {
    Card {
        mac: Mac([0x52, 0x54, 0, 0x20, 4, number]),
        link: Link::Tap { name: format!("tap-m{number}"), bridge: "vmbr0".into() },
    }
}

/// Everything here runs on one thread, since a network namespace belongs to a thread.
#[test]
fn machines_on_a_bridge_reach_each_other_and_the_host() {
    own_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lab = Lab::new();
        let script = |own: u8, other: u8| {
            format!(
                "ip link set eth0 up; ip addr add 172.32.4.{own}/24 dev eth0\n\
                 for to in 1 {other}; do until ping -c 1 -W 1 172.32.4.$to > /dev/null; do :; done; echo reached $to; done\n"
            )
        };
        let machines: Vec<Machine> = [(11, 12), (12, 11)]
            .map(|(own, other)| lab.machine(&format!("m{own}"), &script(own, other), vec![on_tap(own)]))
            .into();
        let _guards: Vec<Guard> = machines.iter().cloned().map(Guard).collect();
        let first = start(&machines[0]).await;
        let busy = qemu::tap::open("tap-m11", "vmbr0").await.unwrap_err().to_string();
        assert_eq!(busy, "network interface tap-m11: it is in use: another process has it open");
        start(&machines[1]).await;
        for (machine, other) in machines.iter().zip([12, 11]) {
            console_until(machine, "the guest's pings", |text| {
                text.contains("reached 1\r\n") && text.contains(&format!("reached {other}\r\n"))
            })
            .await;
        }
        assert!(interfaces().contains(&"tap-m11".into()));
        // A power cut takes the tap along.
        first.kill().await.unwrap();
        assert!(!interfaces().contains(&"tap-m11".into()), "{:?}", interfaces());
        for machine in &machines {
            destroy(machine).await.unwrap();
        }
        assert_eq!(interfaces(), ["lo", "vmbr0"]);
    });
}

#[test]
fn a_tap_that_cannot_be_made_says_why() {
    own_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let none = tap::open("tap-a", "vmbr7").await.unwrap_err().to_string();
        assert_eq!(none, "network interface tap-a: there is no bridge vmbr7 to put it into");
        let other = tap::open("vmbr0", "vmbr0").await.unwrap_err().to_string();
        assert_eq!(other, "network interface vmbr0: there is an interface of that name that is no tap");
        let no_bridge = tap::open("tap-a", "lo").await.unwrap_err().to_string();
        assert!(no_bridge.starts_with("network interface tap-a: putting it into lo: "), "{no_bridge}");
        // A failure leaves none behind, and neither does a descriptor that is closed.
        assert_eq!(interfaces(), ["lo", "vmbr0"]);
        let open = tap::open("tap-a", "vmbr0").await.unwrap();
        assert!(open.as_raw_fd() > 0 && interfaces().contains(&"tap-a".into()));
        drop(open);
        assert_eq!(interfaces(), ["lo", "vmbr0"]);
        // One that somebody made to stay, as an older QEMU's script would.
        ip("tuntap add dev tap-b mode tap");
        tap::remove("tap-b").await.unwrap();
        let other = tap::remove("vmbr0").await.unwrap_err().to_string();
        assert_eq!(other, "network interface vmbr0: it is no tap, and is left alone");
        assert_eq!(interfaces(), ["lo", "vmbr0"]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_on_a_segment_reach_each_other_without_rights_on_the_host() {
    let lab = Lab::new();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let on_segment = |number: u8| Card {
        mac: Mac([0x52, 0x54, 0, 0x20, 4, number]),
        link: Link::Segment { group: format!("230.0.0.1:{port}").parse().unwrap() },
    };
    let script = |own: u8, other: u8| {
        format!(
            "ip link set eth0 up; ip addr add 172.32.4.{own}/24 dev eth0\n\
             until ping -c 1 -W 1 172.32.4.{other} > /dev/null; do :; done; echo reached {other}\n"
        )
    };
    let machines: Vec<Machine> = [(21, 22), (22, 21)]
        .map(|(own, other)| lab.machine(&format!("m{own}"), &script(own, other), vec![on_segment(own)]))
        .into();
    let _guards: Vec<Guard> = machines.iter().cloned().map(Guard).collect();
    for machine in &machines {
        start(machine).await;
    }
    for (machine, other) in machines.iter().zip([22, 21]) {
        console_until(machine, "the guest's ping", |text| text.contains(&format!("reached {other}\r\n")))
            .await;
    }
    for machine in &machines {
        destroy(machine).await.unwrap();
    }
}
