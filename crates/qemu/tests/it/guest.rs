//! The guest: Debian's cloud kernel, and an initial file system of busybox and a script.
//!
//! The script loads drivers and then does what the firmware file `opt/test/script` says.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Drivers, in the order in which they need each other.
const MODULES: &str = "virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk \
                       failover net_failover virtio_net qemu_fw_cfg button evdev";

const INIT: &str = r"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/ttyS0 >/dev/ttyS0 2>&1
while read module; do insmod /modules/$module.ko; done < /modules/order
# What the power button does: its event ends the read.
for events in /dev/input/event*; do
    (head -c 24 $events > /dev/null && echo button-pressed && poweroff -f) &
done
. /sys/firmware/qemu_fw_cfg/by_name/opt/test/script/raw
echo script-ended
while :; do sleep 1000; done
";

/// Where tests/guest/fetch put the kernel.
fn parts() -> PathBuf {
    let fixtures = std::env::var_os("E2E_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/e2e"), PathBuf::from);
    let parts = fixtures.join("guest");
    assert!(
        parts.join("vmlinuz").exists() && Path::new("/bin/busybox").exists(),
        "there is no guest in {}: run tests/guest/fetch target/e2e/guest, and apt-get install busybox-static",
        parts.display()
    );
    parts.canonicalize().unwrap()
}

/// Returns the kernel.
pub(crate) fn kernel() -> PathBuf {
    parts().join("vmlinuz")
}

/// Returns the initial file system.
pub(crate) fn initrd() -> Vec<u8> {
    let modules = parts().join("modules");
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "proc", "sys", "tmp"] {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("bin/busybox", 0o100_755, &std::fs::read("/bin/busybox").unwrap());
    let mut order = String::new();
    for name in MODULES.split_whitespace() {
        let contents = std::fs::read(modules.join(format!("{name}.ko"))).unwrap();
        archive.add(&format!("modules/{name}.ko"), 0o100_644, &contents);
        writeln!(order, "{name}").unwrap();
    }
    archive.add("modules/order", 0o100_644, order.as_bytes());
    archive.add("init", 0o100_755, INIT.as_bytes());
    archive.add("TRAILER!!!", 0, &[]);
    archive.0
}

/// A cpio archive of the kind "newc", the one that the kernel unpacks.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let (inode, links) = (self.0.len(), 1);
        let fields = [inode, mode as usize, 0, 0, links, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08x}").bytes());
        }
        self.0.extend(name.bytes());
        self.0.push(0);
        self.align();
        self.0.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
