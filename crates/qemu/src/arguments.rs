//! The argument list of QEMU for a machine. Pure: what the host must bring is passed in.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde_json::json;

use crate::acceleration::Acceleration;
use crate::machine::{Card, Forward, Link, Machine, Protocol};

/// The file descriptor of the monitor's listening socket in QEMU.
pub(crate) const MONITOR_FD: i32 = 3;
/// The file descriptor that holds the lock of the machine's directory, as long as QEMU lives.
pub(crate) const LOCK_FD: i32 = 4;
/// The file descriptor of the first tap; the others follow in the order of the cards.
pub(crate) const FIRST_TAP_FD: i32 = 5;

/// The block node of the machine's disk.
pub(crate) const DISK_NODE: &str = "disk";
/// The name of the file that QEMU writes its process id to and removes when it ends in order.
pub(crate) const PID_FILE: &str = "qemu.pid";

/// The size of the translation cache under emulation, in MiB. The default grows to a gigabyte for each machine.
const TRANSLATION_CACHE: u32 = 64;

/// Returns the part of QEMU's arguments that says how instructions are run.
pub(crate) fn acceleration_arguments(acceleration: &Acceleration) -> Vec<String> {
    let (accelerator, processor) = match acceleration {
        Acceleration::Kvm => ("kvm".into(), "host"),
        Acceleration::Emulation { .. } => (format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE}"), "max"),
    };
    vec!["-accel".into(), accelerator, "-cpu".into(), processor.into()]
}

/// Returns QEMU's arguments; with `load`, it begins with that saved state.
pub(crate) fn arguments(machine: &Machine, acceleration: &Acceleration, load: Option<&str>) -> Vec<OsString> {
    let mut list = List::default();
    list.two("-name", format!("guest={},debug-threads=on", machine.name));
    // Neither QEMU's defaults nor files in /etc decide what the machine is.
    list.one("-nodefaults").one("-no-user-config");
    list.two("-display", "none");
    list.two("-machine", "q35");
    for argument in acceleration_arguments(acceleration) {
        list.one(argument);
    }
    list.two("-smp", machine.cpus.to_string());
    list.two("-m", format!("size={}M", machine.memory));
    list.two("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny");
    list.two("-object", "rng-random,id=rng,filename=/dev/urandom");
    list.two("-device", "virtio-rng-pci,rng=rng");
    list.two("-chardev", option("file,id=console,append=on,path=", &machine.console));
    list.two("-serial", "chardev:console");
    list.two("-chardev", format!("socket,id=monitor,fd={MONITOR_FD},server=on,wait=off"));
    list.two("-mon", "chardev=monitor,mode=control");
    list.two("-pidfile", machine.directory.join(PID_FILE));
    if let Some(disk) = &machine.disk {
        // JSON, so that no character of a path has a meaning.
        let node = json!({
            "driver": "qcow2",
            "node-name": DISK_NODE,
            "discard": "unmap",
            "file": { "driver": "file", "filename": disk.path.to_string_lossy(), "discard": "unmap" },
        });
        list.two("-blockdev", node.to_string());
        list.two("-device", format!("virtio-blk-pci,drive={DISK_NODE},bootindex=1"));
    }
    if let Some(boot) = &machine.boot {
        list.two("-kernel", &boot.kernel);
        if let Some(initrd) = &boot.initrd {
            list.two("-initrd", initrd);
        }
        if !boot.append.is_empty() {
            list.two("-append", &boot.append);
        }
    }
    for entry in &machine.firmware_files {
        list.two("-fw_cfg", option(&format!("name={},file=", entry.name), &entry.file));
    }
    let mut tap = FIRST_TAP_FD;
    for (number, card) in machine.cards.iter().enumerate() {
        list.two("-netdev", network(machine, card, number, &mut tap));
        // Without its ROM a card does not try to boot from the network.
        list.two("-device", format!("virtio-net-pci,netdev=n{number},mac={},romfile=", card.mac));
    }
    if let Some(tag) = load {
        list.two("-loadvm", tag);
    }
    list.0
}

fn network(machine: &Machine, card: &Card, number: usize, tap: &mut i32) -> String {
    match &card.link {
        Link::User { network, forwards } => {
            let mut text =
                format!("user,id=n{number},net={},hostname={},ipv6=off", network.trunc(), machine.name);
            for Forward { protocol, host, guest } in forwards {
                let protocol = match protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                };
                text.push_str(&format!(",hostfwd={protocol}:{}:{}-:{guest}", host.ip(), host.port()));
            }
            text
        }
        Link::Tap { .. } => {
            let fd = *tap;
            *tap += 1;
            format!("tap,id=n{number},fd={fd},vhost=off")
        }
        // The local address keeps the packets on the loopback.
        Link::Segment { group } => format!("socket,id=n{number},mcast={group},localaddr=127.0.0.1"),
    }
}

/// Appends a path to an option; a comma in it would begin the next option unless it is doubled.
fn option(prefix: &str, path: &Path) -> OsString {
    let mut bytes = prefix.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[derive(Default)]
struct List(Vec<OsString>);

impl List {
    fn one(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.0.push(argument.into());
        self
    }

    fn two(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.one(option).one(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::DirectBoot;
    use crate::machine::tests::machine;

    /// One line an option, as people write them.
    fn lines(list: &[OsString]) -> String {
        let mut text = String::new();
        for argument in list {
            let argument = argument.to_str().unwrap();
            text.push(if argument.starts_with('-') && !text.is_empty() { '\n' } else { ' ' });
            text.push_str(argument);
        }
        text.trim().to_owned()
    }

    #[test]
    fn a_machine_with_a_disk_and_a_tap() {
        insta::assert_snapshot!(lines(&arguments(&machine(), &Acceleration::Kvm, None)));
    }

    #[test]
    fn a_machine_with_a_kernel_and_a_segment_from_a_saved_state() {
        let mut machine = machine();
        machine.disk = None;
        machine.boot = Some(DirectBoot {
            kernel: "/k/vmlinuz".into(),
            initrd: Some("/k/initrd".into()),
            append: "console=ttyS0 quiet".into(),
        });
        machine.cards[1].link = Link::Segment { group: "230.0.0.1:21000".parse().unwrap() };
        let emulation = Acceleration::Emulation { reason: "no device".into() };
        insta::assert_snapshot!(lines(&arguments(&machine, &emulation, Some("ready"))));
    }
}
